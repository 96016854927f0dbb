"""Intervals and paired tests of a study: bootstrap over users, and over seeds and users.

The rows of a user stay together, since they are prefixes of one sequence. With weight w_u (how often user u was drawn),
x_u the sum of the user's rows of a metric, averaged over seeds, and n_u their number, a resampled mean is
sum_u w_u x_u / sum_u w_u n_u. Over seeds and users, the seeds are drawn with replacement too. Both parts of a
comparison are resampled together. Letters: N rows, U users, S seeds, R resamples.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from tsrec_jax.evaluation.study_cells import System

RESAMPLES = 2000


@dataclasses.dataclass(frozen=True, eq=False)
class Draws:
    """Resamples of the users of some rows, drawn once and used for all systems on these rows.

    Attributes:
      user: int32 (N), the user of each row.
      weights_RU: float64, how often each user was drawn.
      totals_R: rows of each resample.
      seed: of the draws; those of the seeds follow from it too.
    """

    user: np.ndarray
    weights_RU: np.ndarray
    totals_R: np.ndarray
    seed: int


def draw_users(user: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> Draws:
    """Draws users with replacement, as many as there are."""
    count = int(user.max()) + 1
    drawn = np.random.default_rng(seed).integers(0, count, (resamples, count))
    drawn += np.arange(resamples)[:, None] * count
    weights_RU = np.bincount(drawn.ravel(), minlength=resamples * count).reshape(resamples, count).astype(np.float64)
    return Draws(user, weights_RU, weights_RU @ np.bincount(user, minlength=count), seed)


def resampled(values_SN: np.ndarray, draws: Draws, *, over_seeds: bool) -> np.ndarray:
    """float64 (R), means of each resample.

    Raises:
      ValueError: a value is not finite.
    """
    if not np.isfinite(values_SN).all():
        raise ValueError("a per-row value is not finite")
    users = draws.weights_RU.shape[1]
    sums_SU = np.stack([np.bincount(draws.user, weights=values_N, minlength=users) for values_N in values_SN])
    means_RS = draws.weights_RU @ sums_SU.T / draws.totals_R[:, None]
    if not over_seeds:
        return means_RS.mean(axis=1)
    seeds = len(values_SN)
    resamples = len(means_RS)
    picks_RS = np.random.default_rng([draws.seed, seeds]).integers(0, seeds, (resamples, seeds))
    return np.take_along_axis(means_RS, picks_RS, axis=1).mean(axis=1)


def interval(means_R: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval."""
    low, high = np.percentile(means_R, [2.5, 97.5])
    return float(low), float(high)


@dataclasses.dataclass(frozen=True)
class Tested:
    """A resampled difference: its 95 % interval and the two-sided p-value of no difference, at least 1 / R x 2."""

    interval: tuple[float, float]
    p_value: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two systems on the same rows.

    Attributes:
      first, second: names, the one that is to be better first.
      metric, level: what is compared; systems with other SIDs at item level, since a SID-level hit differs.
      seeds: that both have; a system that no seed changes has each.
      first_mean, second_mean: over these seeds and all rows.
      difference, relative: first - second, and that over second (None where second is 0).
      better: seeds with a mean difference above 0.
      users: test over users.
      seeds_and_users: test over both; None with one seed.
    """

    first: str
    second: str
    metric: str
    level: str
    seeds: tuple[int, ...]
    first_mean: float
    second_mean: float
    difference: float
    relative: float | None
    better: int
    users: Tested
    seeds_and_users: Tested | None


def compare(first: System, second: System, metric: str, draws: Draws) -> Comparison | None:
    """The paired comparison of two systems; None where they share no seed.

    Raises:
      ValueError: they were evaluated on other rows.
    """
    if first.rows.digest != second.rows.digest:
        raise ValueError(f"{first.name} and {second.name} were evaluated on other rows")
    seeds = common_seeds(first, second)
    if not seeds:
        return None
    level = "sid" if first.cells[0].sids == second.cells[0].sids else "item"
    pair = [_of_seeds(system, level, metric, seeds) for system in (first, second)]
    difference_SN = pair[0] - pair[1]
    means = [float(values_SN.mean()) for values_SN in pair]
    difference = float(difference_SN.mean())
    return Comparison(
        first=first.name,
        second=second.name,
        metric=metric,
        level=level,
        seeds=seeds,
        first_mean=means[0],
        second_mean=means[1],
        difference=difference,
        relative=difference / means[1] if means[1] else None,
        better=int((difference_SN.mean(axis=1) > 0).sum()),
        users=_tested(resampled(difference_SN, draws, over_seeds=False)),
        seeds_and_users=_tested(resampled(difference_SN, draws, over_seeds=True)) if len(seeds) > 1 else None,
    )


def common_seeds(first: System, second: System) -> tuple[int, ...]:
    """Seeds by which two systems are paired; one that no seed changes goes with every seed of the other."""
    if not first.seeded:
        return second.seeds
    if not second.seeded:
        return first.seeds
    return tuple(seed for seed in first.seeds if seed in second.seeds)


def _of_seeds(system: System, level: str, metric: str, seeds: tuple[int, ...]) -> np.ndarray:
    values_SN = system.values(level, metric)
    if not system.seeded:
        return np.repeat(values_SN[:1], len(seeds), axis=0)
    return values_SN[[system.seeds.index(seed) for seed in seeds]]


def _tested(differences_R: np.ndarray) -> Tested:
    tail = min(np.mean(differences_R <= 0), np.mean(differences_R >= 0))
    return Tested(interval(differences_R), float(min(1.0, 2 * max(tail, 1 / len(differences_R)))))
