"""Training one recommender: examples, packed batches, validation and the loop, from an assembly."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from jax.sharding import Mesh

from tsrec_jax.data.held_out import selection_split
from tsrec_jax.data.input import TrainBatches, packed_batches
from tsrec_jax.data.interactions import Interactions, spread
from tsrec_jax.data.target_ranks import find_targets
from tsrec_jax.data.tasks.task import TaskInputs
from tsrec_jax.decoding.generate import search_all
from tsrec_jax.errors import UserError
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.inference import InferenceModel
from tsrec_jax.models.local_devices import on_own_devices
from tsrec_jax.models.sharding import MESH_AXES, parts_of, process_rows
from tsrec_jax.pipeline.assemble import Assembly
from tsrec_jax.pipeline.batches import TrainingData, batches_of, training_data
from tsrec_jax.pipeline.start import start_of
from tsrec_jax.pipeline.workdir import Workdir
from tsrec_jax.planning.accounting import MeshShape, parameter_count, step_flops
from tsrec_jax.planning.chips import GIB
from tsrec_jax.planning.estimate import estimate_lines, step_shape
from tsrec_jax.planning.feasibility import Setup
from tsrec_jax.processes import first, first_makes
from tsrec_jax.settings import Settings
from tsrec_jax.training.drift import Drift
from tsrec_jax.training.loop import Run, TrainResult, train
from tsrec_jax.training.loss import SftLoss
from tsrec_jax.training.meter import peak_memory
from tsrec_jax.training.metrics_log import read_metrics
from tsrec_jax.training.settings import TrainSettings
from tsrec_jax.training.step import first_step_and_state
from tsrec_jax.training.validation import Validation
from tsrec_jax.training.wandb_log import WandbSettings


@dataclasses.dataclass(frozen=True)
class TrainedRecommender:
    """A training that has ended.

    Attributes:
      result: of the loop.
      parameters: of the model, its SID rows included.
      step_flops: model FLOPs of one optimiser step over all devices.
      start: of `start.Start`, what is known of the model before its first step.
    """

    result: TrainResult
    parameters: int
    step_flops: float
    start: Mapping[str, Any]


def train_recommender(
    config: Settings,
    assembly: Assembly,
    workdir: Workdir,
    folder: pathlib.Path,
    identity: Mapping[str, Any],
    label: str,
    report: Callable[[str], None],
    profile: range = range(0),
) -> TrainedRecommender:
    """Trains the assembly's model in `folder`, a part of `workdir` or all of it, and returns the best weights.

    What it will take is printed before, from the same arithmetic as the verb `plan`; and after, where the device tells
    it, what it took of memory. `profile` are the steps of which a trace is written.
    """
    dataset = assembly.dataset
    data = training_data(config, dataset, assembly.builder, assembly.base_vocab_size, report)
    counts = ", ".join(f"{task} {len(rows)}" for task, rows in data.examples.items())
    report(f"{label}: training rows: {counts}")
    rows = _rows_per_microbatch(config.train, assembly.mesh)
    batches = _recorded_batches(config, assembly, data, rows, folder / "records")
    settings = config.train
    settings = dataclasses.replace(settings, max_steps=settings.max_steps or batches.steps(settings.epochs))
    setup = _setup(config, assembly, data)
    for line in estimate_lines(config.model.path, setup):
        report(f"{label}: {line}")
    flops = step_flops(setup.model, setup.step).model

    start = start_of(config, assembly, rows, data.slots, label, report)
    assembly = dataclasses.replace(assembly, model=start.model)
    validation = _validation(config, assembly, rows, data)
    loss = SftLoss(data.mix.weights, settings, data.paths)
    step, state = first_step_and_state(assembly.model, loss, settings, assembly.base_vocab_size)
    run = Run(
        folder,
        identity,
        label,
        report,
        checkpoints_at=workdir.checkpoints(folder),
        before_save=workdir.push,
        step_flops=flops,
        profile=profile,
    )
    if first():  # process 0 sends and draws, each process traces itself
        project = settings.wandb_project
        wandb = WandbSettings(project, f"{folder.name} {label}", dict(config.given)) if project else None
        run = dataclasses.replace(run, after_validation=functools.partial(_draw, folder, label), wandb=wandb)
    result = train(step, state, batches, validation, settings, run)
    _report_peak(setup, label, report)
    return TrainedRecommender(result, parameter_count(setup.model), flops, start.facts)


def _recorded_batches(
    config: Settings, assembly: Assembly, data: TrainingData, rows: int, folder: pathlib.Path
) -> TrainBatches:
    """This process's batches, from records of all examples in a folder, which are written if they are not there."""
    from tsrec_jax.data.records import open_records, write_records  # with tensorflow-datasets

    first_makes(lambda: write_records(data.examples, folder))
    part = process_rows(assembly.mesh, rows // config.train.rows_per_group)
    return batches_of(config, data, open_records(folder), rows, part)


def _setup(config: Settings, assembly: Assembly, data: TrainingData) -> Setup:
    """What is trained on what, as `plan` sees it."""
    sizes = (1, 1, 1) if assembly.mesh is None else (assembly.mesh.shape[axis] for axis in MESH_AXES)
    model, tokens = assembly.model, len(assembly.tokenizer)
    step = step_shape(config, data.slots, data.sid_tokens, model.attention)
    return Setup(model.config, tokens, step, MeshShape(*sizes))


def _draw(folder: pathlib.Path, label: str) -> None:
    from tsrec_jax.evaluation.plots import plot_training  # with matplotlib

    plot_training({label: read_metrics(folder)}, folder / "plots" / "training.png")


def _report_peak(setup: Setup, label: str, report: Callable[[str], None]) -> None:
    peak = peak_memory()
    if peak is not None:
        estimate = setup.memory().total
        report(
            f"{label}: a device held {peak / GIB:.2f} GiB at most; {estimate / GIB:.2f} GiB were estimated for a step "
            f"({estimate / peak - 1:+.0%})"
        )


def _rows_per_microbatch(settings: TrainSettings, mesh: Mesh | None) -> int:
    """Rows of one micro-batch, over all processes.

    Raises:
      UserError: they do not divide over the mesh.
    """
    rows, shards = settings.rows_per_microbatch, parts_of(mesh, "batch")
    if rows % (shards * settings.rows_per_group):
        raise UserError(
            f"config.train.batch_tokens={settings.batch_tokens} makes {rows} rows a step, which do not divide over "
            f"rows_per_group x data x fsdp = {settings.rows_per_group} x {shards}; use a multiple of "
            f"sequence_length x accumulation x {shards * settings.rows_per_group}"
        )
    return rows


def _validation(config: Settings, assembly: Assembly, rows: int, data: TrainingData) -> Validation:
    """Next-SID loss and HR@10 on the selection split, over rows spread over it."""
    settings = config.train
    select_by = selection_split(assembly.dataset)
    inputs = TaskInputs(assembly.dataset, select_by, assembly.builder)
    valid = config.tasks.next_sid.examples(inputs)
    valid = [valid[number] for number in spread(len(valid), settings.valid_rows or len(valid))]
    part = process_rows(assembly.mesh, rows // settings.rows_per_group)
    layout = (settings.sequence_length, rows, data.slots, settings.rows_per_group)
    batches = list(packed_batches(valid, *layout, part, data.paths))
    drift = Drift(assembly.model, assembly.base_vocab_size, assembly.dataset.catalogue.token_levels)
    searched = assembly.dataset.splits[select_by].spread(settings.valid_beam_rows)
    search = _hit_rate(config, assembly, searched) if len(searched) else None
    return Validation(batches, drift, search, settings.loss_chunk, data.paths)


def _hit_rate(config: Settings, assembly: Assembly, searched: Interactions) -> Callable[[Decoder], float]:
    """HR@10 of a model on these rows, by the search of the evaluation."""
    catalogue, builder = assembly.dataset.catalogue, assembly.builder
    prompts = builder.prompts_next_sid(
        [[catalogue.sid(item) for item in history] for history in searched.histories], catalogue.num_levels
    )
    prefix = builder.prefix("next_sid")

    def hit_rate(model: Decoder) -> float:
        with on_own_devices(model) as own:
            found = search_all(
                InferenceModel.of(own),
                assembly.trie,
                catalogue,
                prompts,
                beams=config.eval.beams,
                batch_size=config.eval.batch_size,
                prefix=prefix,
                normaliser=config.objective,
            )
        predicted = [[sid for sid, _ in row] for row in found]
        return find_targets(predicted, searched.targets, catalogue).mean("sid", "HR@10")

    return hit_rate
