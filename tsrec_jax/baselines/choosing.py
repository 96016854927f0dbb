"""Settings chosen by NDCG@10 on the selection split, including how much the items of a history themselves count.

Axis letters: B rows, U distinct SIDs in the order of `Catalogue.items_of_sid`, G the weights in SEEN.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tsrec_jax.baselines.ranking import CHUNK, sid_ranks, sid_scores, target_ranks
from tsrec_jax.baselines.tables import BELOW, depth, seen_weights
from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.target_ranks import ndcg_of_ranks
from tsrec_jax.errors import UserError

CUT = 10  # cut-off of the NDCG by which settings are chosen
ROUNDS = 4  # passes over all settings in a search
# Weights of `tables.Seen`, for scores of every size: cosines, shares, logits. Of equally good ones, the first wins.
SIZES = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0)
SEEN = (0.0, BELOW, *(sign * size for size in SIZES for sign in (1, -1)))


@dataclasses.dataclass(frozen=True)
class Choice:
    """Settings chosen on the selection split.

    Attributes:
      settings: the values by name.
      value: their NDCG@10 there.
      at_end: settings at the first or last value tried, where a value beyond might do better. This excludes 0 and
        infinity, which leave something out, and a largest value of 1, where decays and shares end.
    """

    settings: Mapping[str, float]
    value: float
    at_end: tuple[str, ...]

    @property
    def facts(self) -> Mapping[str, Any]:
        """The choice for `Fitted.facts`, as plain JSON values."""
        settings = {name: "below all others" if value == BELOW else value for name, value in self.settings.items()}
        return {"settings": settings, "at_end": list(self.at_end)}

    def said(self, name: str) -> str:
        """A line for the report of the baseline with this name."""
        plain = self.facts["settings"]
        chosen = ", ".join(f"{key} {value if isinstance(value, str) else f'{value:g}'}" for key, value in plain.items())
        end = f"; at the end of what was tried: {', '.join(self.at_end)}" if self.at_end else ""
        return f"{name}: {chosen}, NDCG@10 {self.value:.4f} on selection{end}"


def best_settings(
    start: Mapping[str, float], grids: Mapping[str, Sequence[float]], value: Callable[[Mapping[str, float]], float]
) -> Choice:
    """Coordinate search: sets one setting after another to the best value of its grid, until a pass changes none.

    Args:
      start: where the search begins.
      grids: the values to try for each setting, searched in this order.
      value: what to maximise; called once for the same settings.

    Returns:
      The settings found and their value; in a tie, the first found.
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
    at_end = [name for name, grid in grids.items() if at_end_of(found[name], (start[name], *grid))]
    return Choice(found, best, tuple(at_end))


def at_end_of(value: float, tried: Sequence[float]) -> bool:
    """Whether a setting of this value belongs to `Choice.at_end`."""
    if value == 0 or math.isinf(value) or value == 1 == max(tried):
        return False
    return len(set(tried)) > 1 and value in (min(tried), max(tried))


def best_with_seen(
    start: Mapping[str, float], grids: Mapping[str, Sequence[float]], choose: Callable[[Mapping[str, float]], Choice]
) -> Choice:
    """As `best_settings`, but chooses `seen` again for every trial of the other settings.

    Args:
      start, grids: as in `best_settings`, for the other settings.
      choose: maps the other settings to what `choose_seen` chooses with them.
    """
    chosen: dict[tuple[float, ...], Choice] = {}

    def value(settings: Mapping[str, float]) -> float:
        key = tuple(settings.values())
        chosen[key] = choose(settings)
        return chosen[key].value

    found = best_settings(start, grids, value)
    own = chosen[tuple(found.settings.values())]
    return Choice({**found.settings, **own.settings}, own.value, (*found.at_end, *own.at_end))


def choose_seen(
    scores: Callable[[Sequence[Sequence[int]]], np.ndarray], rows: Interactions, catalogue: Catalogue, decay: float
) -> Choice:
    """Chooses the weight in SEEN that ranks `rows` best.

    Args:
      scores: maps histories to scores_BI, a chunk at a time.
      rows, catalogue: what is ranked.
      decay: as in `Seen`.

    Raises:
      UserError: there are no rows to choose by.
    """
    return choose_seen_by_row(lambda chunk: scores(rows.histories[chunk]), rows, catalogue, decay)


