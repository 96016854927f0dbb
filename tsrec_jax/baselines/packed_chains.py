"""Chains of rows packed for training a model of items, which at every position predicts the item that comes next."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.packing import pack
from tsrec_jax.data.user_sequences import ItemSequence


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packed:
    """Rows of T slots that hold several chains each.

    Attributes:
      items_BT: int32, an item that the user had; 0 where the slot is empty.
      positions_BT: int32, its place in its chain, from 0.
      segments_BT: int32, number of the chain within its row, from 1; 0 where the slot is empty.
      next_BT: int32, the item that came next.
      weight_BT: float32, 1 where that is the target of a row, else 0.
    """

    items_BT: np.ndarray
    positions_BT: np.ndarray
    segments_BT: np.ndarray
    next_BT: np.ndarray
    weight_BT: np.ndarray

    @classmethod
    def empty(cls, rows: int, slots: int) -> Packed:
        """Rows in which every slot is empty, to be filled in place."""
        items_BT, positions_BT, segments_BT, next_BT = np.zeros((4, rows, slots), np.int32)
        return cls(items_BT, positions_BT, segments_BT, next_BT, np.zeros((rows, slots), np.float32))

    def rows(self, start: int, count: int) -> Packed:
        """`count` rows from `start`; filled up with empty rows where there are no more."""

        def cut(x_BT: np.ndarray) -> np.ndarray:
            taken = x_BT[start : start + count]
            return np.pad(taken, ((0, count - len(taken)), (0, 0)))

        return Packed(*(cut(getattr(self, field.name)) for field in dataclasses.fields(self)))


def item_chains(rows: Interactions, context: int) -> list[ItemSequence]:
    """Chains of at most `context` items before the last target, in which every row is the target once.

    A row continues another one of its user when its history is the newest part of that one's history and target, so
    that rows are joined also across the place where their histories were cut at the oldest end; of rows with equally
    long histories, a later one continues an earlier one. What is joined is divided from its newest item backwards: the
    first targets of a part see less than `context` items, and nothing is read twice.

    Args:
      rows: the rows of one split.
      context: most items of a history that are read; the longest history of `rows` if none is that long.
    """
    context = min(context, max(map(len, rows.histories)))
    histories = [history[-context:] for history in rows.histories]
    joined: list[tuple[list[int], int]] = []  # items, and how many of the first ones are not targets
    open_at: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for row in sorted(range(len(rows)), key=lambda row: len(histories[row])):
        user, history = rows.users[row], histories[row]
        if waiting := open_at.get((user, history)):
            number = waiting.pop()
        else:
            number = len(joined)
            joined.append((list(history), len(history)))
        items = joined[number][0]
        items.append(int(rows.targets[row]))
        open_at.setdefault((user, tuple(items[-context:])), []).append(number)
    found = []
    for items, first in joined:
        end = len(items)
        while end > max(first, 1):  # an item with nothing before it is not a target
            start = max(0, end - 1 - context)
            found.append(ItemSequence(tuple(items[start:end]), max(first - start, 1), ()))
            end = start + 1
    return found


def pack_chains(chains: list[ItemSequence], slots: int, order: np.ndarray) -> Packed:
    """Packs the chains, taken in the given order, into rows of `slots` slots; no chain is split.

    Raises:
      ValueError: a chain fits in no row.
    """
    taken = [chains[number] for number in order]
    lengths_n2 = np.array([[len(chain.items) - 1, len(chain.items) - chain.first] for chain in taken])
    rows = [row for (row,) in pack(lengths_n2, (slots, slots))]
    packed = Packed.empty(len(rows), slots)
    for row, members in enumerate(rows):
        start = 0
        for segment, number in enumerate(members, 1):
            items, first = taken[number].items, taken[number].first
            end = start + len(items) - 1
            packed.items_BT[row, start:end] = items[:-1]
            packed.positions_BT[row, start:end] = np.arange(end - start)
            packed.segments_BT[row, start:end] = segment
            packed.next_BT[row, start:end] = items[1:]
            packed.weight_BT[row, start + first - 1 : end] = 1
            start = end
    return packed


def pad_histories(histories: Sequence[Sequence[int]], rows: int, context: int) -> Packed:
    """One history per row, its newest `context` items, with nothing to predict; empty rows up to `rows`."""
    packed = Packed.empty(rows, context)
    for row, history in enumerate(histories):
        kept = history[-context:]
        packed.items_BT[row, : len(kept)] = kept
        packed.positions_BT[row, : len(kept)] = np.arange(len(kept))
        packed.segments_BT[row, : len(kept)] = 1
    return packed
