"""Intervals and paired tests of runs and studies: bootstrap over users, and over seeds and users.

The rows of a user stay together, since they are prefixes of one sequence. Let w_u be how often user u was drawn, x_u
the sum of a metric over the user's rows, averaged over seeds, and n_u the number of these rows: a resampled mean is
then sum_u w_u x_u / sum_u w_u n_u. Over seeds and users, the seeds are drawn with replacement too. Both systems of a
comparison are resampled together. Letters: N rows, U users, S seeds, R resamples; M metrics or seeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence

import numpy as np

from tsrec_jax.data.target_ranks import LEVELS, TargetRanks

RESAMPLES = 2000
_AT_ONCE = 256  # number of resamples whose weights are floats at one time


@dataclasses.dataclass(frozen=True, eq=False)
class Draws:
    """Resamples of the users of some rows, drawn once and used for all systems on these rows.

    Attributes:
      user: int64 (N), number of each row's user, in order of first appearance.
      weights_RU: uint16, how often each user was drawn.
      rows_U: number of rows of each user.
      seed: seed of the draws of users; the draws of seeds follow from it too.
    """

    user: np.ndarray
    weights_RU: np.ndarray
    rows_U: np.ndarray
    seed: int


def draw_users(users: Sequence[Hashable], resamples: int = RESAMPLES, seed: int = 0) -> Draws:
    """Draws users with replacement, as many as there are; `users` names the user of each row."""
    numbers: dict[Hashable, int] = {}
    user = np.array([numbers.setdefault(each, len(numbers)) for each in users])
    rng, count = np.random.default_rng(seed), len(numbers)
    weights_RU = np.empty((resamples, count), np.uint16)
    for weights_U in weights_RU:
        weights_U[:] = np.bincount(rng.integers(0, count, count), minlength=count)
    return Draws(user, weights_RU, np.bincount(user), seed)


def resampled(values_MN: np.ndarray, draws: Draws) -> np.ndarray:
    """float64 means_RM, the mean of each value over each resample of the users.

    Raises:
      ValueError: a value is not finite.
    """
    if not np.isfinite(values_MN).all():
        raise ValueError("a per-row value is not finite")
    sums_MU = np.stack([np.bincount(draws.user, weights=values_N) for values_N in values_MN])
    columns_UM = np.vstack([sums_MU, draws.rows_U]).T
    blocks = range(0, len(draws.weights_RU), _AT_ONCE)
    totals_RM = np.concatenate([draws.weights_RU[n : n + _AT_ONCE].astype(np.float64) @ columns_UM for n in blocks])
    return totals_RM[:, :-1] / totals_RM[:, -1:]


def over_seeds(means_RS: np.ndarray, draws: Draws) -> np.ndarray:
    """float64 (R), for each resample of the users: the mean over seeds drawn with replacement."""
    picks_RS = np.random.default_rng([draws.seed, means_RS.shape[1]]).integers(0, means_RS.shape[1], means_RS.shape)
    return np.take_along_axis(means_RS, picks_RS, axis=1).mean(axis=1)


def interval(means_R: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval."""
    low, high = np.percentile(means_R, [2.5, 97.5])
    return float(low), float(high)


def intervals(ranks: TargetRanks, metrics: Sequence[str], draws: Draws) -> dict[str, dict[str, tuple[float, float]]]:
    """{"sid" | "item": {metric: 95 % interval over users}} of one system with one seed."""
    found = {}
    for level in LEVELS:
        means_RM = resampled(np.stack([ranks.values(level, metric) for metric in metrics]), draws)
        found[level] = {metric: interval(means_R) for metric, means_R in zip(metrics, means_RM.T, strict=True)}
    return found


@dataclasses.dataclass(frozen=True)
class PairedTest:
    """A resampled difference: its 95 % interval and the two-sided p-value of no difference, at least 2 / R."""

    interval: tuple[float, float]
    p_value: float

    @classmethod
    def of(cls, differences_R: np.ndarray) -> PairedTest:
        """The test of resampled differences."""
        below, above = int((differences_R <= 0).sum()), int((differences_R >= 0).sum())
        return cls(interval(differences_R), min(1.0, 2 * max(min(below, above), 1) / len(differences_R)))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two systems on the same rows.

    Attributes:
      first, second: names; the first system is the one expected to be better.
      metric, level: what is compared.
      seeds: the seeds by which they are paired.
      first_mean, second_mean: means over these seeds and all rows.
      difference, relative: first - second, and that divided by second (None if second is 0).
      better: number of seeds with a mean difference above 0.
      users: test over users.
      seeds_and_users: test over both; None with one seed.
      holm: p-value over seeds and users, or over users if there is one seed, corrected for the comparisons made
        together (`holm_corrected`); None: it was made alone.
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
    users: PairedTest
    seeds_and_users: PairedTest | None
    holm: float | None = None


def compare(
    names: tuple[str, str],
    pair_SN: tuple[np.ndarray, np.ndarray],
    draws: Draws,
    *,
    metric: str,
    level: str,
    seeds: Sequence[int],
) -> Comparison:
    """The paired comparison of two systems by their values for each seed and row."""
    first_SN, second_SN = pair_SN
    difference_SN = first_SN - second_SN
    difference, second_mean = float(difference_SN.mean()), float(second_SN.mean())
    means_RS = resampled(difference_SN, draws)
    return Comparison(
        *names,
        metric=metric,
        level=level,
        seeds=tuple(seeds),
        first_mean=float(first_SN.mean()),
        second_mean=second_mean,
        difference=difference,
        relative=difference / second_mean if second_mean else None,
        better=int((difference_SN.mean(axis=1) > 0).sum()),
        users=PairedTest.of(means_RS.mean(axis=1)),
        seeds_and_users=PairedTest.of(over_seeds(means_RS, draws)) if len(seeds) > 1 else None,
    )


def holm_corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with p-values corrected for the number of comparisons in the same metric (Holm, 1979).

    The test over seeds and users counts, or the one over users if there is only one seed. In the order of the p-values,
    the n-th of m is multiplied by m - n + 1, and none is below the one before it. At any level, the chance of finding
    even one difference where there is none stays below that level, as far as the p-values are right: with few seeds,
    those over seeds and users are somewhat too small, and none is below 2 / R.
    """
    corrected = {}
    for metric in {each.metric for each in comparisons}:
        tests = [
            ((each.seeds_and_users or each.users).p_value, number)
            for number, each in enumerate(comparisons)
            if each.metric == metric
        ]
        least = 0.0
        for place, (p_value, number) in enumerate(sorted(tests)):
            least = corrected[number] = max(least, min(1.0, p_value * (len(tests) - place)))
    return [dataclasses.replace(each, holm=corrected[number]) for number, each in enumerate(comparisons)]
