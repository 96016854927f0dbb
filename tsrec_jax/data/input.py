"""Packed batches: shuffled, mixed and packed to a plan, and read with Grain in the background.

Keys of a batch, where A is accumulation (training only), B rows, T tokens, G groups of rows, P loss slots per group:
  tokens_BT int32          ids, 0 in padding
  segment_ids_BT int32     1, 2, ... for the examples of a row, 0 for padding
  positions_BT int32       0, 1, ... within each segment
  loss_index_GP int32      position, in the group's concatenated rows, whose hidden state predicts the target
  loss_target_GP int32     the id to predict
  loss_task_GP int32       number of the task among those in use, -1 for an empty slot
and, where SID tokens are learned among their siblings in the catalogue (`paths`), at every position instead of slots:
  sid_node_BT int32        the node (`data.sid_paths`) whose child comes next
  sid_target_BTK int32     which SID token that is, numbered from the first one, or which K tokens it might be
  sid_target_probs_BTK float32    the probability of each; they sum to 1 where a SID token is learned
  sid_task_BT int32        number of the task, -1 where no SID token is learned
and, if the items of histories are requested (`items`), the keys of `data.item_places`.
Logits over the vocabulary are computed at the loss slots only. P is static: a row closes when its tokens are used up, a
group when its slots are. Short rows keep attention cheap, and a group of many rows keeps slots from being wasted.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from tsrec_jax.data.item_places import ItemPlaces
from tsrec_jax.data.packing import epoch_of_task, pack
from tsrec_jax.data.sid_paths import SidPaths
from tsrec_jax.data.tasks.task import Example
from tsrec_jax.errors import UserError

if TYPE_CHECKING:
    import grain

SLOT_MARGIN = 1.04
SLOT_MULTIPLE = 8
READ_AHEAD = 8  # batches
ASK_FOR_ITEMS = ("next_sid",)  # tasks whose SIDs are items that users really took next
MOST_STEPS = 2**40  # Grain wants a length; training itself decides when to end

Batch = dict[str, np.ndarray]


def choose_loss_slots(
    examples: Mapping[str, Sequence[Example]],
    rates: Mapping[str, float],
    sequence_length: int,
    group: int = 1,
    paths: SidPaths | None = None,
) -> int:
    """Loss slots per group: the mean share of loss tokens in an epoch with 4 % to spare, in multiples of 8.

    Args:
      examples: the examples of every task.
      rates: {task: rate}, for the tasks in use.
      sequence_length: T.
      group: rows that share their slots.
      paths: if given, SID tokens that continue a path need no slot.

    Raises:
      UserError: no examples, or one that is longer than a row.
    """
    used = [(example, rate) for task, rate in rates.items() for example in examples[task]]
    if not used:
        raise UserError("there are no training rows: every task has rate 0 or no rows")
    longest = max((example for example, _ in used), key=lambda example: len(example.tokens))
    if len(longest.tokens) > sequence_length:
        raise UserError(
            f"{longest.key}: {len(longest.tokens)} tokens do not fit in a row of {sequence_length} "
            f"(train.sequence_length)"
        )
    targets = [(len(_learned(example, paths).slots), rate) for example, rate in used]
    share = sum(count * rate for count, rate in targets) / sum(len(row.tokens) * rate for row, rate in used)
    wanted = max(1, max(count for count, _ in targets), share * SLOT_MARGIN * sequence_length * group)
    return min(sequence_length * group, math.ceil(wanted / SLOT_MULTIPLE) * SLOT_MULTIPLE)


@dataclasses.dataclass(frozen=True)
class _Layout:
    """The shape of a batch: A, B (of all processes), T, P, rows per group, how SID tokens are learned (K), tasks, and
    the finder of the items."""

    accumulation: int
    rows: int
    sequence_length: int
    loss_slots: int
    group: int
    paths: SidPaths | None
    top_k: int
    tasks: tuple[str, ...]
    items: ItemPlaces | None

    def __post_init__(self):
        if self.rows % self.group:
            raise UserError(
                f"{self.rows} rows of a micro-batch do not make groups of {self.group} (train.rows_per_group); "
                "use a divisor, or another train.batch_tokens"
            )

    @property
    def groups_of_step(self) -> int:
        return self.accumulation * self.rows // self.group

    @property
    def capacity(self) -> tuple[int, int]:
        """Tokens of a row and loss slots of a group."""
        return self.sequence_length, self.loss_slots

    def with_items(self, batch: Batch) -> Batch:
        """The batch, with its items if they are requested."""
        if self.items is None:
            return batch
        return self.items.add(batch, [number for number, task in enumerate(self.tasks) if task in ASK_FOR_ITEMS])


@dataclasses.dataclass(frozen=True)
class _Epoch:
    """The plan of one epoch: its examples as (task number, row number), and the groups of rows that they fill."""

    first: int  # number of its first group in the run, counted over all earlier epochs
    examples_n2: np.ndarray
    groups: list[list[np.ndarray]]


class TrainBatches:
    """Training batches by number. They do not depend on the number of processes; each process reads its own groups.

    Made by `train_batches`.
    """

    def __init__(
        self,
        sources: Mapping[str, Any],
        rates: Mapping[str, float],
        layout: _Layout,
        seed: int,
        part: slice | np.ndarray,
    ):
        self._sources = [sources[task] for task in rates]
        self._rates = [*rates.values()]
        self._layout, self._seed, self._part = layout, seed, part
        self._lengths = [_lengths(source, layout.paths) for source in self._sources]
        self._epochs: dict[int, _Epoch] = {}
        self._firsts = [0]  # first group of each planned epoch, and of the one after the last
        self._lock = threading.Lock()

    def steps(self, epochs: float) -> int:
        """Optimiser steps that see every row `epochs` x its task's rate times, by the packing of the first epoch."""
        return max(1, math.ceil(epochs * len(self._epoch(0).groups) / self._layout.groups_of_step))

    def from_step(self, step: int) -> grain.DatasetIterator:
        """An endless iterator whose first batch is that of optimiser step `step` + 1; call `close` when done."""
        import grain  # only needed where batches are read ahead

        source = grain.MapDataset.source(_ByNumber(self))[step:]
        return iter(source.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=READ_AHEAD)))

    def batch(self, step: int) -> Batch:
        """The batch of optimiser step `step` (from 1): this process's rows, with a leading accumulation axis."""
        micros = self._numbers(step).reshape(self._layout.accumulation, -1)[:, self._part]
        batches = [[_group(self._rows(number), self._layout) for number in micro] for micro in micros]
        whole = _stack([_stack(groups, np.concatenate) for groups in batches], np.stack)
        return self._layout.with_items(whole)

    def keys(self, step: int) -> list[str]:
        """The keys of all examples in optimiser step `step` (from 1), of all processes, in the order of their rows."""
        return [row.key for number in self._numbers(step) for examples in self._rows(number) for row in examples]

    def _numbers(self, step: int) -> np.ndarray:
        """Numbers of the groups of one optimiser step, counted over all epochs."""
        return np.arange((step - 1) * self._layout.groups_of_step, step * self._layout.groups_of_step)

    def _rows(self, number: int) -> list[list[Example]]:
        """The examples of each row of a group."""
        while self._firsts[-1] <= number:
            self._epoch(len(self._firsts) - 1)
        epoch = self._epoch(int(np.searchsorted(self._firsts, number, side="right")) - 1)
        rows = epoch.groups[number - epoch.first]
        return [[self._sources[task][int(place)] for task, place in epoch.examples_n2[row]] for row in rows]

    def _epoch(self, epoch: int) -> _Epoch:
        """Plans an epoch whose predecessors have been planned; the last two plans are kept."""
        with self._lock:
            if epoch not in self._epochs:
                planned = self._plan(epoch)
                self._epochs = {key: plan for key, plan in self._epochs.items() if key >= epoch - 1} | {epoch: planned}
                if epoch + 1 == len(self._firsts):
                    self._firsts.append(planned.first + len(planned.groups))
            return self._epochs[epoch]

    def _plan(self, epoch: int) -> _Epoch:
        parts = [
            epoch_of_task(len(lengths), rate, epoch, (self._seed, number))
            for number, (lengths, rate) in enumerate(zip(self._lengths, self._rates, strict=True))
        ]
        tasks_n = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        examples_n2 = np.stack([tasks_n, np.concatenate(parts)], axis=1)
        lengths_n2 = np.concatenate([lengths[part] for lengths, part in zip(self._lengths, parts, strict=True)])
        rng = np.random.default_rng([self._seed, len(parts), epoch])
        order = rng.permutation(len(examples_n2))
        groups = pack(lengths_n2[order], self._layout.capacity, self._layout.group)
        shuffled = [groups[number] for number in rng.permutation(len(groups))]
        return _Epoch(self._firsts[epoch], examples_n2[order], shuffled)


