"""Where a training starts from: the scale of the SID tokens' scores, if it is set, and the loss before any step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from tsrec_jax.data.held_out import selection_split
from tsrec_jax.data.input import Batch, packed_batches
from tsrec_jax.data.sid_paths import SidPaths
from tsrec_jax.files import read_facts, write_json
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.sharding import process_rows
from tsrec_jax.models.sid_outputs import scale_outputs
from tsrec_jax.pipeline.batches import spread_examples
from tsrec_jax.pipeline.job import Job
from tsrec_jax.pipeline.recommender_parts import RecommenderParts, level_sizes
from tsrec_jax.processes import first, share
from tsrec_jax.progress import report
from tsrec_jax.settings import Settings
from tsrec_jax.training.checkpoints import differences
from tsrec_jax.training.start import sid_losses, sid_places

FILE = "start.json"  # what was found before the first step, and for which training
FITTED_ROWS = 256  # rows spread over train; few, since the scales are only three or four numbers


@dataclasses.dataclass(frozen=True)
class Start:
    """A model before its first step.

    Attributes:
      model: the decoder with its scales set.
      facts: JSON facts for the report: `split`, the losses of both objectives in nats per SID token, and `scales`.
    """

    model: Decoder
    facts: Mapping[str, object]


def start_of(job: Job, parts: RecommenderParts, rows: int, slots: int) -> Start:
    """Sets the scales of a head that has some to those with the smallest loss on train, and measures the loss.

    This is done once per training: FILE keeps what was found, and a resumed training reads it from there.

    Args:
      job: what is trained; in its settings the objective and sections `tasks`, `train` and `sid_init` are read.
      parts: the recommender before training.
      rows: packed rows per micro-batch, over all processes.
      slots: loss slots per group of rows.
    """
    sizes, scaled = level_sizes(parts.dataset.catalogue), job.settings.sid_init.head != "plain"
    facts = _kept(job)
    if facts is None:
        facts = _measured(job.settings, parts, rows, slots)
        if first():
            write_json(job.workdir.path / FILE, {"identity": job.identity, "start": facts})
        job.workdir.push()
    model = scale_outputs(parts.model, np.array(facts["scales"], np.float32), sizes) if scaled else parts.model
    shown = ", ".join(f"{objective} {facts[objective]:.4f}" for objective in ("constrained", "vocabulary"))
    scales = f"; scales {', '.join(f'{scale:.3g}' for scale in facts['scales'])}" if scaled else ""
    report(f"train: before the first step, nats per SID token on {facts['split']}: {shown}{scales}")
    return Start(model, facts)


def _kept(job: Job) -> dict[str, Any] | None:
    """The facts that an earlier run of the same training left."""
    file = job.workdir.path / FILE
    kept = None
    if first() and file.exists():
        kept = read_facts(file, "delete it, and it is measured again", ("identity", "start"))
    return share(None if kept is None or differences(kept["identity"], job.identity) else kept["start"])


def _measured(settings: Settings, parts: RecommenderParts, rows: int, slots: int) -> dict[str, Any]:
    """The facts of `Start`."""
    dataset, model, limits = parts.dataset, parts.model, settings.train
    paths = SidPaths.of_catalogue(dataset.catalogue, parts.base_vocab_size)

    def batches(split: str, count: int) -> list[Batch]:
        examples = spread_examples(settings, dataset, split, parts.builder, count)
        part = process_rows(parts.mesh, rows // limits.rows_per_group)
        layout = limits.sequence_length, rows, slots, limits.rows_per_group
        return list(packed_batches(examples, *layout, part, paths))

    scales_C = np.ones(dataset.catalogue.num_levels, np.float32)
    if settings.sid_init.head != "plain":
        places = sid_places(model, batches("train", FITTED_ROWS), paths, limits.loss_chunk)
        scales_C = places.best_scales(settings.objective)
        model = scale_outputs(model, scales_C, level_sizes(dataset.catalogue))
    split = selection_split(dataset)
    losses = sid_losses(model, batches(split, limits.valid_rows), paths, limits.loss_chunk)
    return {"split": split, **losses, "scales": scales_C.tolist()}
