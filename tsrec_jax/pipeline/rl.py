"""The stage `rl`: trains the recommender further as the settings of `rl` say, in `rl/` of the workdir."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from tsrec_jax.data.held_out import selection_split
from tsrec_jax.data.target_ranks import find_targets
from tsrec_jax.errors import UserError
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.sharding import parts_of, process_rows
from tsrec_jax.pipeline.job import Job
from tsrec_jax.pipeline.recommender_parts import RecommenderParts
from tsrec_jax.pipeline.rl_teacher import Teacher, fit_teacher
from tsrec_jax.pipeline.train import trained_parts
from tsrec_jax.pipeline.training_run import facts_of, run_of, searched_by, weights_are_there
from tsrec_jax.planning.estimate import step_shape
from tsrec_jax.planning.second_stage import SecondStageShape
from tsrec_jax.processes import first, share
from tsrec_jax.progress import report
from tsrec_jax.rl.batches import PromptBatches, longest_prompt
from tsrec_jax.rl.names import REWARDS
from tsrec_jax.rl.propose import SidVectors
from tsrec_jax.rl.step import first_rl_step_and_state
from tsrec_jax.settings import Settings
from tsrec_jax.training.checkpoints import Checkpoints
from tsrec_jax.training.loop import train
from tsrec_jax.training.metrics_log import read_metrics
from tsrec_jax.training.settings import TrainSettings

STAGE = "rl"
CUTS = (1, 5, 10, 20, 50)  # cut-offs of HR at each validation, up to the number of beams


def require_stage(settings: Settings) -> None:
    """Refuses settings without a second stage.

    Raises:
      UserError: `rl.steps` is 0.
    """
    if not settings.rl.steps:
        raise UserError("config.rl.steps=0: there is no second stage; give its number of steps, say 100")


def improve_recommender(job: Job) -> None:
    """Runs the second stage, or skips it if it is finished or there is none.

    Raises:
      UserError: nothing is trained, the objective of training is not `constrained`, or the prompts of a step do not
        divide evenly over the mesh.
    """
    if not job.settings.rl.steps:
        return
    if _is_finished(job):
        report("rl: finished before, skipped")
        return
    job.workdir.finish(STAGE, job.final_identity, _improve(job, trained_parts(job)))


def final_parts(job: Job) -> RecommenderParts:
    """The parts of the recommender as it is evaluated and exported: after the second stage if there is one.

    Raises:
      UserError: the stages that make it have not finished with these settings.
    """
    parts = trained_parts(job)
    if not job.settings.rl.steps:
        return parts
    if not _is_finished(job):
        raise UserError(
            f"{job.workdir.path}: the second stage is not finished with these settings; run the verb `rl` first, or "
            "set config.rl.steps=0"
        )
    with Checkpoints(job.workdir.checkpoints(job.workdir.path / STAGE)) as checkpoints:
        _, model = checkpoints.load_best(parts.model)
    return dataclasses.replace(parts, model=model)


def rl_facts(job: Job) -> dict[str, Any] | None:
    """The facts that a finished second stage left in the workdir; None if there is none."""
    return job.workdir.finished(STAGE, job.final_identity) if job.settings.rl.steps else None


def _is_finished(job: Job) -> bool:
    return weights_are_there(job, STAGE, job.workdir.path / STAGE, rl_facts(job))


def _improve(job: Job, parts: RecommenderParts) -> dict[str, Any]:
    """Runs the steps, starting from the model of the parts, and returns the facts of the finished stage."""
    settings, folder = job.settings, job.workdir.path / STAGE
    limits = stage_limits(settings)
    teacher = fit_teacher(job)
    batches = _batches(settings, parts, teacher)
    wanted = settings.rl
    vectors = sid_vectors(job, parts) if wanted.compares and REWARDS[wanted.reward].vectors else None
    compared = f", reward {wanted.reward}, {wanted.group} beams" if wanted.compares else ", no search"
    report(
        f"rl: {wanted.objective}{compared}, {len(batches.rows)} rows, {wanted.prompts} prompts of up to "
        f"{batches.length} tokens a step"
    )
    taught = {} if teacher is None else {"teacher": _facts_of_teacher(job, teacher)}
    step, state = first_rl_step_and_state(
        parts.model,
        parts.trie.arrays,
        wanted,
        limits,
        base_vocab_size=parts.base_vocab_size,
        seed=settings.seed,
        vectors=vectors,
    )
    flops = _shape(settings, parts, batches.length).flops(parts.model.config)
    run = dataclasses.replace(
        run_of(job, STAGE, folder, job.final_identity, flops), validate_every=wanted.validate_every, start_competes=True
    )
    result = train(step, state, batches, _validation(settings, parts), limits, run)
    return {**facts_of(result, flops), "start": share(_start(folder) if first() else {}), **taught}


def _start(folder: pathlib.Path) -> dict[str, float]:
    """The logged validation of the weights that the stage started from; empty if the log is lost."""
    row = next((row for row in read_metrics(folder) if row["step"] == 0), {})
    return {name: value for name, value in row.items() if name.startswith("valid/")}


def _shape(settings: Settings, parts: RecommenderParts, length: int) -> SecondStageShape:
    """A step, in the form that `plan` uses."""
    codes = parts.trie.level_sizes
    step = step_shape(
        settings.train, settings.model, settings.sid_init, loss_slots=0, new_rows=sum(codes), sid_tokens=0
    )
    return SecondStageShape(step, settings.rl, length, codes, parts.trie.widths)


def stage_limits(settings: Settings) -> TrainSettings:
    """The settings of the loop and of the optimiser in the second stage.

    Each validation is followed by a checkpoint: the stage has too few steps for the interval of training.
    """
    wanted = settings.rl
    return dataclasses.replace(
        settings.train,
        max_steps=wanted.steps,
        learning_rate=wanted.learning_rate,
        warmup_steps=wanted.warmup_steps,
        schedule="constant",
        checkpoint_every=wanted.validate_every or settings.train.checkpoint_every,
        patience=wanted.patience,
        select_by="hr@10",
        explode_factor=0.0,  # an objective may be below 0, where a multiple of its usual value says nothing
    )


def _facts_of_teacher(job: Job, teacher: Teacher) -> dict[str, Any]:
    """What the teacher was fitted with, and how often it has the target of a selection row.

    The log of the stage has the same share for the rows of train.
    """
    dataset = job.dataset
    rows = dataset.splits[selection_split(dataset)].spread(job.settings.train.valid_beam_rows)
    share = teacher.has_target(rows, dataset.catalogue)
    report(
        f"rl: the teacher has the target among its best {teacher.count} in {share:.1%} of {len(rows)} selection rows"
    )
    return {**teacher.facts, "has_target": round(share, 4)}


def _batches(settings: Settings, parts: RecommenderParts, teacher: Teacher | None) -> PromptBatches:
    """The prompts of train."""
    wanted, catalogue, rows = settings.rl, parts.dataset.catalogue, parts.dataset.splits["train"]
    shards, micro = parts_of(parts.mesh, "batch"), wanted.prompts // wanted.accumulation
    if micro % shards:
        unit = wanted.accumulation * shards
        raise UserError(
            f"config.rl.prompts={wanted.prompts} does not divide over accumulation x data x fsdp = {unit}; try "
            f"{max(wanted.prompts // unit, 1) * unit}"
        )
    return PromptBatches(
        rows,
        catalogue,
        parts.builder,
        wanted.prompts,
        wanted.accumulation,
        longest_prompt(parts.builder, catalogue, rows),
        settings.seed,
        process_rows(parts.mesh, micro),
        None if teacher is None else teacher.rank,
        0 if teacher is None else wanted.teacher_items,
    )


def sid_vectors(job: Job, parts: RecommenderParts) -> SidVectors:
    """For each SID, the mean of the unit vectors of its items."""
    catalogue = parts.dataset.catalogue
    vectors_ID = np.asarray(job.vectors(), np.float32)
    vectors_ID = vectors_ID / np.maximum(np.linalg.norm(vectors_ID, axis=1, keepdims=True), 1e-12)
    slots_U, of_item_I = np.unique(parts.trie.slots(catalogue.codes_IC)[:, -1], return_inverse=True)
    sums_UD = np.zeros((len(slots_U), vectors_ID.shape[1]), np.float32)
    np.add.at(sums_UD, of_item_I, vectors_ID)
    return SidVectors(slots_U.astype(np.int32), sums_UD / np.bincount(of_item_I)[:, None].astype(np.float32))


def _validation(settings: Settings, parts: RecommenderParts) -> Callable[[Decoder], dict[str, float]]:
    """HR at CUTS, NDCG@10 and the recall of first codes on the selection split, searched as in the evaluation."""
    catalogue, beams = parts.dataset.catalogue, settings.eval.beams
    rows = parts.dataset.splits[selection_split(parts.dataset)].spread(settings.train.valid_beam_rows)
    search = searched_by(settings, parts, rows)
    first_codes_I = np.asarray(catalogue.codes_IC)[:, 0]
    first_of = {catalogue.sid(item): int(code) for item, code in enumerate(first_codes_I)}

    def validate(model: Decoder) -> dict[str, float]:
        lists = search(model)
        ranks = find_targets(lists, rows.targets, catalogue)
        values = {f"valid/hr@{cut}": ranks.mean("sid", f"HR@{cut}") for cut in CUTS if cut <= beams}
        values["valid/ndcg@10"] = ranks.mean("sid", "NDCG@10")
        firsts = [{first_of[sid] for sid in ranked} for ranked in lists]
        known = [int(first_codes_I[target]) in own for own, target in zip(firsts, rows.targets, strict=True)]
        return {**values, "valid/first_code_recall": float(np.mean(known))}

    return validate
