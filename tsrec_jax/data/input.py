"""Packed batches with Grain: shuffled, mixed, packed by segment, resumable exactly.

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

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from tsrec_jax.data.tasks import Example
from tsrec_jax.errors import UserError

PACKING_BINS = 64
SLOT_MARGIN = 1.25
SLOT_MULTIPLE = 8
READ_THREADS = 2

Batch = dict[str, np.ndarray]


def choose_loss_slots(examples: Sequence[Example], sequence_length: int) -> int:
    """Loss slots of a row: the examples' mean share of loss tokens with a quarter to spare, in multiples of 8.

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


def train_iterator(
    sources: Mapping[str, Any],
    *,
    rates: Mapping[str, float],
    sequence_length: int,
    rows: int,
    loss_slots: int,
    accumulation: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator:
    """Batches without end; each array has a leading accumulation axis.

    Every task is shuffled anew in each of its epochs. Tasks are mixed in proportion to rows x rate, so that a rate of 1
    shows each row once an epoch.

    Args:
      sources: {task: random access to Example}.
      rates: {task: rate}, above 0, for the tasks to use.
      sequence_length, rows, loss_slots, accumulation: T, B (of this process), P and A.
      seed: of shuffling and packing.
      process_index, process_count: the slice of every task that this process reads.

    Raises:
      UserError: a task has fewer rows than there are processes.

    Returns:
      A Grain iterator with `get_state` and `set_state`; call `close` when done.
    """
    parts, weights = [], []
    for number, (task, rate) in enumerate(sorted(rates.items())):
        if len(sources[task]) < process_count:
            raise UserError(f"task {task}: {len(sources[task])} rows cannot be shared by {process_count} processes")
        part = grain.MapDataset.source(sources[task])[process_index::process_count]
        parts.append(part.seed(seed + number).shuffle().repeat())
        weights.append(len(sources[task]) * rate)
    mixed = grain.MapDataset.mix(parts, weights).map(_features)
    packed = _pack(mixed, sequence_length, loss_slots, seed)
    return iter(packed.batch(rows).batch(accumulation))


def packed_batches(examples: Sequence[Example], sequence_length: int, rows: int, loss_slots: int) -> Iterator[Batch]:
    """One pass over the examples in order, without an accumulation axis; the last batch is filled with empty rows."""
    packed = _pack(grain.MapDataset.source(list(examples)).map(_features), sequence_length, loss_slots, seed=0)
    for batch in packed.batch(rows, drop_remainder=False):
        short = rows - len(batch["tokens_BT"])
        yield {
            key: np.pad(value, ((0, short), (0, 0)), constant_values=-1 if key == "loss_task_BP" else 0)
            for key, value in batch.items()
        }


def _features(example: Example) -> dict[str, np.ndarray]:
    """What is packed: the tokens, and the loss targets with their place within the example."""
    start = example.prompt_length
    targets = example.tokens[start:]
    return {
        "tokens": example.tokens,
        "target": targets,
        "index": np.arange(start - 1, start - 1 + len(targets), dtype=np.int32),
        "task": np.full(len(targets), example.task, np.int32),
    }


def _pack(examples: grain.MapDataset, sequence_length: int, loss_slots: int, seed: int) -> grain.IterDataset:
    packed = grain.experimental.FirstFitPackIterDataset(
        examples.to_iter_dataset(grain.ReadOptions(num_threads=READ_THREADS, prefetch_buffer_size=256)),
        length_struct={"tokens": sequence_length, "target": loss_slots, "index": loss_slots, "task": loss_slots},
        num_packing_bins=PACKING_BINS,
        seed=seed,
        shuffle_bins=False,
    )
    return packed.map(_row)


def _row(packed: Mapping[str, np.ndarray]) -> Batch:
    """One packed row under our names; a target's place becomes its place in the row."""
    segment_ids = packed["tokens_segment_ids"]
    target_segments = packed["target_segment_ids"]
    starts = np.searchsorted(segment_ids[: np.count_nonzero(segment_ids)], target_segments)
    used = target_segments > 0
    return {
        "tokens_BT": packed["tokens"].astype(np.int32),
        "segment_ids_BT": segment_ids.astype(np.int32),
        "positions_BT": packed["tokens_positions"].astype(np.int32),
        "loss_index_BP": np.where(used, packed["index"] + starts, 0).astype(np.int32),
        "loss_target_BP": packed["target"].astype(np.int32),
        "loss_task_BP": np.where(used, packed["task"], -1).astype(np.int32),
    }
