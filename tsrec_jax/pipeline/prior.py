"""A baseline beside the model: fitted on train, and weighed on the split that models are selected on."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tsrec_jax.baselines.ranking import Fitted
from tsrec_jax.baselines.run import fit_baseline
from tsrec_jax.data.dataset import Dataset
from tsrec_jax.data.held_out import selection_split
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.target_ranks import find_targets
from tsrec_jax.decoding.generate import RankedSids
from tsrec_jax.errors import UserError
from tsrec_jax.pipeline.index import item_vectors
from tsrec_jax.progress import report
from tsrec_jax.settings import Settings

ItemScores = Callable[[Sequence[int]], np.ndarray]  # from numbers of rows to float32 scores_BI
Search = Callable[[Interactions, ItemScores | None], list[RankedSids]]


@dataclasses.dataclass(frozen=True)
class ChosenPrior:
    """What the search adds to the model's scores.

    Attributes:
      fitted: the baseline.
      weight: that its scores are multiplied by.
      facts: `baseline`, `settings`, `weight`, `rows`, and `tried`: {weight: NDCG@10 on the selection rows}, where 0 is
        the model alone.
    """

    fitted: Fitted
    weight: float
    facts: Mapping[str, Any]

    def scores_of(self, rows: Interactions) -> ItemScores:
        """The scores of some rows, computed batch by batch."""
        return _scores_of(self.fitted, self.weight, rows)


def choose_prior(settings: Settings, dataset: Dataset, search: Search) -> ChosenPrior:
    """Fits `eval.prior` on train and takes the weight, out of `eval.prior_weights`, of the best NDCG@10 on selection.

    Args:
      settings: section `eval`, and `seed`, are read.
      dataset: the data.
      search: ranks SIDs for rows by the trained model with scores of the items.

    Raises:
      UserError: there are no rows of selection, or what the baseline itself refuses.
    """
    train, select = dataset.splits["train"], dataset.splits[selection_split(dataset)]
    if not len(select):
        raise UserError(
            f"config.eval.prior={settings.eval.prior!r}: the selection split holds no rows to choose its weight on"
        )
    vectors = functools.partial(item_vectors, settings, dataset.catalogue.items)
    fitted = fit_baseline(settings.eval.prior, dataset, train, select, settings.seed, report, vectors)
    rows = select.spread(settings.eval.prior_rows or len(select))
    tried, label = {}, f"evaluate: prior {settings.eval.prior}"
    for weight in (0.0, *settings.eval.prior_weights):
        found = search(rows, _scores_of(fitted, weight, rows) if weight else None)
        lists = [[sid for sid, _ in ranked] for ranked in found]
        tried[weight] = find_targets(lists, rows.targets, dataset.catalogue).mean("sid", "NDCG@10")
        report(f"{label} x {weight:g}: NDCG@10 {tried[weight]:.4f} on {len(rows)} rows of selection")
    weights = settings.eval.prior_weights
    weight = max(weights, key=tried.__getitem__)
    if len(weights) > 1 and weight in (min(weights), max(weights)):
        report(f"{label}: the best weight, {weight:g}, is at the end of config.eval.prior_weights")
    facts = {
        "baseline": settings.eval.prior,
        "settings": fitted.facts.get("settings"),
        "weight": weight,
        "rows": len(rows),
        "tried": {f"{tested:g}": round(value, 5) for tested, value in tried.items()},
    }
    return ChosenPrior(fitted, weight, facts)


def _scores_of(fitted: Fitted, weight: float, rows: Interactions) -> ItemScores:
    def scores(numbers: Sequence[int]) -> np.ndarray:
        return np.float32(weight) * fitted.scores([rows.histories[number] for number in numbers])

    return scores
