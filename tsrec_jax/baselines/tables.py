"""The form in which a fitted baseline is kept and served: tables of items by items, and a score of each item by itself.

Whatever a baseline learned, its scores are sums over the items of a history. So a handful of arrays holds it, and the
one function that multiplies them gives the same scores, bit for bit, from memory and from a file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse

BELOW = float("-inf")  # a weight of `Seen`


@dataclasses.dataclass(frozen=True)
class Term:
    """One summand of the scores.

    Attributes:
      history_decay: of `history_weights`.
      table: float32, a sparse matrix or an array. Items by items, from an item of the history (row) to those it speaks
        for (column); or with `likeness` items by features, where items speak for each other by the products of their
        features.
      likeness: see `table`.
    """

    history_decay: float
    table: Any
    likeness: bool = False


@dataclasses.dataclass(frozen=True)
class Seen:
    """What the items of a history gain by being in it, in addition to what a recommender says about them.

    Attributes:
      weight: of `held_weights`, which are added to the scores; BELOW: they stand below all others, old ones too.
      history_decay: of `held_weights`.
      sids_I: int32, the number of each item's SID, as `Catalogue.sid_numbers_I`.
    """

    weight: float
    history_decay: float
    sids_I: np.ndarray

    def add(self, scores_BI: np.ndarray, histories: Sequence[Sequence[int]]) -> None:
        """Adds it to the scores in place."""
        own = held_weights(histories, self.sids_I, self.history_decay)
        if self.weight == BELOW:
            scores_BI[own.row, own.col] -= depth(scores_BI)[own.row]
        else:
            scores_BI[own.row, own.col] += np.float32(self.weight) * own.data


@dataclasses.dataclass(frozen=True)
class ItemTables:
    """Scores of all items as a sum over the items of a history.

    Attributes:
      bias_I: float32, what an item scores for every history.
      terms: what is added to it.
      seen: what is added to the items of the history; None: nothing. Which items share a SID is of the fit: SIDs that
        change in a live catalogue are not followed.
    """

    bias_I: np.ndarray
    terms: tuple[Term, ...] = ()
    seen: Seen | None = None

    def scores(self, histories: Sequence[Sequence[int]], *, seen: bool = True) -> np.ndarray:
        """float32 scores_BI of all items.

        Args:
          histories: catalogue indices, oldest first; one may be empty.
          seen: whether the items of the history count for themselves; without, this is what others say of them.
        """
        scores_BI = np.repeat(self.bias_I[None], len(histories), axis=0)
        for term in self.terms:
            found = history_weights(histories, len(self.bias_I), term.history_decay) @ term.table
            if term.likeness:
                found = found @ term.table.T
            scores_BI += found.toarray() if sparse.issparse(found) else found
        return self.with_seen(scores_BI, histories) if seen else scores_BI

    def with_seen(self, others_BI: np.ndarray, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """The scores with what the history's items gain by being in it, from `others_BI`, which is not changed."""
        if self.seen is None:
            return others_BI
        scores_BI = others_BI.copy()
        self.seen.add(scores_BI, histories)
        return scores_BI

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name, for a file."""
        arrays = {"bias": self.bias_I, "decays": np.array([term.history_decay for term in self.terms], np.float64)}
        arrays["likeness"] = np.array([term.likeness for term in self.terms], bool)
        for number, term in enumerate(self.terms):
            if isinstance(term.table, np.ndarray):
                arrays[f"table{number}"] = term.table
            else:
                parts = ("data", "indices", "indptr")
                arrays |= {f"table{number}.{part}": getattr(term.table, part) for part in parts}
                arrays[f"table{number}.shape"] = np.array(term.table.shape, np.int64)
        if self.seen is not None:
            arrays["seen"] = np.array([self.seen.weight, self.seen.history_decay], np.float64)
            arrays["sids"] = self.seen.sids_I
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ItemTables:
        """What `to_arrays` described.

        Raises:
          KeyError: an array is missing.
          ValueError: arrays do not fit together.
        """
        bias_I, terms = arrays["bias"], []
        for number, (decay, likeness) in enumerate(zip(arrays["decays"], arrays["likeness"], strict=True)):
            name = f"table{number}"
            if name in arrays:
                table: Any = arrays[name]
            else:
                parts = [arrays[f"{name}.{part}"] for part in ("data", "indices", "indptr")]
                table = sparse.csr_matrix(tuple(parts), shape=tuple(arrays[f"{name}.shape"]))
                table.check_format()
            if table.shape[0] != len(bias_I) or not (likeness or table.shape[1] == len(bias_I)):
                raise ValueError(f"a table of shape {table.shape} for {len(bias_I)} items")
            terms.append(Term(float(decay), table, bool(likeness)))
        if "seen" not in arrays:
            return cls(bias_I, tuple(terms))
        (weight, decay), sids_I = arrays["seen"], arrays["sids"]
        if len(sids_I) != len(bias_I):
            raise ValueError(f"SIDs of {len(sids_I)} items for {len(bias_I)} items")
        return cls(bias_I, tuple(terms), Seen(float(weight), float(decay), sids_I))


def depth(scores_BI: np.ndarray) -> np.ndarray:
    """float32 (B), by how much any item must fall to stand below all others."""
    spread_B = np.ptp(scores_BI, axis=1)
    return np.where(spread_B > 0, 2 * spread_B, np.float32(1))


def held_weights(histories: Sequence[Sequence[int]], sids_I: np.ndarray, decay: float) -> sparse.coo_matrix:
    """float32 weights_BI, sparse: of each item that a history holds what `seen_weights` gives its SID, also 0.

    Items that share a SID are recommended as one, so a history that holds one of them holds them all.

    Args:
      histories: items, oldest first; one may be empty.
      sids_I: the number of each item's SID, as `Catalogue.sid_numbers_I`.
      decay: of `history_weights`.
    """
    return seen_weights(histories, sids_I, decay)[:, sids_I].tocoo()


def seen_weights(histories: Sequence[Sequence[int]], sids_I: np.ndarray, decay: float) -> sparse.csr_matrix:
    """float32 weights_BU, sparse: `history_weights` of SIDs; each that the history holds is stored, also as 0."""
    return history_weights([sids_I[list(history)].tolist() for history in histories], len(sids_I), decay)


def history_weights(histories: Sequence[Sequence[int]], num_items: int, decay: float) -> sparse.csr_matrix:
    """float32 weights_BI, sparse: `decay` to the power of an item's distance from the newest, each row of sum 1.

    An item that stands several times has the sum of its weights; a decay of 0 keeps the newest item alone.
    """
    lengths_B = np.fromiter(map(len, histories), np.int64, len(histories))
    starts_B = np.concatenate([[0], np.cumsum(lengths_B)])
    items = np.fromiter((item for history in histories for item in history), np.int64, starts_B[-1])
    rows = np.repeat(np.arange(len(histories)), lengths_B)
    weights = np.power(float(decay), starts_B[1:][rows] - 1 - np.arange(len(items)))
    weights /= np.bincount(rows, weights, len(histories))[rows]
    return sparse.csr_matrix((weights.astype(np.float32), (rows, items)), shape=(len(histories), num_items))
