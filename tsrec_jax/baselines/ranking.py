"""From scores of items to ranked SIDs, and how good a ranking is on the split that settings are chosen on.

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
from tsrec_jax.data.target_ranks import ndcg_of_ranks
from tsrec_jax.errors import UserError

CHUNK = 512  # histories whose scores exist at one time
CUT = 10  # of the NDCG that settings are chosen by
ROUNDS = 4  # passes over all settings in a search


class Fitted(Protocol):
    """A fitted baseline.

    Attributes:
      facts: chosen settings, the numbers it keeps (`parameters`), and what else is worth reporting, as plain values.
    """

    @property
    def facts(self) -> Mapping[str, Any]: ...

    def scores(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """float32 scores_BI, finite, of all items for each history (catalogue indices, oldest first)."""
        ...


class FittedTables(Fitted, Protocol):
    """One that can be exported."""

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
    best_BU = _sid_scores(scores_BI, catalogue)
    order_BU = np.argsort(-best_BU, axis=1, kind="stable")[:, :length]
    return [[sids[number] for number in order_U] for order_U in order_BU]


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
    best_BU = _sid_scores(scores_BI, catalogue)
    target_B = catalogue.sid_numbers_I[targets_B]
    wanted_B1 = np.take_along_axis(best_BU, target_B[:, None], axis=1)
    before_U = np.arange(best_BU.shape[1])
    ties_B = ((best_BU == wanted_B1) & (before_U < target_B[:, None])).sum(axis=1)
    return (best_BU > wanted_B1).sum(axis=1) + ties_B


def ndcg(scores: Callable[[Sequence[Sequence[int]]], np.ndarray], rows: Interactions, catalogue: Catalogue) -> float:
    """SID-level NDCG@10 over rows, full ranking; `scores` maps histories to scores_BI, a chunk at a time.

    Raises:
      UserError: there are no rows to choose by.
    """
    need_rows(rows)
    ranks = [
        target_ranks(scores(rows.histories[start : start + CHUNK]), rows.targets[start : start + CHUNK], catalogue)
        for start in range(0, len(rows), CHUNK)
    ]
    return float(ndcg_of_ranks(np.concatenate(ranks), CUT).mean())


def need_rows(rows: Interactions) -> None:
    """Raises UserError where there are none to choose by."""
    if not len(rows):
        raise UserError("the selection split holds no rows, so no setting can be chosen on it; give one with rows")


def best_settings(
    start: Mapping[str, float], grids: Mapping[str, Sequence[float]], value: Callable[[Mapping[str, float]], float]
) -> tuple[dict[str, float], float]:
    """Coordinate search: one setting after another goes to the best of its grid, until a pass changes none.

    Args:
      start: where it begins.
      grids: the values to try of the settings that are searched, in this order.
      value: what is to be large; asked once for the same settings.

    Returns:
      The settings found and their value; a tie keeps what was found first.
    """
    known: dict[tuple[float, ...], float] = {}

    def known_value(settings: Mapping[str, float]) -> float:
        key = tuple(settings[name] for name in start)
        if key not in known:
            known[key] = value(settings)
        return known[key]

    found = dict(start)
    best = known_value(found)
    for _ in range(ROUNDS):
        before = dict(found)
        for name, grid in grids.items():
            for candidate in grid:
                tried = {**found, name: candidate}
                if known_value(tried) > best:
                    found, best = tried, known_value(tried)
        if found == before:
            break
    return found, best


def _sid_scores(scores_BI: np.ndarray, catalogue: Catalogue) -> np.ndarray:
    """scores_BU of the U distinct SIDs, in the order of `items_of_sid`."""
    if scores_BI.shape[1] != catalogue.num_items:
        raise ValueError(f"scores of {scores_BI.shape[1]} items for a catalogue of {catalogue.num_items}")
    if not np.isfinite(scores_BI).all():
        raise ValueError("a score is not finite")
    numbers_I = catalogue.sid_numbers_I
    first_U = np.unique(numbers_I, return_index=True)[1]
    best_BU = scores_BI[:, first_U]
    for item in np.setdiff1d(np.arange(len(numbers_I)), first_U):  # few: the others of the items that share a SID
        column_B = best_BU[:, numbers_I[item]]
        np.maximum(column_B, scores_BI[:, item], out=column_B)
    return best_BU
