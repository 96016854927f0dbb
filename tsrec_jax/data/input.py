"""Packed batches: shuffled, mixed and packed by plan, read with Grain in the background.

Keys of a batch; A accumulation (training only), B rows, T tokens, P loss slots of a row:
  tokens_BT int32          ids, 0 in padding
  segment_ids_BT int32     1, 2, ... for the examples of a row, 0 for padding
  positions_BT int32       0, 1, ... within each segment
  loss_index_BP int32      position in the row whose hidden state predicts the target
  loss_target_BP int32     the id to predict
  loss_task_BP int32       task id, -1 for an empty slot
Logits are computed at the loss slots only; P is static, so a row closes when either its tokens or its slots are full.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, SupportsIndex

import grain
import numpy as np

from tsrec_jax.data.packing import epoch_of_task, pack
from tsrec_jax.data.tasks import Example
from tsrec_jax.errors import UserError

SLOT_MARGIN = 1.04
SLOT_MULTIPLE = 8
READ_AHEAD = 8  # batches
MOST_STEPS = 2**40  # Grain wants a length; training says when it ends

Batch = dict[str, np.ndarray]


def choose_loss_slots(examples: Sequence[Example], sequence_length: int) -> int:
    """Loss slots of a row: the examples' mean share of loss tokens with 4 % to spare, in multiples of 8.

    Raises:
      UserError: no examples, or one that is longer than a row.
    """
    if not examples:
        raise UserError("there are no training rows: every task has rate 0 or no rows")
    longest = max(examples, key=lambda example: len(example.tokens))
    if len(longest.tokens) > sequence_length:
        raise UserError(
            f"{longest.key}: {len(longest.tokens)} tokens do not fit in a row of {sequence_length} "
            f"(train.sequence_length)"
        )
    targets = [len(example.tokens) - example.prompt_length for example in examples]
    share = sum(targets) / sum(len(example.tokens) for example in examples)
    wanted = max(max(targets), share * SLOT_MARGIN * sequence_length)
    return min(sequence_length, math.ceil(wanted / SLOT_MULTIPLE) * SLOT_MULTIPLE)


@dataclasses.dataclass(frozen=True)
class _Epoch:
    """The plan of one epoch: the examples in their order, as (task number, row number), and the rows they fill."""

    first_row: int  # of the run, over all epochs before
    examples_n2: np.ndarray
    rows: list[np.ndarray]


class TrainBatches:
    """Training batches by number. The batches are the same for every number of processes; each reads its own rows.

    Args: as in `train_batches`, which makes it.
    """

    def __init__(
        self,
        sources: Mapping[str, Any],
        rates: Mapping[str, float],
        shape: tuple[int, int, int],
        loss_slots: int,
        seed: int,
        part: slice | np.ndarray,
    ):
        self._tasks = sorted(rates)
        self._sources = [sources[task] for task in self._tasks]
        self._rates = [rates[task] for task in self._tasks]
        self._shape, self._slots, self._seed, self._part = shape, loss_slots, seed, part
        self._lengths = [_lengths(source) for source in self._sources]
        self._epochs: dict[int, _Epoch] = {}
        self._first_rows = [0]
        self._lock = threading.Lock()

    def steps(self, epochs: float) -> int:
        """Optimiser steps that see every row `epochs` x its task's rate times, by the packing of the first epoch."""
        accumulation, rows, _ = self._shape
        return max(1, math.ceil(epochs * len(self._epoch(0).rows) / (accumulation * rows)))

    def from_step(self, step: int) -> grain.DatasetIterator:
        """An endless iterator whose first batch is that of optimiser step `step` + 1; call `close` when done."""
        source = grain.MapDataset.source(_ByNumber(self))[step:]
        return iter(source.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=READ_AHEAD)))

    def batch(self, step: int) -> Batch:
        """The batch of optimiser step `step` (from 1): this process's rows, with a leading accumulation axis."""
        accumulation, _, length = self._shape
        micros = self._rows(step).reshape(accumulation, -1)[:, self._part]
        rows = [self._row(number, length) for number in micros.flat]
        stacked = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        return {key: value.reshape(*micros.shape, -1) for key, value in stacked.items()}

    def keys(self, step: int) -> list[str]:
        """The keys of all examples of optimiser step `step` (from 1), of all processes, in the order of their rows."""
        return [example.key for number in self._rows(step) for example in self._examples(number)]

    def _rows(self, step: int) -> np.ndarray:
        """Row numbers, over all epochs, of one optimiser step."""
        accumulation, rows, _ = self._shape
        return np.arange((step - 1) * accumulation * rows, step * accumulation * rows)

    def _examples(self, number: int) -> list[Example]:
        epoch = self._epoch_of_row(number)
        chosen = epoch.examples_n2[epoch.rows[number - epoch.first_row]]
        return [self._sources[task][int(row)] for task, row in chosen]

    def _row(self, number: int, length: int) -> Batch:
        return _row(self._examples(number), length, self._slots)

    def _epoch_of_row(self, number: int) -> _Epoch:
        while self._first_rows[-1] <= number:
            self._epoch(len(self._first_rows) - 1)
        return self._epoch(int(np.searchsorted(self._first_rows, number, side="right")) - 1)

    def _epoch(self, epoch: int) -> _Epoch:
        """Plans an epoch; the epochs before were planned already, and the last two plans are kept."""
        with self._lock:
            if epoch not in self._epochs:
                parts = [
                    epoch_of_task(len(lengths), rate, epoch, (self._seed, number))
                    for number, (lengths, rate) in enumerate(zip(self._lengths, self._rates, strict=True))
                ]
                tasks_n = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
                examples_n2 = np.stack([tasks_n, np.concatenate(parts)], axis=1)
                lengths_n2 = np.concatenate([lengths[part] for lengths, part in zip(self._lengths, parts, strict=True)])
                rng = np.random.default_rng([self._seed, len(parts), epoch])
                order = rng.permutation(len(examples_n2))
                rows = pack(lengths_n2[order], (self._shape[2], self._slots))
                shuffled = [rows[number] for number in rng.permutation(len(rows))]
                planned = _Epoch(self._first_rows[epoch], examples_n2[order], shuffled)
                self._epochs = {key: plan for key, plan in self._epochs.items() if key >= epoch - 1} | {epoch: planned}
                if epoch + 1 == len(self._first_rows):
                    self._first_rows.append(planned.first_row + len(rows))
            return self._epochs[epoch]