class _ByNumber:
    """Random access to batches, in the form that Grain takes."""

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
    group: int = 1,
    part: slice | np.ndarray = slice(None),
    paths: SidPaths | None = None,
    top_k: int = 1,
    items: ItemPlaces | None = None,
) -> TrainBatches:
    """Batches without end.

    An epoch holds `rate` x rows of each task, so with a rate of 1 it shows each row once. Every epoch is shuffled and
    packed again.

    Args:
      sources: {task: random access to Example}.
      rates: {task: rate}, above 0, for the tasks to use; tasks are numbered in this order.
      sequence_length, rows, loss_slots, accumulation: T, B (of all processes), P and A.
      seed: seed of shuffling and packing.
      group: rows that share their loss slots.
      part: the groups of each micro-batch that this process feeds, as a slice or by their numbers.
      paths: if given, SID tokens are learned among their siblings in the catalogue.
      top_k: K, room for the SIDs that an example ranks.
      items: if given, it finds the items of histories, and batches have its keys too.

    Raises:
      UserError: the rates are so small that an epoch is empty, or the rows do not divide into groups.
    """
    if not any(int(len(sources[task]) * rate + 1e-9) for task, rate in rates.items()):
        raise UserError("an epoch holds no row: the rates (config.tasks.*.rate) are too small")
    layout = _Layout(accumulation, rows, sequence_length, loss_slots, group, paths, top_k, tuple(rates), items)
    return TrainBatches(sources, rates, layout, seed, part)


