"""The training loop: steps, progress, validation, early stop, checkpoints, resume, and interruptions.

It minimises whatever the given step minimises. Metrics are fetched one step late, so that the host prepares the next
batch while the device works.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from tsrec_jax.errors import Stopped, no_space
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.sharding import mesh_of, named_sharding
from tsrec_jax.progress import report, stage
from tsrec_jax.training.checkpoints import Checkpoints, Position
from tsrec_jax.training.meter import Meter
from tsrec_jax.training.metrics_log import MetricsLog, clock
from tsrec_jax.training.profile import Profiler
from tsrec_jax.training.settings import TrainSettings
from tsrec_jax.training.step import Batches, Step, TrainState
from tsrec_jax.training.stopping import StopSignals
from tsrec_jax.training.wandb_log import WandbSettings
from tsrec_jax.training.watch import LossWatch, refusal

Validate = Callable[[Decoder], Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run: where it is stored, what it belongs to, and what is recorded in addition to its metrics.

    Attributes:
      folder: receives `checkpoints/`, `metrics.jsonl` and TensorBoard events.
      identity: JSON facts that a resumed checkpoint must agree with.
      label: first word of the progress lines.
      checkpoints_at: where the checkpoints go instead, if not on this machine.
      before_save: called before a checkpoint is written, so that what the checkpoint belongs to is already safe.
      after_validation: called once a validation is in the log, to draw curves.
      step_flops: model FLOPs of one optimiser step over all devices, for MFU; 0: not known.
      profile: the steps to trace.
      wandb: the Weights & Biases run that also receives the metrics; None: none.
      validate_every: steps between validations, with one after the last step; None: as many validations as the settings
        ask for.
      start_competes: whether the starting weights are validated too, as step 0, and count as the best until others beat
        them.
    """

    folder: pathlib.Path
    identity: Mapping[str, Any]
    label: str = "train"
    checkpoints_at: epath.Path | None = None
    before_save: Callable[[], None] = lambda: None
    after_validation: Callable[[], None] = lambda: None
    step_flops: float = 0.0
    profile: range = range(0)
    wandb: WandbSettings | None = None
    validate_every: int | None = None
    start_competes: bool = False

    @property
    def checkpoints(self) -> epath.Path:
        """The folder of the checkpoints."""
        return self.checkpoints_at or epath.Path(self.folder.absolute() / "checkpoints")


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """How a training run ended.

    Attributes:
      model: the decoder with the best weights.
      steps: optimiser steps done.
      best_step: the step whose weights were kept; 0: the starting weights.
      best_value: its selection metric, with the metric's own sign.
      stopped_early: whether patience ran out before `max_steps`.
      seconds: wall time of training, including validation and the parts before each resume.
    """

    model: Decoder
    steps: int
    best_step: int
    best_value: float
    stopped_early: bool
    seconds: float


def train(
    step: Step, state: TrainState, batches: Batches, validate: Validate, settings: TrainSettings, run: Run
) -> TrainResult:
    """Trains until `max_steps` or until patience runs out; resumes if the run's folder holds checkpoints.

    SIGTERM and Ctrl-C end it after the current step, whose state is saved.

    Args:
      step: how one optimiser step is taken.
      state: the starting state; its arrays are donated, so use the returned model afterwards.
      batches: packed batches by number, with a leading accumulation axis.
      validate: maps the current model to named metrics, among them `valid/` + `settings.select_by`.
      settings: when to validate, save and stop; `max_steps` must be above 0.
      run: where the run is stored.

    Raises:
      Stopped: a signal ended it.
      UserError: the loss or a norm is not finite or the loss has exploded, in which case the batch is saved and its
        examples named; or the folder's checkpoints belong to another run or are damaged, so that none can be used; or
        the disk is full.
    """
    label, last = run.label, settings.max_steps
    validate_every = run.validate_every
    if validate_every is None:
        validate_every = math.ceil(last / settings.validations) if settings.validations else 0
    with StopSignals() as signals, Checkpoints(run.checkpoints, keep=settings.keep) as checkpoints:
        tokens = state.model.num_tokens
        facts = {**run.identity, **({} if tokens is None else {"vocabulary.tokens": tokens})}
        with stage(label):
            state, position = checkpoints.restore(state, facts)
        mesh, done = mesh_of(state.trained), int(state.step)
        if done:
            report(f"{label}: resuming after step {done} of {last}")
        started = time.perf_counter() - position.seconds
        log = MetricsLog(run.folder, resume_step=done, wandb=run.wandb)
        with (
            _closed(log, run.folder),
            contextlib.closing(Profiler(run.folder, run.profile)) as profiler,
            contextlib.closing(batches.from_step(done)) as iterator,
        ):
            journal = _Journal(step.parts, batches, settings, run, checkpoints, log, done, position)
            told = False
            if run.start_competes and not done:
                journal.validated(0, state.model, validate)
            while done < last and not journal.patience_is_over and not told:
                profiler.before(done + 1, state)
                state, metrics = step.update(state, put_batch(journal.meter.next_of(iterator), mesh))
                journal.settle()
                done += 1
                journal.note(done, metrics)
                told = signals.reached(done)
                if done == last or _due(done, validate_every):
                    journal.settle()
                    journal.validated(done, state.model, validate)
                ends = done == last or journal.patience_is_over or told
                if ends or _due(done, settings.checkpoint_every):
                    journal.settle()
                    if ends or journal.watch.calm:
                        run.before_save()
                        checkpoints.save(state, journal.position(time.perf_counter() - started))
            journal.settle()
        if told or signals.asked:
            checkpoints.finish()
            raise Stopped(
                f"{label}: stopped by {signals.name} after step {done} of {last}, which is saved; "
                "the same command goes on from there"
            )
        best_step, best = checkpoints.load_best(state.model)
    seconds = time.perf_counter() - started
    value = journal.best_value
    best_words = f"best valid/{settings.select_by} {value:.4f} at step {best_step}"
    if best_step == 0:
        best_words += ", the weights it started from: none after them were better"
    report(f"{label}: {done} steps in {clock(seconds)}; {best_words}")
    return TrainResult(best, done, best_step, value, journal.patience_is_over and done < last, seconds)


