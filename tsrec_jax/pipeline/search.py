"""Ranked SIDs for rows of a split: from the trained model alone or with a fusion, or from a fusion alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from tsrec_jax.baselines.ranking import CHUNK, rank_sids
from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.decoding.generate import RankedSids, score_all, search_all, states_of
from tsrec_jax.decoding.prior import DenseScores
from tsrec_jax.fusion.fusion import Fusion
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.dense_head import DenseScorer
from tsrec_jax.models.inference import InferenceModel
from tsrec_jax.pipeline.recommender_parts import RecommenderParts
from tsrec_jax.progress import report
from tsrec_jax.settings import Settings

TOKENISED = 256  # histories in one call of the tokenizer


@dataclasses.dataclass(frozen=True)
class FusedRows:
    """Rows, each with the fusion that scores it.

    Attributes:
      rows: the histories.
      fusions: one or more, with the same parts.
      which_B: for each row the number of its fusion.
      scorer: the model's dense head, if it takes part.
    """

    rows: Interactions
    fusions: Sequence[Fusion]
    which_B: np.ndarray
    scorer: DenseScorer | None = None

    def scores(self, numbers: Sequence[int]) -> np.ndarray:
        """float32 scores_BI of the rows with these numbers, without the dense head's share."""
        which_B, histories = self.which_B[list(numbers)], [self.rows.histories[number] for number in numbers]
        found = {own: iter(self.fusions[own].scores(_of(histories, which_B == own))) for own in set(which_B.tolist())}
        return np.stack([next(found[own]) for own in which_B.tolist()])

    def dense(self, numbers: Sequence[int]) -> DenseScores:
        """The dense head's share in the scores of these rows."""
        assert self.scorer is not None
        histories = [self.rows.histories[number] for number in numbers]
        weight_BI = [
            self.fusions[own].dense_weights([history])[0]
            for own, history in zip(self.which_B[list(numbers)], histories, strict=True)
        ]
        return DenseScores.of(self.scorer, histories, np.array(weight_BI))


def _of(histories: Sequence[Sequence[int]], chosen_B: np.ndarray) -> list[Sequence[int]]:
    return [history for history, chosen in zip(histories, chosen_B, strict=True) if chosen]


def search_fusion(catalogue: Catalogue, fused: FusedRows, length: int) -> list[RankedSids]:
    """The ranking of a fusion without the model, `length` SIDs per row."""
    ranked: list[RankedSids] = []
    for start in range(0, len(fused.rows), CHUNK):
        scores_BI = fused.scores(range(start, min(start + CHUNK, len(fused.rows))))
        for scores_I, sids in zip(scores_BI, rank_sids(scores_BI, catalogue, length), strict=True):
            ranked.append([(sid, float(scores_I[list(catalogue.items_of_sid[sid])].max())) for sid in sids])
    return ranked


@dataclasses.dataclass(frozen=True)
class ModelSearch:
    """The trained model, ready to search.

    Attributes:
      parts: gives the catalogue, the trie and the prompts.
      settings: section `eval` and the objective are read.
      model: the trained weights on this process's devices.
      scorer: the model's dense head on these devices; None if it has none.
    """

    parts: RecommenderParts
    settings: Settings
    model: InferenceModel
    scorer: DenseScorer | None

    @classmethod
    def of(cls, parts: RecommenderParts, settings: Settings, model: Decoder) -> ModelSearch:
        """Takes the trained model as it lies on this process's devices."""
        scorer = None if model.dense is None else model.dense.scorer(model.embedding[...])
        return cls(parts, settings, InferenceModel.of(model, settings.eval.weights), scorer)

    def search(self, rows: Interactions, fused: FusedRows | None = None) -> list[RankedSids]:
        """The ranked SIDs of every row; `fused` is what the search adds to the model's scores."""
        return search_all(
            self.model,
            self.parts.trie,
            self.parts.dataset.catalogue,
            self.prompts(rows),
            beams=self.settings.eval.beams,
            batch_size=self.settings.eval.batch_size,
            prefix=self.parts.builder.prefix("next_sid"),
            normaliser=self.settings.objective,
            item_scores=None if fused is None else fused.scores,
            dense=None if fused is None or fused.scorer is None else fused.dense,
            progress=lambda line: report(f"evaluate: {line}"),
            total=len(rows),
        )

    def log_probabilities(self, rows: Interactions, items_BN: np.ndarray) -> np.ndarray:
        """float32 (B, N): log P(SID | history) of some items of each row."""
        return score_all(
            self.model,
            self.parts.trie,
            list(self.prompts(rows)),
            self.parts.dataset.catalogue.codes_IC[items_BN],
            batch_size=self.settings.eval.batch_size,
            prefix=self.parts.builder.prefix("next_sid"),
            normaliser=self.settings.objective,
        )

    def states(self, rows: Interactions) -> np.ndarray:
        """float32 (B, D): the model's hidden state at the end of each prompt."""
        return states_of(
            self.model,
            self.parts.trie,
            list(self.prompts(rows)),
            batch_size=self.settings.eval.batch_size,
            prefix=self.parts.builder.prefix("next_sid"),
        )

    def prompts(self, rows: Interactions) -> Iterator[list[int]]:
        """The prompts, tokenised a few at a time, so that tokenising continues while the first ones are searched."""
        catalogue = self.parts.dataset.catalogue
        for start in range(0, len(rows), TOKENISED):
            histories = rows.histories[start : start + TOKENISED]
            chunk = [[catalogue.sid(item) for item in history] for history in histories]
            yield from self.parts.builder.prompts_next_sid(chunk, catalogue.num_levels)