def packed_batches(
    examples: Sequence[Example],
    sequence_length: int,
    rows: int,
    loss_slots: int,
    group: int = 1,
    part: slice | np.ndarray = slice(None),
    paths: SidPaths | None = None,
    top_k: int = 1,
    items: ItemPlaces | None = None,
) -> Iterator[Batch]:
    """One pass over the examples, without an accumulation axis; the last batch is filled with empty rows.

    Args:
      examples: in the order in which they compete for places; their tasks are numbered in order of appearance.
      sequence_length, rows, loss_slots: T, B (of all processes) and P.
      group, part, paths, top_k, items: as in `train_batches`.
    """
    tasks = tuple(dict.fromkeys(example.task for example in examples))
    layout = _Layout(1, rows, sequence_length, loss_slots, group, paths, top_k, tasks, items)
    plan = pack(_lengths(examples, paths), layout.capacity, group) if examples else []
    for first in range(0, len(plan), layout.groups_of_step):
        chosen = plan[first : first + layout.groups_of_step]
        chosen = [*chosen, *[[]] * (layout.groups_of_step - len(chosen))]
        mine = [chosen[number] for number in np.arange(layout.groups_of_step)[part]]
        groups = [[[examples[number] for number in row] for row in members] for members in mine]
        yield layout.with_items(_stack([_group(members, layout) for members in groups], np.concatenate))


@dataclasses.dataclass(frozen=True)
class _Learned:
    """Positions of the tokens that an example teaches: those that need a loss slot, and those scored among siblings."""

    slots: np.ndarray
    sids: np.ndarray
    nodes: np.ndarray  # of `sids`


def _learned(example: Example, paths: SidPaths | None) -> _Learned:
    places = np.arange(example.prompt_length, len(example.tokens))
    nodes = np.full(len(places), -1, np.int32) if paths is None else paths.nodes(example.tokens)[places]
    return _Learned(places[nodes < 0], places[nodes >= 0], nodes[nodes >= 0])


