"""The hybrid: text likeness, transitions and popularity in one weighted sum."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from tsrec_jax.baselines.counts import Transitions, fit_recent_popularity, fit_transitions
from tsrec_jax.baselines.ranking import CHUNK, CUT, Fitted, best_settings, target_ranks
from tsrec_jax.baselines.tables import ItemTables, Term, history_weights, itself
from tsrec_jax.baselines.text import TextSimilarity
from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.target_ranks import ndcg_of_ranks
from tsrec_jax.errors import UserError
from tsrec_jax.text.likeness import text_features

START = {"history_decay": 0.5, "transitions": 6.0, "popularity": 0.1, "log_popularity": 0.1, "seen": -0.5}
GRIDS = {
    "transitions": (0.0, 0.3, 1.0, 2.0, 3.0, 4.0, 6.0, 9.0, 13.0, 20.0, 30.0, 45.0),
    "popularity": (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.9),
    "log_popularity": (0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6),
    "seen": (-1.0, -0.8, -0.6, -0.5, -0.4, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2),
    "history_decay": (0.0, 0.3, 0.5, 0.7),
}
MOST_CELLS = 2**24  # scores of one part that are held while settings are chosen: 64 MiB


@dataclasses.dataclass(frozen=True)
class Hybrid:
    """A weighted sum of what the simpler baselines say of an item, the weight of the text being 1.

    Attributes:
      text: likeness to the history, with the hybrid's own `history_decay`.
      transitions: as fitted by itself.
      popularity_2I: float32: share of the recent targets over the largest share, and the logarithm of 1 + the share
        times the catalogue's items over its largest.
      settings: `history_decay`, and the weights of `transitions`, of `popularity` and `log_popularity`, and of `seen`,
        an item's own weight in the history. Its text is as like itself as can be, which a negative weight takes back.
      facts: see `Fitted`.
    """

    text: TextSimilarity
    transitions: Transitions
    popularity_2I: np.ndarray
    settings: Mapping[str, float]
    facts: Mapping[str, Any]

    @functools.cached_property
    def tables(self) -> ItemTables:
        """In the form that is exported and served."""
        text, follow = self.text.tables, self.transitions.tables
        weight = np.float32(self.settings["transitions"])
        weights_2 = np.array([self.settings["popularity"], self.settings["log_popularity"]], np.float32)
        bias_I = weight * follow.bias_I + weights_2 @ self.popularity_2I
        weighed = (Term(term.history_decay, term.table * weight) for term in follow.terms)
        own = itself(len(bias_I), self.settings["history_decay"], self.settings["seen"])
        return ItemTables(bias_I, (*text.terms, *weighed, own))

    def scores(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """float32 scores_BI."""
        return self.tables.scores(histories)


def fit_hybrid(
    catalogue: Catalogue, train: Interactions, select: Interactions, seed: int, report: Callable[[str], None]
) -> Hybrid:
    """Fits transitions and recent popularity, then chooses their weights and the text's decay by NDCG@10 on `select`.

    Meanwhile the parts' scores of the selection rows are held, the text's for every decay; of a `select` with more than
    MOST_CELLS scores, rows at equal distances are taken.

    Raises:
      UserError: as `text_features`.
    """
    if not len(select):
        raise UserError(
            "hybrid: the selection split holds no rows, so no weight can be chosen on it; give one with rows"
        )
    features_IK = text_features(catalogue.items)
    transitions = fit_transitions(catalogue, train, select, seed, report)
    popularity = fit_recent_popularity(catalogue, train, select, seed, report)
    popularity_2I = np.stack([popularity.share_I, np.log1p(popularity.share_I * catalogue.num_items)])
    popularity_2I /= popularity_2I.max(axis=1, keepdims=True)

    chosen = select.spread(max(1, MOST_CELLS // catalogue.num_items))
    histories, targets_B = chosen.histories, chosen.targets
    follow_BI = transitions.scores(histories)
    held: dict[float, tuple[np.ndarray, sparse.csr_matrix]] = {}

    def value(settings: Mapping[str, float]) -> float:
        decay = settings["history_decay"]
        if decay not in held:
            text = TextSimilarity(features_IK, decay, {})
            held[decay] = (text.scores(histories), history_weights(histories, catalogue.num_items, decay))
        text_BI, seen_BI = held[decay]
        ranks = []
        for start in range(0, len(chosen), CHUNK):
            rows = slice(start, start + CHUNK)
            scores_BI = _mix(text_BI[rows], follow_BI[rows], seen_BI[rows], popularity_2I, settings)
            ranks.append(target_ranks(scores_BI, targets_B[rows], catalogue))
        return float(ndcg_of_ranks(np.concatenate(ranks), CUT).mean())

    settings, best = best_settings(START, GRIDS, value)
    said = ", ".join(f"{name} {setting:g}" for name, setting in settings.items())
    report(f"hybrid: {said}, NDCG@10 {best:.4f} on selection")
    parts: Mapping[str, Fitted] = {"transitions": transitions, "recent popularity": popularity}
    facts = {
        "settings": {"hybrid": settings, **{name: part.facts["settings"] for name, part in parts.items()}},
        "parameters": features_IK.nnz + sum(part.facts["parameters"] for part in parts.values()),
    }
    text = TextSimilarity(features_IK, settings["history_decay"], {})
    return Hybrid(text, transitions, popularity_2I, settings, facts)


def _mix(
    text_BI: np.ndarray,
    follow_BI: np.ndarray,
    seen_BI: sparse.csr_matrix,
    popularity_2I: np.ndarray,
    settings: Mapping[str, float],
) -> np.ndarray:
    weights_2 = np.array([settings["popularity"], settings["log_popularity"]], np.float32)
    scores_BI = text_BI + np.float32(settings["transitions"]) * follow_BI
    scores_BI += weights_2 @ popularity_2I
    seen = seen_BI.tocoo()
    scores_BI[seen.row, seen.col] += np.float32(settings["seen"]) * seen.data
    return scores_BI
