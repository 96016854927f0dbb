"""Parts of a study's result: by kind of row, by the level at which the target is lost, by confidence, and by step."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from tsrec_jax.evaluation.study_cells import CONFIDENCES, System

SLICED = ("HR@10", "NDCG@10")
_ENDLESS = 10**9
# {kind: (attribute of Rows, ((name, lowest, highest), ...))}, with inclusive bounds.
SLICES = {
    "target": ("count", (("cold", 0, 0), ("warm", 1, _ENDLESS))),
    "history length": ("history", (("1", 1, 1), ("2-3", 2, 3), ("4-6", 4, 6), ("7+", 7, _ENDLESS))),
    "target count in train": ("count", (("0", 0, 0), ("1-2", 1, 2), ("3-9", 3, 9), ("10+", 10, _ENDLESS))),
}
SHARE_OF_BEST = 0.9


@dataclasses.dataclass(frozen=True)
class Part:
    """Rows of one kind: their number, and the means of SLICED over seeds and these rows (None without rows)."""

    name: str
    rows: int
    means: dict[str, float | None]


def slices(system: System) -> dict[str, list[Part]]:
    """{kind of slice: its parts}; SID level."""
    values = {metric: system.values("sid", metric).mean(axis=0) for metric in SLICED}
    found: dict[str, list[Part]] = {}
    for kind, (key, bounds) in SLICES.items():
        found[kind] = []
        for name, low, high in bounds:
            value_N = getattr(system.rows, key)
            inside_N = (value_N >= low) & (value_N <= high)
            means = {m: float(v[inside_N].mean()) if inside_N.any() else None for m, v in values.items()}
            found[kind].append(Part(name, int(inside_N.sum()), means))
    return found


def lost_levels(system: System) -> list[float]:
    """Shares of rows over all seeds: those lost at level 1, 2, ..., C, and at the end those whose target is listed."""
    counts = np.sum([cell.lost for cell in system.cells], axis=0)
    return (counts / counts.sum()).tolist()


@dataclasses.dataclass(frozen=True)
class Confidence:
    """A bin of calibration: rows (over all seeds) whose first SID has a probability in it, its mean, and HR@1."""

    low: float
    high: float
    rows: int
    confidence: float
    hits: float


def calibration(system: System) -> list[Confidence]:
    """The bins that have rows, by rising confidence; none if the system gives no probabilities."""
    if not all(cell.calibration for cell in system.cells):
        return []
    totals = np.sum([cell.calibration for cell in system.cells], axis=0)
    edges = itertools.pairwise(CONFIDENCES)
    return [
        Confidence(low, high, int(rows), float(probability / rows), float(hits / rows))
        for (low, high), (rows, probability, hits) in zip(edges, totals, strict=True)
        if rows
    ]


def calibration_error(bins: Sequence[Confidence]) -> float | None:
    """Expected calibration error: the mean of |confidence - HR@1|, bins weighted by rows; None without bins."""
    rows = sum(each.rows for each in bins)
    return sum(each.rows * abs(each.confidence - each.hits) for each in bins) / rows if rows else None


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """A validation metric against steps, for the validations that all seeds have reached: value_SP at step_P.

    Seeds pack rows differently, so their validations are a step or two apart: step_P is the mean over seeds.
    """

    step_P: np.ndarray
    value_SP: np.ndarray

    @property
    def mean_P(self) -> np.ndarray:
        """Mean over seeds."""
        return self.value_SP.mean(axis=0)


def curve(system: System, metric: str) -> Curve | None:
    """The curve of `loss` or `HR@10`; None if it was not measured."""
    column = 1 if metric == "loss" else 2
    by_seed = [
        [(point[0], point[column]) for point in cell.curve if point[column] is not None] for cell in system.cells
    ]
    count = min(map(len, by_seed))
    if not count:
        return None
    points_SP2 = np.array([points[:count] for points in by_seed], np.float64)
    return Curve(points_SP2[..., 0].mean(axis=0).round().astype(int), points_SP2[..., 1])


@dataclasses.dataclass(frozen=True)
class Convergence:
    """How soon an arm gets to SHARE_OF_BEST of the best arm's final validation HR@10.

    Attributes:
      final: the arm's own final value, mean over seeds.
      threshold: the value to reach.
      step: step of the first validation at which the mean over seeds reaches the threshold; None: it never does.
      of_seeds: the same for each seed.
    """

    final: float
    threshold: float
    step: int | None
    of_seeds: list[int | None]


def convergence(systems: Sequence[System]) -> dict[str, Convergence]:
    """{arm: how soon it converges}, for the arms that have a curve of HR@10."""
    curves = {system.name: found for system in systems if (found := curve(system, "HR@10")) is not None}
    threshold = SHARE_OF_BEST * max((each.mean_P[-1] for each in curves.values()), default=math.nan)
    return {
        name: Convergence(
            float(each.mean_P[-1]),
            float(threshold),
            _first_step(each.step_P, each.mean_P, threshold),
            [_first_step(each.step_P, value_P, threshold) for value_P in each.value_SP],
        )
        for name, each in curves.items()
    }


def _first_step(step_P: np.ndarray, value_P: np.ndarray, threshold: float) -> int | None:
    reached = np.flatnonzero(value_P >= threshold * (1 - 1e-9))  # 90 % of a rate is not always exact in floats
    return int(step_P[reached[0]]) if len(reached) else None
