"""HR@K and NDCG@K of ranked SIDs, at SID level (comparable with published figures) and at item level.

One target a row, so HR@K is 1 where the target stands among the first K, and NDCG@K is 1 / log2(rank + 1) there
(rank from 1). At SID level a hit is the target's SID. At item level the items of a colliding SID share its place in
unknown order: the expected value under a uniform tie is reported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from tsrec_jax.data.catalogue import Catalogue

KS = (1, 3, 5, 10, 20, 50)
LEVELS = ("sid", "item")


@dataclasses.dataclass(frozen=True)
class Metrics:
    """Means and per-row values of one system.

    Attributes:
      sid, item: {"HR@10": mean, ...} in [0, 1].
      per_row: {"sid" | "item": {"HR@10": float64 values, one a row}}.
    """

    sid: Mapping[str, float]
    item: Mapping[str, float]
    per_row: Mapping[str, Mapping[str, np.ndarray]]


def ks_for(beams: int) -> tuple[int, ...]:
    """The cut-offs that a list of `beams` entries can fill."""
    return tuple(k for k in KS if k <= max(beams, KS[0]))


def score(
    predictions: Sequence[Sequence[str]], targets: np.ndarray, catalogue: Catalogue, ks: Sequence[int] = KS[:-1]
) -> Metrics:
    """Scores ranked SIDs against target items.

    Args:
      predictions: for each row the SIDs, best first, none twice; a list shorter than K misses what it lacks.
      targets: catalogue index of each row's item.
      catalogue: gives SIDs and collision groups.
      ks: cut-offs.

    Raises:
      ValueError: row counts differ, no rows, or a SID stands twice in a list.
    """
    if not len(targets):
        raise ValueError(f"{len(predictions)} predictions for {len(targets)} targets")
    found = places(predictions, targets, catalogue)
    values = {
        level: {f"{name}@{k}": found.values(level, name, k) for name in ("HR", "NDCG") for k in ks} for level in LEVELS
    }
    means = {level: {name: float(v.mean()) for name, v in values[level].items()} for level in LEVELS}
    return Metrics(means["sid"], means["item"], values)


@dataclasses.dataclass(frozen=True, eq=False)
class Places:
    """Where the targets of N rows stand in their ranked lists; int32 arrays of N values.

    Attributes:
      rank: place of the target's SID, from 0; -1: not listed.
      before: items that carry the SIDs before it; 0 where it is not listed.
      group: items that carry the target's SID.
    """

    rank: np.ndarray
    before: np.ndarray
    group: np.ndarray

    def values(self, level: str, name: str, k: int) -> np.ndarray:
        """float64 (N), HR or NDCG at k of each row, at level `sid` or `item`."""
        if level == "sid":
            hit_N = (self.rank >= 0) & (self.rank < k)
            return hit_N * (1.0 if name == "HR" else 1.0 / np.log2(np.maximum(self.rank, 0) + 2.0))
        # Places of the group's items within the first k.
        inside_N = np.where(self.rank >= 0, np.clip(k - self.before, 0, self.group), 0)
        if name == "HR":
            return inside_N / self.group
        gains = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))])  # of the first 0, 1, ... places
        first_N = np.minimum(self.before, k)
        return (gains[np.minimum(first_N + inside_N, k)] - gains[first_N]) / self.group


def places(predictions: Sequence[Sequence[str]], targets: np.ndarray, catalogue: Catalogue) -> Places:
    """Finds the target's SID in the ranked SIDs of each row.

    Raises:
      ValueError: row counts differ, or a SID stands twice in a list.
    """
    if len(predictions) != len(targets):
        raise ValueError(f"{len(predictions)} predictions for {len(targets)} targets")
    sizes = {sid: len(items) for sid, items in catalogue.items_of_sid.items()}
    rank, before, group = np.zeros((3, len(targets)), np.int32)
    for row, (ranked, target) in enumerate(zip(predictions, targets, strict=True)):
        if len(set(ranked)) != len(ranked):
            raise ValueError(f"row {row}: a SID stands twice in the ranked list")
        wanted = catalogue.sid(int(target))
        rank[row] = ranked.index(wanted) if wanted in ranked else -1
        before[row] = sum(sizes[sid] for sid in ranked[: max(rank[row], 0)])
        group[row] = sizes[wanted]
    return Places(rank, before, group)


def ranked_by_scores(sids: Sequence[str], scores: Sequence[float]) -> list[str]:
    """SIDs by descending score; equal scores keep their order.

    Raises:
      ValueError: a score is not finite. A NaN compares false with everything and would rank anywhere.
    """
    scores = np.asarray(scores, np.float64)
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    return [sids[index] for index in np.argsort(-scores, kind="stable")]


def bootstrap_interval(values: np.ndarray, *, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean of per-row values, rows resampled with replacement."""
    means = resampled_means(values, resamples, seed)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def resampled_means(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means of `resamples` bootstrap samples of the rows."""
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        raise ValueError("a per-row value is not finite")
    rng = np.random.default_rng(seed)
    count = len(values)
    return np.array([values[rng.integers(0, count, count)].mean() for _ in range(resamples)])
