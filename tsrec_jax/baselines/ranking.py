"""From scores of items to ranked SIDs.

The score of a SID is the best of its items' scores; equal scores go in catalogue order.

Axis letters: B rows, I items, U distinct SIDs in the order of `Catalogue.items_of_sid`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tsrec_jax.baselines.tables import ItemTables
from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.interactions import Interactions

CHUNK = 512  # histories whose scores are in memory at a time


class Fitted(Protocol):
    """A fitted baseline.

    Attributes:
      facts: plain values: chosen settings, those `at_end` of what was tried (see `Choice`), how many numbers it keeps
        (`parameters`), and whatever else is worth reporting.
    """

    @property
    def facts(self) -> Mapping[str, Any]: ...

    def scores(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """float32 scores_BI, finite, of all items for each history (catalogue indices, oldest first)."""
        ...


class FittedTables(Fitted, Protocol):
    """A fitted baseline that can be exported."""

    @property
    def tables(self) -> ItemTables: ...


Vectors = Callable[[], np.ndarray]  # makes float32 x_ID of the catalogue's items
Fit = Callable[[Catalogue, Interactions, Interactions, int, Callable[[str], None]], Fitted]
FitVectors = Callable[[Catalogue, Interactions, Interactions, int, Callable[[str], None], Vectors], Fitted]


def rank_sids(scores_BI: np.ndarray, catalogue: Catalogue, length: int) -> list[list[str]]:
    """The `length` best SIDs of each row, best first, none twice.

    Raises:
      ValueError: a score is not finite (a NaN compares false with everything and would rank anywhere), or the number of
        items is not the catalogue's.
    """
    sids = list(catalogue.items_of_sid)
    best_BU = sid_scores(scores_BI, catalogue)
    order_BU = np.argsort(-best_BU, axis=1, kind="stable")[:, :length]
    return [[sids[number] for number in order_U] for order_U in order_BU]


def sid_scores(scores_BI: np.ndarray, catalogue: Catalogue) -> np.ndarray:
    """scores_BU of the U distinct SIDs, in the order of `items_of_sid`; `scores_BI` itself where no items share one.

    Raises:
      ValueError: as in `rank_sids`.
    """
    if scores_BI.shape[1] != catalogue.num_items:
        raise ValueError(f"scores of {scores_BI.shape[1]} items for a catalogue of {catalogue.num_items}")
    if not np.isfinite(scores_BI).all():
        raise ValueError("a score is not finite")
    if len(catalogue.items_of_sid) == catalogue.num_items:
        return scores_BI
    numbers_I = catalogue.sid_numbers_I
    first_U = np.unique(numbers_I, return_index=True)[1]
    best_BU = scores_BI[:, first_U]
    for item in np.setdiff1d(np.arange(len(numbers_I)), first_U):  # few: further items of shared SIDs
        column_B = best_BU[:, numbers_I[item]]
        np.maximum(column_B, scores_BI[:, item], out=column_B)
    return best_BU


def best_items(scores_BI: np.ndarray, count: int) -> np.ndarray:
    """int32 best_BR, the `count` best items of each row (all, where there are fewer), best first; ties in any order."""
    count = min(count, scores_BI.shape[1])
    best_BR = np.argpartition(-scores_BI, count - 1, axis=1)[:, :count]
    order_BR = np.argsort(-np.take_along_axis(scores_BI, best_BR, axis=1), axis=1)
    return np.take_along_axis(best_BR, order_BR, axis=1).astype(np.int32)


def target_ranks(scores_BI: np.ndarray, targets_B: np.ndarray, catalogue: Catalogue) -> np.ndarray:
    """int64 ranks_B, from 0, at which `rank_sids` would place the target's SID.

    Raises:
      ValueError: as in `rank_sids`.
    """
    return sid_ranks(sid_scores(scores_BI, catalogue), catalogue.sid_numbers_I[targets_B])


def sid_ranks(best_BU: np.ndarray, target_B: np.ndarray) -> np.ndarray:
    """int64 ranks_B, from 0, of one SID in each row of `sid_scores`; equals go in catalogue order."""
    wanted_B1 = np.take_along_axis(best_BU, target_B[:, None], axis=1)
    ranks_B = np.count_nonzero(best_BU > wanted_B1, axis=1)
    tied_B = np.flatnonzero(np.count_nonzero(best_BU >= wanted_B1, axis=1) > ranks_B + 1)  # few
    before_BU = np.arange(best_BU.shape[1]) < target_B[tied_B, None]
    ranks_B[tied_B] += np.count_nonzero((best_BU[tied_B] == wanted_B1[tied_B]) & before_BU, axis=1)
    return ranks_B
