"""The hybrid: text likeness, transitions and popularity in one weighted sum."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tsrec_jax.baselines.choosing import Choice, best_with_seen, choose_seen_by_row
from tsrec_jax.baselines.counts import (
    TRANSITION_GRIDS,
    Transitions,
    count_transitions,
    fit_recent_popularity,
    fit_transitions,
)
from tsrec_jax.baselines.tables import ItemTables, Seen, Term
from tsrec_jax.baselines.text import TextSimilarity
from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.text.likeness import text_features

START = {"history_decay": 0.5, "transitions": 6.0, "popularity": 0.1, "log_popularity": 0.1}
GRIDS = {
    "transitions": (0.0, 0.3, 1.0, 2.0, 3.0, 4.0, 6.0, 9.0, 13.0, 20.0, 30.0, 45.0, 70.0, 100.0, 150.0, 250.0),
    "popularity": (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.9),
    "log_popularity": (0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6),
    "history_decay": (0.0, 0.3, 0.5, 0.7, 0.85),
}
COUNTED = "transitions."  # before the names of the settings of the counts
MOST_CELLS = 2**25  # scores of one part with one choice of its settings: 128 MiB
HELD = 2  # choices of a part's settings whose scores are kept while others are tried: 512 MiB for the two parts


@dataclasses.dataclass(frozen=True)
class Hybrid:
    """A weighted sum of what the simpler baselines say about an item; the weight of the text is 1.

    Attributes:
      text: likeness to the history, with the hybrid's own `history_decay`.
      transitions: counted with the hybrid's own settings.
      popularity_2I: float32: share of the recent targets over the largest share, and the logarithm of 1 + the share
        times the catalogue's items over its largest.
      settings: `history_decay` of the text, the settings of the counts, and the weights of `transitions`, of
        `popularity` and `log_popularity`, and of `seen`, what the items of the history gain by being in it. Each is
        most like itself by text, which a negative weight compensates.
      sids_I: int32, the number of each item's SID.
      facts: see `Fitted`.
    """

    text: TextSimilarity
    transitions: Transitions
    popularity_2I: np.ndarray
    settings: Mapping[str, float]
    sids_I: np.ndarray
    facts: Mapping[str, Any]

    @functools.cached_property
    def tables(self) -> ItemTables:
        """In the form that is exported and served."""
        text, follow = self.text.tables, self.transitions.tables
        weight = np.float32(self.settings["transitions"])
        weights_2 = np.array([self.settings["popularity"], self.settings["log_popularity"]], np.float32)
        bias_I = weight * follow.bias_I + weights_2 @ self.popularity_2I
        weighed = (Term(term.history_decay, term.table * weight) for term in follow.terms)
        seen = Seen(self.settings["seen"], self.settings["history_decay"], self.sids_I)
        return ItemTables(bias_I, (*text.terms, *weighed), seen)

    def scores(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """float32 scores_BI."""
        return self.tables.scores(histories)


def fit_hybrid(
    catalogue: Catalogue, train: Interactions, select: Interactions, seed: int, report: Callable[[str], None]
) -> Hybrid:
    """Fits transitions and recent popularity, then chooses weights and all but the popularity's settings on `select`.

    The search begins at the settings chosen for transitions alone: a larger shrinkage also needs a larger weight, which
    a search of one setting at a time does not find from far away.

    During the search the selection rows' scores by texts and by counts are kept; if `select` has more than MOST_CELLS
    scores, rows at equal distances are taken.

    Raises:
      UserError: as `text_features`; `select` holds no rows.
    """
    features_IK = text_features(catalogue.items)
    alone = fit_transitions(catalogue, train, select, seed, report)
    popularity = fit_recent_popularity(catalogue, train, select, seed, report)
    popularity_2I = np.stack([popularity.share_I, np.log1p(popularity.share_I * catalogue.num_items)])
    popularity_2I /= popularity_2I.max(axis=1, keepdims=True)
    judges = select.spread(max(1, MOST_CELLS // catalogue.num_items))

    def text(decay: float) -> TextSimilarity:
        return TextSimilarity(features_IK, decay, None, {})

    def transitions(settings: Mapping[str, float]) -> Transitions:
        return count_transitions(train, alone.popularity, {name: settings[COUNTED + name] for name in TRANSITION_GRIDS})

    @functools.lru_cache(HELD)
    def text_scores(decay: float) -> np.ndarray:
        return text(decay).scores(judges.histories)

    @functools.lru_cache(HELD)
    def counted_scores(items: tuple[tuple[str, float], ...]) -> np.ndarray:
        return transitions(dict(items)).scores(judges.histories)

    def choose(settings: Mapping[str, float]) -> Choice:
        text_BI = text_scores(settings["history_decay"])
        follow_BI = counted_scores(tuple(item for item in settings.items() if item[0].startswith(COUNTED)))
        weights_2 = np.array([settings["popularity"], settings["log_popularity"]], np.float32)
        weight, bias_I = np.float32(settings["transitions"]), weights_2 @ popularity_2I

        def mixed(rows: slice) -> np.ndarray:
            return text_BI[rows] + weight * follow_BI[rows] + bias_I

        return choose_seen_by_row(mixed, judges, catalogue, settings["history_decay"])

    start = {**START, **{COUNTED + name: alone.facts["settings"][name] for name in TRANSITION_GRIDS}}
    grids = {**GRIDS, **{COUNTED + name: grid for name, grid in TRANSITION_GRIDS.items()}}
    choice = best_with_seen(start, grids, choose)
    report(choice.said("hybrid"))
    follow = transitions(choice.settings)
    facts = {
        "settings": {"hybrid": choice.facts["settings"], "recent popularity": popularity.facts["settings"]},
        "at_end": [*choice.at_end, *(f"recent popularity: {name}" for name in popularity.facts["at_end"])],
        "parameters": features_IK.nnz + follow.follow_II.nnz + 2 * catalogue.num_items,
    }
    own = text(choice.settings["history_decay"])
    return Hybrid(own, follow, popularity_2I, choice.settings, catalogue.sid_numbers_I, facts)