class _ByNumber:
    """Random access to batches, as Grain takes it."""

    def __init__(self, batches: TrainBatches):
        self._batches = batches

    def __len__(self) -> int:
        return MOST_STEPS

    def __getitem__(self, index: SupportsIndex) -> Batch:
        return self._batches.batch(int(index) + 1)


def train_batches(
    sources: Mapping[str, Any],
    *,
    rates: Mapping[str, float],
    sequence_length: int,
    rows: int,
    loss_slots: int,
    accumulation: int,
    seed: int,
    part: slice | np.ndarray = slice(None),
) -> TrainBatches:
    """Batches without end.

    An epoch holds `rate` x rows of each task, so that with a rate of 1 it shows each row once; it is shuffled and
    packed anew each time.

    Args:
      sources: {task: random access to Example}.
      rates: {task: rate}, above 0, for the tasks to use.
      sequence_length, rows, loss_slots, accumulation: T, B (of all processes), P and A.
      seed: of shuffling and packing.
      part: the rows of each micro-batch that this process feeds, as a slice or by their numbers.

    Raises:
      UserError: the rates are so small that an epoch is empty.
    """
    if not any(int(len(sources[task]) * rate + 1e-9) for task, rate in rates.items()):
        raise UserError("an epoch holds no row: the rates (config.tasks.*.rate, config.ts_align.rate) are too small")
    return TrainBatches(sources, rates, (accumulation, rows, sequence_length), loss_slots, seed, part)


def packed_batches(
    examples: Sequence[Example],
    sequence_length: int,
    rows: int,
    loss_slots: int,
    part: slice | np.ndarray = slice(None),
) -> Iterator[Batch]:
    """One pass over the examples, without an accumulation axis; the last batch is filled with empty rows.

    Args:
      examples: in the order in which they compete for places.
      sequence_length, rows, loss_slots: T, B (of all processes) and P.
      part: the rows of each batch that this process feeds, as a slice or by their numbers.
    """
    plan = pack(_lengths(examples), (sequence_length, loss_slots)) if examples else []
    for first in range(0, len(plan), rows):
        batch = [*plan[first : first + rows], *[()] * (rows - len(plan[first : first + rows]))]
        chosen = [batch[row] for row in np.arange(rows)[part]]
        packed = [_row([examples[number] for number in row], sequence_length, loss_slots) for row in chosen]
        yield {key: np.stack([row[key] for row in packed]) for key in packed[0]}


def _lengths(examples: Sequence[Example]) -> np.ndarray:
    """int64 (n, 2): tokens and loss tokens of each example."""
    pairs = [(len(example.tokens), len(example.tokens) - example.prompt_length) for example in examples]
    return np.array(pairs, np.int64).reshape(-1, 2)


def _row(examples: Sequence[Example], length: int, slots: int) -> Batch:
    """One packed row; a target's place becomes its place in the row."""
    row = {f"{name}_BT": np.zeros(length, np.int32) for name in ("tokens", "segment_ids", "positions")}
    row |= {f"loss_{name}_BP": np.zeros(slots, np.int32) for name in ("index", "target")}
    row["loss_task_BP"] = np.full(slots, -1, np.int32)
    start = slot = 0
    for number, example in enumerate(examples, 1):
        size, prompt = len(example.tokens), example.prompt_length
        here, there = slice(start, start + size), slice(slot, slot + size - prompt)
        row["tokens_BT"][here] = example.tokens
        row["segment_ids_BT"][here] = number
        row["positions_BT"][here] = np.arange(size)
        row["loss_index_BP"][there] = np.arange(start + prompt - 1, start + size - 1)
        row["loss_target_BP"][there] = example.tokens[prompt:]
        row["loss_task_BP"][there] = example.task
        start, slot = here.stop, there.stop
    return row
