"""One function that fits a baseline and ranks every SID for every row."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

from tsrec_jax.baselines.names import BASELINES
from tsrec_jax.baselines.ranking import CHUNK, Fit, Fitted, FitVectors, Vectors, rank_sids
from tsrec_jax.data.dataset import Dataset
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class BaselineResult:
    """What one baseline recommends.

    Attributes:
      lists: for each row the best SIDs, best first, none twice.
      facts: plain values: `settings` that were chosen on selection or fixed, `at_end` as in `Choice`, `parameters`,
        `fit_seconds`, `rank_seconds`, and of SASRec also `steps`, `epochs`, `tokens` and `flops`.
    """

    lists: list[list[str]]
    facts: Mapping[str, Any]


def fit_baseline(
    name: str,
    dataset: Dataset,
    train: Interactions,
    select: Interactions,
    seed: int,
    report: Callable[[str], None],
    vectors: Vectors | None = None,
) -> Fitted:
    """Fits a baseline; arguments and errors as in `run_baseline`."""
    if name not in BASELINES:
        raise UserError(f"no baseline is called {name!r}; there are {', '.join(BASELINES)}")
    if not len(train):
        raise UserError(f"{name}: train holds no rows to learn from; give a split with rows")
    row, given = BASELINES[name], (dataset.catalogue, train, select, seed, report)
    if not row.vectors:
        return cast(Fit, row.load())(*given)
    if vectors is None:
        raise UserError(f"{name}: it needs vectors of the items, and none are made here")
    return cast(FitVectors, row.load())(*given, vectors)


def run_baseline(
    name: str,
    dataset: Dataset,
    train: Interactions,
    select: Interactions,
    rows: Interactions,
    length: int,
    seed: int,
    report: Callable[[str], None],
    vectors: Vectors | None = None,
) -> BaselineResult:
    """Fits a baseline on `train`, with settings chosen on `select`, and ranks all SIDs for `rows`.

    Args:
      name: one of `BASELINES`.
      dataset: gives the catalogue.
      train: what it learns from.
      select: what its settings are chosen on; popularity and repeat last choose nothing.
      rows: what it recommends for; only their histories are read.
      length: SIDs per list; fewer if the catalogue has fewer.
      seed: SASRec's seed; the others draw nothing.
      report: receives a line that says what was chosen, and SASRec's progress.
      vectors: makes the items' vectors, for a baseline that needs them; only then is it called.

    Raises:
      UserError: an unknown name, a train without rows, or what the baseline itself refuses.
    """
    started = time.perf_counter()
    fitted = fit_baseline(name, dataset, train, select, seed, report, vectors)
    fitted_at = time.perf_counter()
    lists: list[list[str]] = []
    for start in range(0, len(rows), CHUNK):
        lists += rank_sids(fitted.scores(rows.histories[start : start + CHUNK]), dataset.catalogue, length)
    seconds = {"fit_seconds": fitted_at - started, "rank_seconds": time.perf_counter() - fitted_at}
    return BaselineResult(lists, {**fitted.facts, **{key: round(value, 2) for key, value in seconds.items()}})
