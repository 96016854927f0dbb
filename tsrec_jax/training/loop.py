"""The training loop: steps, progress, validation, early stop, checkpoints, resume, and what ends it before its time.

Metrics are fetched one step late, so that the host prepares the next batch while the device works.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx
from jax.sharding import Mesh

from tsrec_jax.data.input import TrainBatches
from tsrec_jax.data.sid_paths import SidPaths
from tsrec_jax.errors import Stopped, no_space
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.sharding import named_sharding
from tsrec_jax.training.checkpoints import Checkpoints, Progress
from tsrec_jax.training.loss import LossSettings
from tsrec_jax.training.meter import Meter
from tsrec_jax.training.metrics_log import ONLY_LOSSES, MetricsLog, Recording, clock
from tsrec_jax.training.profile import Profiler
from tsrec_jax.training.step import (
    OptimiserSettings,
    TrainState,
    init_state,
    learning_rate_schedule,
    make_optimiser,
    make_train_step,
)
from tsrec_jax.training.stopping import StopSignals
from tsrec_jax.training.watch import LossWatch, refusal

Validate = Callable[[Decoder], Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class LoopSettings:
    """When things happen, counted in optimiser steps.

    Attributes:
      max_steps: steps of the whole run.
      log_every: a metrics row and a progress line.
      validate_every: a validation; 0 means only after the last step.
      checkpoint_every: a checkpoint for resuming; 0 means only after the last step.
      keep: resume checkpoints kept; a damaged one falls back to the one before it.
      patience: validations without improvement before the run stops; 0 means never.
      select_by: the validation metric that picks the best weights.
      select_highest: True for a rate (HR@10), False for a loss.
      explode_factor: a loss this many times the usual one stops the run (`watch.LossWatch`); 0 never does.
    """

    max_steps: int
    log_every: int = 10
    validate_every: int = 0
    checkpoint_every: int = 0
    keep: int = 2
    patience: int = 0
    select_by: str = "valid/loss"
    select_highest: bool = False
    explode_factor: float = 10.0


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """How a training run ended.

    Attributes:
      model: the decoder with the best weights.
      steps: optimiser steps done.
      best_step: the step whose weights were kept.
      best_value: its selection metric, in the metric's own sign.
      stopped_early: patience ran out before `max_steps`.
      seconds: wall time of training, validation included, resumed parts added.
    """

    model: Decoder
    steps: int
    best_step: int
    best_value: float
    stopped_early: bool
    seconds: float


def train(
    model: Decoder,
    batches: TrainBatches,
    validate: Validate,
    *,
    task_names: tuple[str, ...],
    old_size: int,
    loss: LossSettings,
    optimiser: OptimiserSettings,
    loop: LoopSettings,
    folder: pathlib.Path,
    checkpoints_at: epath.Path | None = None,
    before_save: Callable[[], None] = lambda: None,
    identity: Mapping[str, Any],
    at_first: Mapping[str, Any] | None = None,
    mesh: Mesh | None = None,
    label: str = "train",
    report: Callable[[str], None] = print,
    recording: Recording = ONLY_LOSSES,
    paths: SidPaths | None = None,
) -> TrainResult:
    """Trains until `max_steps` or until patience runs out; resumes from `folder/checkpoints` when it holds any.

    SIGTERM and Ctrl-C end it after the current step, whose state is saved.

    Args:
      model: the decoder; its arrays are donated, use the returned model afterwards.
      batches: packed batches by number, with a leading accumulation axis.
      validate: maps the current model to named metrics, among them `loop.select_by`.
      task_names: names of the task ids, for the logs.
      old_size: vocabulary rows the base model brought along (the freeze boundary).
      loss, optimiser, loop: settings.
      folder: receives `checkpoints/`, `metrics.jsonl` and TensorBoard events.
      checkpoints_at: where the checkpoints go instead, when that is not this machine.
      before_save: is called before a checkpoint is written, so that what it belongs to is safe by then.
      identity: JSON facts that a resumed checkpoint must agree with.
      at_first: what those of them were that a checkpoint of older code lacks.
      mesh: batches are laid over its data and fsdp axes; None for one device.
      label: first word of the progress lines.
      report: receives progress lines.
      recording: what is recorded beside the losses.
      paths: those that the batches were made with, if SID tokens are learned among their siblings.

    Raises:
      Stopped: a signal ended it.
      UserError: the loss or a norm is not finite or the loss has exploded, in which case the batch is saved and its
        examples named; or the folder holds checkpoints of another run or none that is whole; or the disk is full.
    """
    transform = make_optimiser(optimiser, old_size)
    vocabulary = {} if model.num_tokens is None else {"vocabulary.tokens": model.num_tokens}
    graphdef, state = init_state(model, transform, optimiser.freeze)
    del model
    # Committed to its devices, as a restored state is: the compilation cache then serves a resumed run too.
    state = jax.device_put(state, jax.tree.map(lambda leaf: leaf.sharding, state))
    step_fn = make_train_step(graphdef, state, transform, loss, learning_rate_schedule(optimiser), old_size, paths)

    where = checkpoints_at or epath.Path(folder.absolute() / "checkpoints")
    with StopSignals() as signals, Checkpoints(where, keep=loop.keep) as checkpoints:
        facts = {**identity, **vocabulary}
        state, progress = checkpoints.restore(state, facts, lambda line: report(f"{label}: {line}"), at_first)
        step = int(state.step)
        if step:
            report(f"{label}: resuming after step {step} of {loop.max_steps}")
        log = MetricsLog(folder, resume_step=step, wandb=recording.wandb)
        started = time.perf_counter() - progress.seconds
        meter = Meter(task_names, step, loop.max_steps, recording.step_flops)
        watch = LossWatch(loop.explode_factor, progress.losses)
        pending: tuple[int, dict[str, jax.Array]] | None = None

        def settle() -> None:
            """Fetches the metrics of the step before, and gives up where they are beyond use."""
            nonlocal pending
            if pending is None:
                return
            number, metrics = pending
            pending = None
            values = meter.add(number, jax.device_get(metrics))
            trouble = watch.add(number, values)
            if trouble is not None:
                log.write(number, values)
                checkpoints.finish()
                raise refusal(trouble, folder, batches, label)
            if number % loop.log_every == 0 or number == loop.max_steps:
                values |= meter.rates()
                log.write(number, values)
                report(f"{label} " + meter.line(number, values))

        with (
            _closed(log, folder),
            contextlib.closing(Profiler(folder, recording.profile)) as profiler,
            contextlib.closing(batches.from_step(step)) as iterator,
        ):
            stop, told = _patience_over(progress, loop), False
            while step < loop.max_steps and not stop and not told:
                profiler.before(step + 1, state)
                state, metrics = step_fn(state, put_batch(meter.next_of(iterator), mesh))
                settle()
                step += 1
                pending = (step, metrics)
                last, told = step == loop.max_steps, signals.reached(step)
                if last or _due(step, loop.validate_every):
                    settle()
                    progress = _validated(
                        validate, graphdef, state, progress, loop, checkpoints, log, report, label, step
                    )
                    recording.after_validation()
                    stop = _patience_over(progress, loop)
                    meter.pause()
                if last or stop or told or _due(step, loop.checkpoint_every):
                    settle()
                    if last or stop or told or watch.calm:
                        seconds = time.perf_counter() - started
                        progress = dataclasses.replace(progress, losses=watch.losses, seconds=seconds)
                        before_save()
                        checkpoints.save(state, progress)
            settle()
        if told or signals.asked:
            checkpoints.finish()
            raise Stopped(
                f"{label}: stopped by {signals.name} after step {step} of {loop.max_steps}, which is saved; "
                "the same command goes on from there"
            )
        best_step, best = checkpoints.load_best(nnx.merge(graphdef, state.trained, state.frozen))
    seconds = time.perf_counter() - started
    value = -progress.best_value if loop.select_highest else progress.best_value
    report(f"{label}: {step} steps in {clock(seconds)}; best {loop.select_by} {value:.4f} at step {best_step}")
    return TrainResult(best, step, best_step, value, stop and step < loop.max_steps, seconds)


@contextlib.contextmanager
def _closed(log: MetricsLog, folder: pathlib.Path) -> Iterator[None]:
    """Closes the log in the end. A disk that is full is the user's to mend, and the first thing that fails is told."""
    try:
        yield
        log.close()
    except BaseException as error:
        with contextlib.suppress(OSError):
            log.close()
        raise (no_space(error, folder) if isinstance(error, OSError) else None) or error from None


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh | None, axis: int = 1) -> dict[str, jax.Array]:
    """Lays a host batch over the mesh's data and fsdp axes; each process gives its own rows (`sharding.process_rows`).

    Args:
      batch: named arrays.
      mesh: None for one device.
      axis: of the rows; behind the axis A in training.
    """
    sharding = named_sharding(mesh, *(None,) * axis, "batch")
    if sharding is None:
        return {name: jax.device_put(value) for name, value in batch.items()}
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _patience_over(progress: Progress, loop: LoopSettings) -> bool:
    return loop.patience > 0 and progress.bad_checks >= loop.patience


def _validated(
    validate: Validate,
    graphdef: nnx.GraphDef,
    state: TrainState,
    progress: Progress,
    loop: LoopSettings,
    checkpoints: Checkpoints,
    log: MetricsLog,
    report: Callable[[str], None],
    label: str,
    step: int,
) -> Progress:
    """Validates the current weights, logs, keeps them when they are the best so far, and returns the new progress."""
    model = nnx.merge(graphdef, state.trained, state.frozen)
    values = dict(validate(model))
    log.write(step, values)
    value = -values[loop.select_by] if loop.select_highest else values[loop.select_by]
    improved = value < progress.best_value
    shown = {name.removeprefix("valid/"): number for name, number in values.items() if name.startswith("valid/")}
    listed = "  ".join(f"{name} {number:.4f}" for name, number in shown.items())
    report(f"{label} step {step}: validation {listed}{'  (best so far)' if improved else ''}")
    if not improved:
        return dataclasses.replace(progress, bad_checks=progress.bad_checks + 1)
    checkpoints.save_best(step, model)
    return dataclasses.replace(progress, best_step=step, best_value=value, bad_checks=0)
