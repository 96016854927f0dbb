"""The stage `train`: examples, packed batches, validation and the loop, and which training is finished."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from tsrec_jax.data.dataset import Dataset
from tsrec_jax.data.held_out import selection_split
from tsrec_jax.data.input import TrainBatches, packed_batches
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.target_ranks import find_targets
from tsrec_jax.errors import UserError
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.sharding import MESH_AXES, process_rows
from tsrec_jax.pipeline.batches import TrainingData, batches_of, spread_examples, training_data
from tsrec_jax.pipeline.dense import dense_shape, kept_text_vectors, known_items
from tsrec_jax.pipeline.job import Job
from tsrec_jax.pipeline.recommender_parts import RecommenderParts, load_parts
from tsrec_jax.pipeline.start import start_of
from tsrec_jax.pipeline.training_run import facts_of, run_of, searched_by, weights_are_there
from tsrec_jax.planning.accounting import MeshShape, step_flops
from tsrec_jax.planning.chips import GIB
from tsrec_jax.planning.estimate import estimate_lines, step_shape
from tsrec_jax.planning.feasibility import Setup, refuse_mesh
from tsrec_jax.processes import first_makes
from tsrec_jax.progress import report
from tsrec_jax.settings import Settings
from tsrec_jax.training.checkpoints import Checkpoints
from tsrec_jax.training.dense_loss import DenseLoss
from tsrec_jax.training.drift import Drift
from tsrec_jax.training.loop import train
from tsrec_jax.training.loss import SftLoss
from tsrec_jax.training.meter import peak_memory
from tsrec_jax.training.step import Loss, first_step_and_state
from tsrec_jax.training.validation import Validation

STAGE = "train"


def train_recommender(job: Job, profile: range = range(0)) -> None:
    """Trains the recommender, or skips it if it is already trained.

    Before training, the estimated cost is reported, with the same arithmetic as the verb `plan`; afterwards, the memory
    that was used, if the device tells it.

    Args:
      job: what is trained.
      profile: the steps for which a trace is written.

    Raises:
      UserError: the data lacks what a task needs, or the rows of a step do not divide evenly over the mesh.
    """
    if not job.settings.fusion.model:
        report("train: config.fusion.model=False, nothing is trained")
        return
    if job.settings.model.trained:
        report("train: config.model.trained=True, nothing is trained")
        return
    if _is_trained(job):
        report("train: finished before, skipped")
        return
    facts = _train(job, starting_parts(job), profile)
    job.workdir.finish(STAGE, job.identity, facts)


def trained_parts(job: Job) -> RecommenderParts:
    """The parts of the recommender, with the trained weights in the model.

    Raises:
      UserError: nothing is trained with these settings.
    """
    if job.settings.model.trained:
        return starting_parts(job)
    if not _is_trained(job):
        raise UserError(f"{job.workdir.path}: nothing is trained with these settings; run the verb `train` first")
    parts = starting_parts(job)
    with Checkpoints(job.workdir.checkpoints(job.workdir.path)) as checkpoints:
        _, model = checkpoints.load_best(parts.model)
    return dataclasses.replace(parts, model=model)


def starting_parts(job: Job) -> RecommenderParts:
    """The parts before training; the vectors of the texts are computed once for all stages."""
    return load_parts(job.settings, job.dataset, job.base, functools.partial(kept_text_vectors, job.workdir))


def trained_facts(job: Job) -> dict[str, Any] | None:
    """The facts that a finished training left in the workdir; None if none has finished with these settings."""
    return job.workdir.finished(STAGE, job.identity)


def _is_trained(job: Job) -> bool:
    """Whether training has finished and its weights are still there; without them it counts as unfinished."""
    return weights_are_there(job, STAGE, job.workdir.path, trained_facts(job))


def _train(job: Job, parts: RecommenderParts, profile: range) -> dict[str, Any]:
    """Trains the model of the parts and returns the facts of the finished stage."""
    settings, folder = job.settings, job.workdir.path
    data = training_data(settings, parts.dataset, parts.builder, parts.base_vocab_size, job.vectors)
    report(f"train: training rows: {', '.join(f'{task} {len(rows)}' for task, rows in data.examples.items())}")
    setup, rows = _setup(settings, parts, data), settings.train.rows_per_microbatch
    refuse_mesh(setup)
    batches = _recorded_batches(settings, parts, data, rows, folder / "records")
    limits = settings.train
    limits = dataclasses.replace(limits, max_steps=limits.max_steps or batches.steps(limits.epochs))
    for line in estimate_lines(settings.model.path, setup):
        report(f"train: {line}")
    flops = step_flops(setup.model, setup.step).model

    start = start_of(job, parts, rows, data.slots)
    parts = dataclasses.replace(parts, model=start.model)
    validation = _validation(settings, parts, rows, data)
    step, state = first_step_and_state(
        parts.model, _loss(settings, parts.dataset, data), limits, parts.base_vocab_size, settings.seed
    )
    run = run_of(job, STAGE, folder, job.identity, flops, profile)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(start.model, nnx.Param)))
    result = train(step, state, batches, validation, limits, run)
    _report_peak(setup)
    return {**facts_of(result, flops), "parameters": parameters, "start": start.facts}


def _loss(settings: Settings, dataset: Dataset, data: TrainingData) -> Loss:
    sids = SftLoss(data.mix.weights, settings.train, data.paths)
    if not settings.dense.weight:
        return sids
    return DenseLoss(sids, settings.dense.weight, known_items(dataset.catalogue, dataset.splits["train"]))


def _recorded_batches(
    settings: Settings, parts: RecommenderParts, data: TrainingData, rows: int, folder: pathlib.Path
) -> TrainBatches:
    """This process's batches, read from records of all examples in `folder`; missing records are written first."""
    from tsrec_jax.data.records import open_records, write_records  # imports tensorflow-datasets

    first_makes(lambda: write_records(data.examples, folder))
    part = process_rows(parts.mesh, rows // settings.train.rows_per_group)
    return batches_of(settings, data, open_records(folder), rows, part)


def _setup(settings: Settings, parts: RecommenderParts, data: TrainingData) -> Setup:
    """The model, the step and the mesh, in the form that `plan` uses."""
    sizes = (1, 1, 1) if parts.mesh is None else (parts.mesh.shape[axis] for axis in MESH_AXES)
    model, tokens = parts.model, len(parts.tokenizer)
    dense = dense_shape(settings, parts.dataset.catalogue, model.config.d_model)
    step = step_shape(
        settings.train,
        settings.model,
        settings.sid_init,
        data.slots,
        tokens - parts.base_vocab_size,
        data.sid_tokens,
        model.attention,
        dense,
    )
    return Setup(model.config, tokens, step, MeshShape(*sizes))


def _report_peak(setup: Setup) -> None:
    peak = peak_memory()
    if peak is not None:
        estimate = setup.memory().total
        report(
            f"train: a device held {peak / GIB:.2f} GiB at most; {estimate / GIB:.2f} GiB were estimated for a step "
            f"({estimate / peak - 1:+.0%})"
        )


def _validation(settings: Settings, parts: RecommenderParts, rows: int, data: TrainingData) -> Validation:
    """Next-SID loss and HR@10 on rows spread over the selection split."""
    limits = settings.train
    select_by = selection_split(parts.dataset)
    valid = spread_examples(settings, parts.dataset, select_by, parts.builder, limits.valid_rows)
    part = process_rows(parts.mesh, rows // limits.rows_per_group)
    layout = (limits.sequence_length, rows, data.slots, limits.rows_per_group)
    batches = list(packed_batches(valid, *layout, part, data.paths, items=data.items))
    drift = Drift(parts.model, parts.base_vocab_size, parts.dataset.catalogue.token_levels)
    searched = parts.dataset.splits[select_by].spread(limits.valid_beam_rows)
    search = _hit_rate(settings, parts, searched) if len(searched) else None
    return Validation(batches, drift, search, limits.loss_chunk, data.paths)


def _hit_rate(settings: Settings, parts: RecommenderParts, searched: Interactions) -> Callable[[Decoder], float]:
    """A function that gives a model's HR@10 on these rows, with the same search as the evaluation."""
    search = searched_by(settings, parts, searched)
    return lambda model: find_targets(search(model), searched.targets, parts.dataset.catalogue).mean("sid", "HR@10")
