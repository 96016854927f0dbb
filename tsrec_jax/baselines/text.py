"""Items by the likeness of their texts to those of the history: TF-IDF and cosine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from tsrec_jax.baselines.ranking import best_settings, ndcg
from tsrec_jax.baselines.tables import ItemTables, Term
from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.text.likeness import text_features

DECAYS = (0.0, 0.2, 0.3, 0.5, 0.7, 0.85)


@dataclasses.dataclass(frozen=True)
class TextSimilarity:
    """Mean cosine of an item's text with the texts of the history, newer ones counting more.

    Attributes:
      features_IK: float32, sparse: see `text_features`.
      history_decay: weight of an item of the history for each item that came after it.
      facts: see `Fitted`.
    """

    features_IK: sparse.csr_matrix
    history_decay: float
    facts: Mapping[str, Any]

    @property
    def tables(self) -> ItemTables:
        """In the form that is exported and served."""
        bias_I = np.zeros(self.features_IK.shape[0], np.float32)
        return ItemTables(bias_I, (Term(self.history_decay, self.features_IK, likeness=True),))

    def scores(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """float32 scores_BI."""
        return self.tables.scores(histories)


def fit_text(
    catalogue: Catalogue, train: Interactions, select: Interactions, seed: int, report: Callable[[str], None]
) -> TextSimilarity:
    """TF-IDF of the catalogue; the decay over the history is chosen on `select`, and train is not looked at.

    Raises:
      UserError: as `text_features`.
    """
    features_IK = text_features(catalogue.items)

    def built(settings: Mapping[str, float]) -> TextSimilarity:
        facts = {"settings": dict(settings), "parameters": features_IK.nnz}
        return TextSimilarity(features_IK, settings["history_decay"], facts)

    found, best = best_settings(
        {"history_decay": DECAYS[0]},
        {"history_decay": DECAYS[1:]},
        lambda settings: ndcg(built(settings).scores, select, catalogue),
    )
    report(f"tfidf: history_decay {found['history_decay']:g}, NDCG@10 {best:.4f} on selection")
    return built(found)
