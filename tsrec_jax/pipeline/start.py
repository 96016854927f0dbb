"""Where a training starts from: the scale of the SID tokens' scores, where it is set, and the loss before any step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from tsrec_jax.data.held_out import selection_split
from tsrec_jax.data.input import packed_batches
from tsrec_jax.data.interactions import spread
from tsrec_jax.data.sid_paths import SidPaths
from tsrec_jax.data.tasks.task import TaskInputs
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.sharding import process_rows
from tsrec_jax.models.sid_outputs import scale_outputs
from tsrec_jax.pipeline.recommender_parts import RecommenderParts, level_sizes
from tsrec_jax.progress import report
from tsrec_jax.settings import Settings
from tsrec_jax.training.start import SidPlaces, sid_places

FITTED_ROWS = 256  # of train, spread over it: the scales are three or four numbers


@dataclasses.dataclass(frozen=True)
class Start:
    """A model before its first step.

    Attributes:
      model: the decoder, its scales set.
      facts: JSON facts for the report: `split`, the losses of both objectives in nats per SID token, and `scales`.
    """

    model: Decoder
    facts: Mapping[str, object]


def start_of(settings: Settings, parts: RecommenderParts, rows: int, slots: int) -> Start:
    """Sets the scales of a head that has some to those of the smallest loss on train, and measures the loss.

    Args:
      settings: the objective and sections `tasks`, `train` and `sid_init` are read.
      parts: the recommender before training.
      rows: packed rows of a micro-batch, over all processes.
      slots: loss slots of a group of rows.
    """
    dataset, model = parts.dataset, parts.model
    paths = SidPaths.of_catalogue(dataset.catalogue, parts.base_vocab_size)
    limits = settings.train

    def places(model: Decoder, split: str, most: int = 0) -> SidPlaces:
        examples = settings.tasks.next_sid.examples(TaskInputs(dataset, split, parts.builder))
        examples = [examples[number] for number in spread(len(examples), most or len(examples))]
        part = process_rows(parts.mesh, rows // limits.rows_per_group)
        layout = limits.sequence_length, rows, slots, limits.rows_per_group
        return sid_places(model, list(packed_batches(examples, *layout, part, paths)), paths, limits.loss_chunk)

    scales_C = np.ones(dataset.catalogue.num_levels, np.float32)
    if settings.sid_init.head != "plain":
        scales_C = places(model, "train", FITTED_ROWS).best_scales(settings.objective)
        model = scale_outputs(model, scales_C, level_sizes(dataset.catalogue))
    split = selection_split(dataset)
    losses = places(model, split).losses()
    shown = ", ".join(f"{objective} {loss:.4f}" for objective, loss in losses.items())
    scaled = "" if settings.sid_init.head == "plain" else f"; scales {', '.join(f'{scale:.3g}' for scale in scales_C)}"
    report(f"train: before the first step, nats per SID token on {split}: {shown}{scaled}")
    return Start(model, {"split": split, **losses, "scales": [round(float(scale), 4) for scale in scales_C]})