class _Journal:
    """The record of the steps so far: their metrics, one step late, the best validation, and whether all is well."""

    def __init__(
        self,
        parts: tuple[str, ...],
        batches: Batches,
        settings: TrainSettings,
        run: Run,
        checkpoints: Checkpoints,
        log: MetricsLog,
        done: int,
        position: Position,
    ):
        self._batches, self._settings, self._run = batches, settings, run
        self._checkpoints, self._log, self._position = checkpoints, log, position
        self.meter = Meter(parts, done, settings.max_steps, run.step_flops)
        self.watch = LossWatch(settings.explode_factor, position.losses)
        self._pending: tuple[int, dict[str, jax.Array]] | None = None

    def note(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Keeps the metrics of a step until `settle`."""
        self._pending = step, metrics

    def settle(self) -> None:
        """Fetches and logs the metrics that were kept.

        Raises:
          UserError: they show that training has failed.
        """
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        values = self.meter.add(step, jax.device_get(metrics))
        fault = self.watch.add(step, values)
        if fault is not None:
            self._log.write(step, values)
            self._checkpoints.finish()
            raise refusal(fault, self._run.folder, self._batches, self._run.label)
        if step % self._settings.log_every == 0 or step == self._settings.max_steps:
            values |= self.meter.rates()
            self._log.write(step, values)
            report(f"{self._run.label} " + self.meter.line(step, values))

    def validated(self, step: int, model: Decoder, validate: Validate) -> None:
        """Validates a model, logs the result, and keeps the model's weights if they are the best so far."""
        values = dict(validate(model))
        self._log.write(step, values)
        value = self._signed(values[f"valid/{self._settings.select_by}"])
        improved = value < self._position.best_value
        shown = {name.removeprefix("valid/"): number for name, number in values.items() if name.startswith("valid/")}
        listed = "  ".join(f"{name} {number:.4f}" for name, number in shown.items())
        best = "  (best so far)" if improved else ""
        report(f"{self._run.label} step {step}: validation {listed}{best}")
        if improved:
            self._checkpoints.save_best(step, model)
            self._position = dataclasses.replace(self._position, best_step=step, best_value=value, bad_checks=0)
        else:
            self._position = dataclasses.replace(self._position, bad_checks=self._position.bad_checks + 1)
        self._run.after_validation()
        self.meter.pause()

    @property
    def patience_is_over(self) -> bool:
        """Whether too many validations in a row brought no improvement."""
        return 0 < self._settings.patience <= self._position.bad_checks

    @property
    def best_value(self) -> float:
        """The selection metric of the best weights, with its own sign."""
        return self._signed(self._position.best_value)

    def position(self, seconds: float) -> Position:
        """What a checkpoint stores in addition to the state, after this much training time."""
        return dataclasses.replace(self._position, losses=self.watch.losses, seconds=seconds)

    def _signed(self, value: float) -> float:
        return value if self._settings.select_by == "loss" else -value  # a rate is better when it is higher


@contextlib.contextmanager
def _closed(log: MetricsLog, folder: pathlib.Path) -> Iterator[None]:
    """Closes the log at the end. A full disk becomes a UserError, and the first error to occur is the one raised."""
    try:
        yield
        log.close()
    except BaseException as error:
        with contextlib.suppress(OSError):
            log.close()
        raise (no_space(error, folder) if isinstance(error, OSError) else None) or error from None


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh | None, axis: int = 1) -> dict[str, jax.Array]:
    """Splits a host batch over the mesh's data and fsdp axes; each process gives its rows (`sharding.process_rows`).

    Args:
      batch: named arrays.
      mesh: None for one device.
      axis: the axis of the rows; in training it follows the axis A.
    """
    sharding = named_sharding(mesh, *(None,) * axis, "batch")
    if sharding is None:
        return {name: jax.device_put(value) for name, value in batch.items()}
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