def choose_seen_by_row(
    scores: Callable[[slice], np.ndarray], rows: Interactions, catalogue: Catalogue, decay: float
) -> Choice:
    """As `choose_seen`, but `scores` is given a chunk as a slice of the rows."""
    return _chosen_by_decay(scores, rows, catalogue, [decay])[0]


def choose_seen_and_decay(
    scores: Callable[[Sequence[Sequence[int]]], np.ndarray],
    rows: Interactions,
    catalogue: Catalogue,
    decays: Sequence[float],
) -> Choice:
    """As `choose_seen`, but also chooses the best of `decays` as `seen_decay`; among equally good ones, the first."""
    choices = _chosen_by_decay(lambda chunk: scores(rows.histories[chunk]), rows, catalogue, decays)
    decay, own = max(zip(decays, choices, strict=True), key=lambda pair: pair[1].value)
    counts = own.settings["seen"] not in (0, BELOW)  # with these the decay changes nothing
    at_end = ("seen_decay",) if counts and at_end_of(decay, decays) else ()
    return Choice({"seen_decay": decay, **own.settings}, own.value, (*at_end, *own.at_end))


def _chosen_by_decay(
    scores: Callable[[slice], np.ndarray], rows: Interactions, catalogue: Catalogue, decays: Sequence[float]
) -> list[Choice]:
    """The weight in SEEN that ranks `rows` best for each decay; a chunk's scores are computed once for all decays."""
    need_rows(rows)
    totals_G = {decay: np.zeros(len(SEEN)) for decay in decays}
    for start in range(0, len(rows), CHUNK):
        chunk = slice(start, start + CHUNK)
        best_BU = sid_scores(scores(chunk), catalogue)
        for decay in decays:
            ranks_GB = ranks_by_seen(best_BU, rows.histories[chunk], rows.targets[chunk], catalogue, decay)
            totals_G[decay] += ndcg_of_ranks(ranks_GB, CUT).sum(axis=1)
    found = []
    for own_G in totals_G.values():
        best = int(own_G.argmax())
        at_end = ("seen",) if at_end_of(SEEN[best], SEEN) else ()
        found.append(Choice({"seen": SEEN[best]}, float(own_G[best] / len(rows)), at_end))
    return found


def ranks_by_seen(
    best_BU: np.ndarray, histories: Sequence[Sequence[int]], targets_B: np.ndarray, catalogue: Catalogue, decay: float
) -> np.ndarray:
    """int64 ranks_GB of the targets by the scores after `Seen` adds each weight in SEEN.

    Few scores change with the weight, so all scores of a row are compared once, and again only if the history holds the
    target.

    Args:
      best_BU: what `sid_scores` gives; it is not changed.
      histories, targets_B, catalogue: those of the rows.
      decay: of `Seen`.
    """
    own = seen_weights(histories, catalogue.sid_numbers_I, decay).tocoo()
    target_B = catalogue.sid_numbers_I[targets_B]
    wanted_B = best_BU[np.arange(len(best_BU)), target_B]
    held, depth_B = best_BU[own.row, own.col], depth(best_BU)

    def before(scores: np.ndarray) -> np.ndarray:
        wanted = wanted_B[own.row]
        ahead = (scores > wanted) | ((scores == wanted) & (own.col < target_B[own.row]))
        return np.bincount(own.row[ahead], minlength=len(best_BU))

    others_B = sid_ranks(best_BU, target_B) - before(held)
    back_B = np.flatnonzero(np.bincount(own.row[own.col == target_B[own.row]], minlength=len(best_BU)))
    place = np.searchsorted(back_B, own.row)
    mine = np.isin(own.row, back_B)
    again_BU = best_BU[back_B]
    ranks_GB = []
    for weight in SEEN:
        scores = held - depth_B[own.row] if weight == BELOW else held + np.float32(weight) * own.data
        ranks_B = others_B + before(scores)
        again_BU[place[mine], own.col[mine]] = scores[mine]
        ranks_B[back_B] = sid_ranks(again_BU, target_B[back_B])
        ranks_GB.append(ranks_B)
    return np.stack(ranks_GB)


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
    """Raises UserError if there are no rows to choose by."""
    if not len(rows):
        raise UserError("the selection split holds no rows, so no setting can be chosen on it; give one with rows")
