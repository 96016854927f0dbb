"""Training one recommender: examples, packed batches, validation and the loop, from an assembly."""

from __future__ import annotations

import functools
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from tsrec_jax.configuration import task_mix
from tsrec_jax.data.input import choose_loss_slots, packed_batches, train_batches
from tsrec_jax.data.records import open_records, write_records
from tsrec_jax.data.tasks import TASKS, build_examples
from tsrec_jax.decoding.generate import search_all
from tsrec_jax.errors import UserError
from tsrec_jax.evaluation.metrics import score
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.inference import InferenceModel
from tsrec_jax.pipeline.assemble import Assembly
from tsrec_jax.pipeline.workdir import Workdir
from tsrec_jax.training.loop import LoopSettings, TrainResult, Validate, train
from tsrec_jax.training.loss import LossSettings, batch_nll, task_sums
from tsrec_jax.training.step import OptimiserSettings

SELECTORS = {"loss": ("valid/loss", False), "hr@10": ("valid/hr@10", True)}


def fit(
    config: ConfigDict,
    assembly: Assembly,
    workdir: Workdir,
    folder: pathlib.Path,
    identity: Mapping[str, Any],
    label: str,
    report: Callable[[str], None],
) -> TrainResult:
    """Trains the assembly's model in `folder`, a part of `workdir` (checkpoints, metrics, records) or all of it."""
    mix = task_mix(config, TASKS)
    dataset = assembly.dataset
    if "ts_align" in mix.rates and not dataset.clusters:
        raise UserError(
            f"{dataset.path}/{dataset.name}.description_keywords.json is not there: TS-Align needs its descriptions "
            "(or set config.ts_align.weight=0)"
        )
    examples = build_examples(dataset, "train", assembly.builder, tuple(mix.rates))
    counts = ", ".join(f"{task} {len(rows)}" for task, rows in examples.items())
    report(f"{label}: training rows: {counts}")
    slots = choose_loss_slots([row for rows in examples.values() for row in rows], config.train.sequence_length)
    write_records(examples, folder / "records")
    settings = config.train
    rows = _rows_per_microbatch(config, assembly)
    batches = train_batches(
        open_records(folder / "records"),
        rates=mix.rates,
        sequence_length=settings.sequence_length,
        rows=rows,
        loss_slots=slots,
        accumulation=settings.accumulation,
        seed=config.seed,
    )
    max_steps = settings.max_steps or batches.steps(settings.epochs)
    select_by, select_highest = SELECTORS[settings.select_by]
    every = math.ceil(max_steps / settings.validations) if settings.validations else 0
    return train(
        assembly.model,
        batches,
        _validation(config, assembly, rows, slots),
        task_names=TASKS,
        old_size=assembly.old_size,
        loss=LossSettings(mix.weights, settings.loss_normalisation, settings.loss_chunk),
        optimiser=OptimiserSettings(
            learning_rate=settings.learning_rate,
            warmup_steps=settings.warmup_steps,
            total_steps=max_steps,
            schedule=settings.schedule,
            weight_decay=settings.weight_decay,
            clip_norm=settings.clip_norm,
            freeze=settings.freeze,
        ),
        loop=LoopSettings(
            max_steps=max_steps,
            log_every=settings.log_every,
            validate_every=every,
            checkpoint_every=settings.checkpoint_every,
            keep=settings.keep,
            patience=settings.patience,
            select_by=select_by,
            select_highest=select_highest,
            explode_factor=settings.explode_factor,
        ),
        folder=folder,
        checkpoints_at=workdir.checkpoints(folder),
        before_save=workdir.push,
        identity=identity,
        mesh=assembly.mesh,
        label=label,
        report=report,
    )


def _rows_per_microbatch(config: ConfigDict, assembly: Assembly) -> int:
    """Rows of one micro-batch, over all processes.

    Raises:
      UserError: they do not divide over the mesh.
    """
    rows = config.train.batch_tokens // (config.train.sequence_length * config.train.accumulation)
    shards = 1 if assembly.mesh is None else assembly.mesh.shape["data"] * assembly.mesh.shape["fsdp"]
    if rows % shards:
        raise UserError(
            f"config.train.batch_tokens={config.train.batch_tokens} makes {rows} rows a step, which do not divide over "
            f"data x fsdp = {shards}; use a multiple of sequence_length x accumulation x {shards}"
        )
    return rows


@functools.partial(jax.jit, static_argnums=(0, 3))
def _loss_sums(
    graphdef: nnx.GraphDef, weights: nnx.State, batch: Mapping[str, jax.Array], chunk: int
) -> tuple[jax.Array, jax.Array]:
    """Sum of nll and number of loss tokens of a packed batch (next-SID rows only)."""
    nll_BP = batch_nll(nnx.merge(graphdef, weights), batch, chunk)
    tokens = jnp.sum(batch["loss_task_BP"] >= 0)
    return task_sums(nll_BP, jnp.where(batch["loss_task_BP"] >= 0, 0, -1), 1)[0], tokens


def validation_loss(model: Decoder, batches: Sequence[Mapping[str, np.ndarray]], chunk: int = 0) -> float:
    """Mean nll per loss token over packed batches, in nats."""
    graphdef, weights = nnx.split(model)
    sums = [_loss_sums(graphdef, weights, batch, chunk) for batch in batches]
    total, tokens = (sum(float(part[index]) for part in sums) for index in (0, 1))
    return total / tokens


def _validation(config: ConfigDict, assembly: Assembly, rows: int, slots: int) -> Validate:
    """The closure that the loop calls: next-SID loss on valid, and HR@10 of a beam search over its first rows."""
    settings, catalogue = config.train, assembly.dataset.catalogue
    valid = build_examples(assembly.dataset, "valid", assembly.builder, ("next_sid",))["next_sid"]
    valid = valid[: settings.valid_rows or len(valid)]
    batches = list(packed_batches(valid, settings.sequence_length, rows, slots))
    split = assembly.dataset.splits["valid"]
    beam_rows = min(settings.valid_beam_rows, len(split))
    prompts = assembly.builder.prompts_next_sid(
        [[catalogue.sid(item) for item in history] for history in split.histories[:beam_rows]], catalogue.num_levels
    )

    prefix = assembly.builder.prefix("next_sid")

    def validate(model: Decoder) -> dict[str, float]:
        values = {"valid/loss": validation_loss(model, batches, settings.loss_chunk)}
        if prompts:
            found = search_all(
                InferenceModel.of(model),
                assembly.trie,
                catalogue,
                prompts,
                beams=config.eval.beams,
                batch_size=config.eval.batch_size,
                prefix=prefix,
                normaliser=config.eval.normaliser,
            )
            predicted = [[sid for sid, _ in row] for row in found]
            values["valid/hr@10"] = score(predicted, split.targets[:beam_rows], catalogue, ks=(10,)).sid["HR@10"]
        return values

    return validate
