"""Items by the likeness of their texts to those of the history: TF-IDF and cosine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from tsrec_jax.baselines.choosing import Choice, best_with_seen, choose_seen
from tsrec_jax.baselines.tables import ItemTables, Seen, Term
from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.text.likeness import text_features

DECAYS = (0.0, 0.2, 0.3, 0.5, 0.7, 0.85, 1.0)


@dataclasses.dataclass(frozen=True)
class TextSimilarity:
    """Mean cosine of an item's text with the texts of the history, newer ones counting more.

    Nothing is as like an item of the history as itself, which a negative weight of `seen` takes back.

    Attributes:
      features_IK: float32, sparse: see `text_features`.
      history_decay: weight of an item of the history for each item that came after it.
      seen: what the items of the history count for themselves besides.
      facts: see `Fitted`.
    """

    features_IK: sparse.csr_matrix
    history_decay: float
    seen: Seen | None
    facts: Mapping[str, Any]

    @property
    def tables(self) -> ItemTables:
        """In the form that is exported and served."""
        bias_I = np.zeros(self.features_IK.shape[0], np.float32)
        return ItemTables(bias_I, (Term(self.history_decay, self.features_IK, likeness=True),), self.seen)

    def scores(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """float32 scores_BI."""
        return self.tables.scores(histories)


def fit_text(
    catalogue: Catalogue, train: Interactions, select: Interactions, seed: int, report: Callable[[str], None]
) -> TextSimilarity:
    """TF-IDF of the catalogue; decay and what the history counts are chosen on `select`; train is not looked at.

    Raises:
      UserError: as `text_features`.
    """
    features_IK = text_features(catalogue.items)

    def choose(settings: Mapping[str, float]) -> Choice:
        decay = settings["history_decay"]
        return choose_seen(TextSimilarity(features_IK, decay, None, {}).scores, select, catalogue, decay)

    choice = best_with_seen({"history_decay": DECAYS[0]}, {"history_decay": DECAYS[1:]}, choose)
    report(choice.said("tfidf"))
    decay = choice.settings["history_decay"]
    seen = Seen(choice.settings["seen"], decay, catalogue.sid_numbers_I)
    return TextSimilarity(features_IK, decay, seen, {**choice.facts, "parameters": features_IK.nnz})
