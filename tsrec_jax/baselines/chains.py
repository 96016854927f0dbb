"""Users' sequences put together again from rows of (history, next item), and packed for training.

A split holds every prefix of a sequence as a row of its own. A causal model learns from all of them at once: at every
position of the sequence it predicts the item that comes next.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.packing import pack


@dataclasses.dataclass(frozen=True)
class Chain:
    """One sequence of items, oldest first; each of the last `targets` of them is the target of one row."""

    items: tuple[int, ...]
    targets: int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packed:
    """Rows of T slots that hold several chains each.

    Attributes:
      items_BT: int32, an item that was had; 0 where the slot is empty.
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

    def rows(self, start: int, count: int) -> Packed:
        """`count` rows from `start`; empty ones where there are no more."""

        def cut(x_BT: np.ndarray) -> np.ndarray:
            taken = x_BT[start : start + count]
            return np.pad(taken, ((0, count - len(taken)), (0, 0)))

        return Packed(*(cut(getattr(self, field.name)) for field in dataclasses.fields(self)))


def chains_of(rows: Interactions, context: int) -> list[Chain]:
    """The chains of which the rows are prefixes: each row is a target of exactly one.

    A row goes on with the chain that is its whole history and of the same user. Any other row begins a chain of its
    own, with one target; so does a row whose history is longer than `context`, of which the newest items are kept.
    """
    chains: list[Chain] = []
    place: dict[tuple[str, tuple[int, ...]], int] = {}
    for user, history, target in zip(rows.users, rows.histories, rows.targets, strict=True):
        number = place.pop((user, history), None)
        if number is None or len(history) > context:
            number = len(chains)
            chains.append(Chain(history[-context:], 0))
        chain = chains[number]
        chains[number] = Chain((*chain.items, int(target)), chain.targets + 1)
        place[user, chains[number].items] = number
    return chains


def pack_chains(chains: list[Chain], slots: int, order: np.ndarray) -> Packed:
    """Packs the chains, taken in the given order, into rows of `slots` slots; no chain is split.

    Raises:
      ValueError: a chain that fits in no row.
    """
    taken = [chains[number] for number in order]
    lengths_n2 = np.array([[len(chain.items) - 1, chain.targets] for chain in taken])
    rows = [row for (row,) in pack(lengths_n2, (slots, slots))]
    packed = Packed(
        *(np.zeros((len(rows), slots), np.int32) for _ in range(4)), np.zeros((len(rows), slots), np.float32)
    )
    for row, members in enumerate(rows):
        start = 0
        for segment, number in enumerate(members, 1):
            items, targets = taken[number].items, taken[number].targets
            end = start + len(items) - 1
            packed.items_BT[row, start:end] = items[:-1]
            packed.positions_BT[row, start:end] = np.arange(end - start)
            packed.segments_BT[row, start:end] = segment
            packed.next_BT[row, start:end] = items[1:]
            packed.weight_BT[row, end - targets : end] = 1
            start = end
    return packed


def pad_histories(histories: tuple[tuple[int, ...], ...], rows: int, context: int) -> Packed:
    """One history a row, its newest `context` items, with nothing to predict; empty rows up to `rows`."""
    packed = Packed(*(np.zeros((rows, context), np.int32) for _ in range(4)), np.zeros((rows, context), np.float32))
    for row, history in enumerate(histories):
        kept = history[-context:]
        packed.items_BT[row, : len(kept)] = kept
        packed.positions_BT[row, : len(kept)] = np.arange(len(kept))
        packed.segments_BT[row, : len(kept)] = 1
    return packed
