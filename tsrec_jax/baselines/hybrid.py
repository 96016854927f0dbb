"""The hybrid: text likeness, transitions and popularity in one weighted sum."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tsrec_jax.baselines.counts import Popularity, Transitions, fit_recent_popularity, fit_transitions, history_weights
from tsrec_jax.baselines.ranking import CHUNK, best_settings, ndcg_of_ranks, target_ranks
from tsrec_jax.baselines.text import TextSimilarity, fit_text
from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.interactions import Interactions

START = {"transitions": 2.0, "popularity": 0.1, "log_popularity": 0.1, "seen": -0.5}
GRIDS = {
    "transitions": (0.0, 0.3, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 9.0, 13.0, 20.0, 30.0),
    "popularity": (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.9),
    "log_popularity": (0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6),
    "seen": (-1.0, -0.8, -0.6, -0.5, -0.4, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2),
}
MOST_CELLS = 2**25  # scores of one part that are held while weights are chosen: 128 MiB


@dataclasses.dataclass(frozen=True)
class Hybrid:
    """A weighted sum of what the simpler baselines say, the weight of the text being 1.

    Attributes:
      text, transitions, popularity: the fitted parts; popularity is the recent one.
      weights: of `transitions`; of `popularity`, the share over the largest share; of `log_popularity`, the logarithm
        of 1 + the share times the catalogue's items, over its largest; and of `seen`, the weight of the item in the
        history, which takes back what an item gains by being like itself.
      facts: see `Fitted`.
    """

    text: TextSimilarity
    transitions: Transitions
    popularity: Popularity
    weights: Mapping[str, float]
    facts: Mapping[str, Any]

    def scores(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """float32 scores_BI."""
        parts = _parts(self.text, self.transitions, self.popularity, histories)
        return _sum(parts, self.weights)


def fit_hybrid(
    catalogue: Catalogue, train: Interactions, select: Interactions, seed: int, report: Callable[[str], None]
) -> Hybrid:
    """Fits the parts, each with its own settings chosen on `select`, then chooses their weights by its NDCG@10.

    While weights are chosen, the parts' scores of the selection rows are held; of a `select` with more than MOST_CELLS
    scores, rows at equal distances are taken.
    """
    text = fit_text(catalogue, train, select, seed, report)
    transitions = fit_transitions(catalogue, train, select, seed, report)
    popularity = fit_recent_popularity(catalogue, train, select, seed, report)
    count = min(len(select), max(CHUNK, MOST_CELLS // catalogue.num_items))
    chosen = np.linspace(0, len(select) - 1, count).astype(int)
    targets_B = select.targets[chosen]
    parts = _parts(text, transitions, popularity, [select.histories[row] for row in chosen])

    def value(weights: Mapping[str, float]) -> float:
        ranks = []
        for start in range(0, count, CHUNK):
            rows = slice(start, start + CHUNK)
            scores_BI = _sum({name: part[rows] for name, part in parts.items()}, weights)
            ranks.append(target_ranks(scores_BI, targets_B[rows], catalogue))
        return ndcg_of_ranks(np.concatenate(ranks))

    weights, best = best_settings(START, GRIDS, value)
    report(
        "hybrid: weights "
        + ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
        + f", NDCG@10 {best:.4f} on selection"
    )
    fitted = {"tfidf": text, "transitions": transitions, "recent popularity": popularity}
    facts = {
        "settings": {"weights": weights, **{name: dict(part.facts["settings"]) for name, part in fitted.items()}},
        "parameters": len(weights) + sum(part.facts["parameters"] for part in fitted.values()),
    }
    return Hybrid(text, transitions, popularity, weights, facts)


def _parts(
    text: TextSimilarity, transitions: Transitions, popularity: Popularity, histories: Sequence[Sequence[int]]
) -> dict[str, np.ndarray]:
    """float32 (B, I) of each part of the sum; those of popularity are views of one row."""
    share_I = popularity.share_I
    log_I = np.log1p(share_I * len(share_I))
    shape = (len(histories), len(share_I))
    return {
        "text": text.scores(histories),
        "transitions": transitions.scores(histories),
        "seen": history_weights(histories, len(share_I), text.history_decay).toarray(),
        "popularity": np.broadcast_to(share_I / share_I.max(), shape),
        "log_popularity": np.broadcast_to(log_I / log_I.max(), shape),
    }


def _sum(parts: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    scores_BI = parts["text"].copy()
    for name, weight in weights.items():
        if weight:
            scores_BI += np.float32(weight) * parts[name]
    return scores_BI
