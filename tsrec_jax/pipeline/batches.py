"""Turns settings and a dataset into training batches, in the same way for the training itself and for its plan."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tsrec_jax.baselines.ranking import Vectors, best_items
from tsrec_jax.baselines.run import fit_baseline
from tsrec_jax.data.dataset import Dataset
from tsrec_jax.data.held_out import selection_split
from tsrec_jax.data.input import TrainBatches, choose_loss_slots, train_batches
from tsrec_jax.data.interactions import spread
from tsrec_jax.data.item_places import ItemPlaces
from tsrec_jax.data.prompts import PromptBuilder
from tsrec_jax.data.sid_paths import SidPaths
from tsrec_jax.data.tasks import TasksSettings, build_examples
from tsrec_jax.data.tasks.task import Example, Rank, TaskInputs
from tsrec_jax.data.user_sequences import user_sequences
from tsrec_jax.progress import report
from tsrec_jax.settings import Settings
from tsrec_jax.text.likeness import nearest_items

PLACES = 20  # places of a teacher's ranking that a task learns


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """What a training learns from.

    Attributes:
      mix: the tasks.
      examples: the examples of every task in use.
      paths: the SID paths of the catalogue, if SID tokens are learned among their siblings.
      slots: loss slots per group of rows.
      top_k: the most tokens that may be right in one place.
      items: finds the items of histories, which a dense head learns from; None: there is no dense head.
    """

    mix: TasksSettings
    examples: Mapping[str, Sequence[Example]]
    paths: SidPaths | None
    slots: int
    top_k: int
    items: ItemPlaces | None = None

    @property
    def sid_tokens(self) -> int:
        """SID tokens that are scored at every position; 0 if they are learned at loss slots."""
        return 0 if self.paths is None else len(self.paths.levels_n)


def training_data(
    settings: Settings, dataset: Dataset, builder: PromptBuilder, base_vocab_size: int, vectors: Vectors | None = None
) -> TrainingData:
    """The examples of the train split and how they are learned.

    Args:
      settings: the sections `tasks` and `train`, the objective and `seed` are read.
      dataset: the data.
      builder: the prompts.
      base_vocab_size: length of the base tokenizer, where the ids of the SID tokens start.
      vectors: the vectors of the items, for a teacher that needs them.

    Raises:
      UserError: a task lacks what it needs.
    """

    def teacher(name: str) -> Rank:
        train, select = dataset.splits["train"], dataset.splits[selection_split(dataset)]
        fitted = fit_baseline(name, dataset, train, select, settings.seed, report, vectors)
        return lambda histories: best_items(fitted.scores(histories), PLACES)

    nearest = functools.partial(nearest_items, dataset.catalogue.items)
    mix = settings.tasks
    examples = build_examples(mix.used(), TaskInputs(dataset, "train", builder, settings.seed, teacher, nearest))
    paths = SidPaths.of_catalogue(dataset.catalogue, base_vocab_size) if settings.constrained else None
    slots = choose_loss_slots(examples, mix.rates, settings.train.sequence_length, settings.train.rows_per_group, paths)
    ranked = any(len(rows[0].ranked) for rows in examples.values() if rows)
    top_k = min(PLACES, dataset.catalogue.num_items) if ranked else 1
    items = ItemPlaces.of_catalogue(dataset.catalogue, base_vocab_size) if settings.dense.weight else None
    return TrainingData(mix, examples, paths, slots, top_k, items)


def spread_examples(
    settings: Settings, dataset: Dataset, split: str, builder: PromptBuilder, count: int
) -> list[Example]:
    """Some examples of `next_sid`, rows or user sequences, spread over a split; no others are tokenised.

    Args:
      settings: section `tasks.next_sid` is read.
      dataset: the data.
      split: one of its splits.
      builder: the prompts.
      count: number of examples; 0: all.
    """
    rows = dataset.splits[split]
    if count and settings.tasks.next_sid.user_sequences:
        sequences = user_sequences(rows)
        rows = rows.take(sorted(row for number in spread(len(sequences), count) for row in sequences[number].rows))
    elif count:
        rows = rows.spread(count)
    dataset = dataclasses.replace(dataset, splits={**dataset.splits, split: rows})
    return settings.tasks.next_sid.examples(TaskInputs(dataset, split, builder))


def batches_of(
    settings: Settings,
    data: TrainingData,
    sources: Mapping[str, Any],
    rows: int,
    part: slice | np.ndarray = slice(None),
) -> TrainBatches:
    """The batches of a training.

    Args:
      settings: section `train` and `seed` are read.
      data: as returned by `training_data`.
      sources: {task: random access to its examples}.
      rows: rows per micro-batch, over all processes.
      part: the groups of each micro-batch that this process feeds.
    """
    return train_batches(
        sources,
        rates=data.mix.rates,
        sequence_length=settings.train.sequence_length,
        rows=rows,
        loss_slots=data.slots,
        accumulation=settings.train.accumulation,
        seed=settings.seed,
        group=settings.train.rows_per_group,
        part=part,
        paths=data.paths,
        top_k=data.top_k,
        items=data.items,
    )