def _targets(example: Example, targets_S: np.ndarray, levels: int, room: int) -> tuple[np.ndarray, np.ndarray]:
    """int32 target_SK and float32 probs_SK of an example's learned SID tokens.

    The SID at rank r in `example.ranked` has a probability in proportion to 1 / r. A token of a SID shares its place
    with the tokens of those ranked SIDs that begin like this SID; if none does, all probabilities there are 0. K is
    `room`; M is the number of SIDs, R the number ranked for each.
    """
    target_SK = np.zeros((len(targets_S), room), np.int32)
    probs_SK = np.zeros((len(targets_S), room), np.float32)
    target_SK[:, 0], probs_SK[:, 0] = targets_S, 1.0
    if len(example.ranked):
        drawn_MC = targets_S.reshape(-1, levels)
        ranked_MCR = example.ranked.reshape(len(drawn_MC), -1, levels).swapaxes(1, 2)
        begins_MCR = np.logical_and.accumulate(ranked_MCR == drawn_MC[..., None], axis=1)
        alike_MCR = np.concatenate([np.ones_like(begins_MCR[:, :1]), begins_MCR[:, :-1]], axis=1)
        count = ranked_MCR.shape[2]
        share_MCR = alike_MCR / np.arange(1, count + 1)
        total_MC1 = share_MCR.sum(axis=2, keepdims=True)
        target_SK[:, :count] = ranked_MCR.reshape(-1, count)
        probs_SK[:, :count] = np.divide(share_MCR, total_MC1, out=share_MCR, where=total_MC1 > 0).reshape(-1, count)
    return target_SK, probs_SK


def _lengths(examples: Sequence[Example], paths: SidPaths | None) -> np.ndarray:
    """int64 (n, 2): tokens and loss slots of each example."""
    pairs = [(len(example.tokens), len(_learned(example, paths).slots)) for example in examples]
    return np.array(pairs, np.int64).reshape(-1, 2)


def _stack(batches: Sequence[Batch], join: Callable[[list[np.ndarray]], np.ndarray]) -> Batch:
    return {key: join([batch[key] for batch in batches]) for key in batches[0]}


def _group(rows: Sequence[Sequence[Example]], layout: _Layout) -> Batch:
    """A batch of one group; a target's position in its row becomes its position in the group."""
    length, paths = layout.sequence_length, layout.paths
    tokens_BT, segment_ids_BT, positions_BT, node_BT = np.zeros((4, layout.group, length), np.int32)
    target_BTK = np.zeros((layout.group, length, layout.top_k), np.int32)
    probs_BTK = np.zeros((layout.group, length, layout.top_k), np.float32)
    sid_task_BT = np.full((layout.group, length), -1, np.int32)
    index_P, target_P = np.zeros((2, layout.loss_slots), np.int32)
    task_P = np.full(layout.loss_slots, -1, np.int32)
    slot = 0
    for row, examples in enumerate(rows):
        start = 0
        for number, example in enumerate(examples, 1):
            learned, task = _learned(example, paths), layout.tasks.index(example.task)
            here, there = slice(start, start + len(example.tokens)), slice(slot, slot + len(learned.slots))
            tokens_BT[row, here] = example.tokens
            segment_ids_BT[row, here] = number
            positions_BT[row, here] = np.arange(len(example.tokens))
            index_P[there] = row * length + start + learned.slots - 1
            target_P[there] = example.tokens[learned.slots]
            task_P[there] = task
            if paths is not None:
                before = start + learned.sids - 1
                node_BT[row, before] = learned.nodes
                targets_S = example.tokens[learned.sids] - paths.first_id
                target_SK, probs_SK = _targets(example, targets_S, paths.num_levels, layout.top_k)
                target_BTK[row, before], probs_BTK[row, before] = target_SK, probs_SK
                sid_task_BT[row, before] = np.where(probs_SK.any(axis=1), task, -1)
            start, slot = here.stop, there.stop
    batch: dict[str, np.ndarray] = {
        "tokens_BT": tokens_BT,
        "segment_ids_BT": segment_ids_BT,
        "positions_BT": positions_BT,
        "loss_index_GP": index_P[None],
        "loss_target_GP": target_P[None],
        "loss_task_GP": task_P[None],
    }
    if paths is not None:
        batch |= {
            "sid_node_BT": node_BT,
            "sid_target_BTK": target_BTK,
            "sid_target_probs_BTK": probs_BTK,
            "sid_task_BT": sid_task_BT,
        }
    return batch
