"""Scores of items, from any source, in the form in which the search adds them to its own: one number per prefix.

The search then looks for the SIDs of the largest log P(SID | history) + score(SID | history), a product of two experts
whose normaliser no ranking needs. Unlike sorting a list again afterwards, this finds items that the model alone would
not have listed. A SID has the best score of its items, and a prefix that of the best SID below it. So a prefix never
scores less than a SID below it, and what a search proves without a prior it also proves with one.

Axis letters as elsewhere, and E entries (the items that have scores, then room for items that join), S siblings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from tsrec_jax.decoding.trie import WORD, Trie, TrieArrays
from tsrec_jax.models.dense_head import DenseScorer

SIBLINGS = 8  # at most, by which an item that joined is scored
_ROOM = 64  # for items that join; each time it is full it is doubled, and the search is compiled again
_NO_ITEM = -1  # the codes of an entry that is free


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScoredItems:
    """Where the items that have scores lie in a trie.

    Attributes:
      number: for each level int32 (slots,), the number of each slot's prefix; a dead slot has any value.
      above: for each level int32 (E,), the number of the prefix that an entry lies under.
      alive_E: bool, whether an entry is an item that may be recommended.
      siblings_RS: int32, for each entry after the items: the items whose mean score it has.
      share_RS: float32, the weights of that mean; each row that is in use sums to 1.
    """

    number: tuple[jax.Array, ...]
    above: tuple[jax.Array, ...]
    alive_E: jax.Array
    siblings_RS: jax.Array
    share_RS: jax.Array


def padded_length(items: int) -> int:
    """The length that a history of this many items is padded to for the dense head; a search is compiled for each."""
    return max(32, 1 << (items - 1).bit_length())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DenseScores:
    """A dense head's log-probabilities as part of the items' scores; the search computes them from its own state.

    Attributes:
      scorer: the head.
      history_BH: int32 items, oldest first, padded at the end.
      lengths_B: int32 items of each history.
      weight_BI: float32, what the log-probabilities are multiplied by; (B, 1) if it is the same for all items.
    """

    scorer: DenseScorer
    history_BH: jax.Array | np.ndarray
    lengths_B: jax.Array | np.ndarray
    weight_BI: jax.Array | np.ndarray

    @classmethod
    def of(cls, scorer: DenseScorer, histories: Sequence[Sequence[int]], weight_BI: np.ndarray) -> DenseScores:
        """Pads the histories to a power of two, so that few lengths are compiled."""
        history_BH = np.zeros((len(histories), padded_length(max(map(len, histories)))), np.int32)
        for row, history in enumerate(histories):
            history_BH[row, : len(history)] = history
        return cls(scorer, history_BH, np.array(list(map(len, histories)), np.int32), np.asarray(weight_BI, np.float32))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prior:
    """What else is known about the items for each request, added to the scores; made by `PriorNodes`.

    Attributes:
      items: where they lie.
      scores_BE: float32, in nats.
      dense: what a dense head adds to them; None: nothing.
    """

    items: ScoredItems
    scores_BE: jax.Array | np.ndarray
    dense: DenseScores | None = None


def prefix_values(prior: Prior, x_DB: jax.Array) -> tuple[jax.Array, ...]:
    """For each level float32 (B, E), the best score below every prefix, by its number; -inf if no item is left.

    Args:
      prior: the prior of the requests.
      x_DB: hidden state of each prompt's last token after the final norm.
    """
    scores_BE, items = jnp.asarray(prior.scores_BE), prior.items
    if prior.dense is not None:
        dense = prior.dense
        log_p_BI = dense.scorer.scores(x_DB.T, jnp.asarray(dense.history_BH), jnp.asarray(dense.lengths_B))
        own_BI = jnp.asarray(dense.weight_BI) * log_p_BI
        joined_BR = jnp.einsum("brs,rs->br", own_BI[:, items.siblings_RS], items.share_RS)
        scores_BE = scores_BE + jnp.concatenate([own_BI, joined_BR], axis=1)
    scores_EB = jnp.where(items.alive_E[:, None], scores_BE.T, -jnp.inf)
    return tuple(jax.ops.segment_max(scores_EB, above_E, len(scores_EB)).T for above_E in items.above)


def values_of(number_N: jax.Array, value_BE: jax.Array, first_BW: jax.Array, width: int) -> jax.Array:
    """The value of every candidate of a level, (B, W, K)."""
    slots_BWK = jnp.minimum(first_BW[..., None] + jnp.arange(width), number_N.shape[0] - 1)
    return value_BE[jnp.arange(first_BW.shape[0])[:, None, None], number_N[slots_BWK]]


class PriorNodes:
    """Which items lie below which prefixes of a trie, as it is now. Not safe for several threads.

    Args:
      trie: the valid SIDs; its changes are followed.
      codes_IC: integer codes of the items that will have scores; an item whose SID is not in the trie counts for
        nothing.
      joining: whether items without scores may join.
    """

    def __init__(self, trie: Trie, codes_IC: np.ndarray, *, joining: bool = False):
        self._trie, self._items = trie, len(codes_IC)
        self._codes_EC = np.array(codes_IC, np.int64)
        self._alive_E = np.ones(self._items, bool)
        self._siblings_RS = np.zeros((0, SIBLINGS), np.int32)
        self._share_RS = np.zeros((0, SIBLINGS), np.float32)
        self._known_IC = self._codes_EC.copy()  # siblings are found by these, wherever items go later
        self._first: dict[int, int | None] = {}  # the first sibling of each entry that joined
        self._free: list[int] = []  # entries for items that join
        self._base: TrieArrays | None = None
        self._found: ScoredItems | None = None
        if joining:
            self._grow(_ROOM)

    def join(self, codes: Sequence[int], *, alive: bool = True) -> int:
        """Adds an item without scores; it gets the mean score of the items that share most of its first codes.

        If none shares the first code, it gets the mean of items all over the catalogue: log-probabilities lie below 0,
        so a score of 0 would put it before all others.

        Args:
          codes: its SID.
          alive: whether it may be recommended.

        Returns:
          Its entry.
        """
        if not self._free:
            self._grow(max(_ROOM, len(self._share_RS)))
        entry = self._free.pop()
        self.set(entry, codes, alive=alive)
        return entry

    def set(self, entry: int, codes: Sequence[int], *, alive: bool = True) -> None:
        """Gives an entry another SID; one that joined is then as if it had joined with this SID.

        Args:
          entry: the entry.
          codes: its SID.
          alive: whether it may be recommended.
        """
        if entry >= self._items and (self._codes_EC[entry] != np.asarray(codes)).any():
            self._find_siblings(entry, codes)
        self._place(entry, codes, alive)

    def remove(self, entry: int) -> None:
        """Takes the item of an entry away: one that joined leaves its place to others, one that has scores may return
        by `set`."""
        if entry < self._items:
            self._place(entry, self._known_IC[entry], False)
        else:
            del self._first[entry]
            self._free.append(entry)
            self._place(entry, _NO_ITEM, False)

    @property
    def as_begun(self) -> bool:
        """Whether no item has joined and all have the SIDs that they began with."""
        return not self._first and np.array_equal(self._codes_EC[: self._items], self._known_IC)

    def scores(self, scores_BI: np.ndarray) -> np.ndarray:
        """float32 scores_BE: those of the items, then the means for those that joined.

        Args:
          scores_BI: float32, of the items in the order of `codes_IC`.
        """
        joined_BR = np.einsum("brs,rs->br", scores_BI[:, self._siblings_RS], self._share_RS)
        return np.concatenate([scores_BI, joined_BR], axis=1)

    def prior(self, scores_BE: np.ndarray, dense: DenseScores | None = None) -> Prior:
        """The prior of a batch.

        Args:
          scores_BE: float32, in nats, as `scores` gives them; scores of the items alone if none may join.
          dense: what a dense head adds.

        Raises:
          ValueError: a score is not finite (filters say what may not be recommended), or a SID of the trie belongs to
            no entry, so that it would have no score.
        """
        if not np.isfinite(scores_BE).all():
            raise ValueError("a score of the prior is not finite")
        return Prior(self._follow(), np.asarray(scores_BE, np.float32), dense)

    def known(self, entry: int) -> int | None:
        """The entry itself if it has scores; for an item that joined, the first of the items that share most codes with
        it, or None if none shares its first code."""
        return entry if entry < self._items else self._first[entry]

    def of_same_sids(self, entries: Sequence[int]) -> np.ndarray:
        """int (N), the entries whose SID is now that of one of these."""
        return np.flatnonzero((self._codes_EC[:, None] == self._codes_EC[list(entries)]).all(axis=2).any(axis=1))

    def best_of_sids(self, scores_BE: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int32 codes_UC of the SIDs that are alive, in rising order, and float32 (B, U), the best score of each.

        Args:
          scores_BE: float32, as `scores` gives them.
        """
        entries = np.flatnonzero(self._alive_E)
        entries = entries[self._trie.contains(self._codes_EC[entries])]
        codes_UC, number_J = np.unique(self._codes_EC[entries], axis=0, return_inverse=True)
        order_J = np.argsort(number_J.reshape(-1), kind="stable")
        if not len(order_J):
            return codes_UC.astype(np.int32), np.zeros((len(scores_BE), 0), np.float32)
        starts_U = np.searchsorted(number_J.reshape(-1)[order_J], np.arange(len(codes_UC)))
        return codes_UC.astype(np.int32), np.maximum.reduceat(scores_BE[:, entries[order_J]], starts_U, axis=1)

    def _follow(self) -> ScoredItems:
        """The arrays for the trie as it is now; new ones keep the shapes of the old ones while there is room."""
        if self._found is not None and self._base is self._trie.arrays:
            return self._found
        entries = np.flatnonzero(self._alive_E)
        entries = entries[self._trie.contains(self._codes_EC[entries])]
        slots_JC = self._trie.slots(self._codes_EC[entries])
        if len(np.unique(slots_JC[:, -1])) != self._trie.num_sids:
            raise ValueError("the trie has SIDs that no item with a score carries")
        number, above = [], []
        for slot_J, level in zip(slots_JC.T, self._trie.arrays.levels, strict=True):
            slots_N, prefix_J = np.unique(slot_J, return_inverse=True)
            numbers = np.zeros(level.alive_RM.shape[1] * WORD, np.int32)
            numbers[slots_N] = np.arange(len(slots_N))
            above_E = np.zeros(len(self._alive_E), np.int32)
            above_E[entries] = prefix_J
            number.append(jnp.asarray(numbers))
            above.append(jnp.asarray(above_E))
        alive_E = np.zeros(len(self._alive_E), bool)
        alive_E[entries] = True
        siblings = jnp.asarray(self._siblings_RS), jnp.asarray(self._share_RS)
        self._found = ScoredItems(tuple(number), tuple(above), jnp.asarray(alive_E), *siblings)
        self._base = self._trie.arrays
        return self._found

    def _place(self, entry: int, codes: ArrayLike, alive: bool) -> None:
        self._codes_EC[entry], self._alive_E[entry] = codes, alive
        self._base = None

    def _find_siblings(self, entry: int, codes: Sequence[int]) -> None:
        shared_I = np.cumprod(self._known_IC == np.asarray(codes), axis=1).sum(axis=1)
        nearest = np.flatnonzero(shared_I == shared_I.max(initial=0))
        siblings = nearest[np.linspace(0, len(nearest) - 1, min(SIBLINGS, len(nearest))).astype(np.int64)]
        row = entry - self._items
        self._siblings_RS[row], self._share_RS[row] = 0, 0
        self._siblings_RS[row, : len(siblings)] = siblings
        self._share_RS[row, : len(siblings)] = np.float32(1 / max(len(siblings), 1))
        self._first[entry] = int(siblings[0]) if shared_I.any() else None

    def _grow(self, rows: int) -> None:
        begun = len(self._codes_EC)
        self._free.extend(reversed(range(begun, begun + rows)))
        more_EC = np.full((rows, self._codes_EC.shape[1]), _NO_ITEM, np.int64)
        self._codes_EC = np.concatenate([self._codes_EC, more_EC])
        self._alive_E = np.concatenate([self._alive_E, np.zeros(rows, bool)])
        self._siblings_RS = np.concatenate([self._siblings_RS, np.zeros((rows, SIBLINGS), np.int32)])
        self._share_RS = np.concatenate([self._share_RS, np.zeros((rows, SIBLINGS), np.float32)])
