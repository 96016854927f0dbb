"""Where targets stand in ranked lists of SIDs, and the resulting HR@K and NDCG@K.

Each row has one target, so if the target is among the first K, HR@K is 1 and NDCG@K is 1 / log2(rank + 2), with ranks
from 0. At SID level (comparable with published figures) a hit is the target's SID. At item level the items of a
colliding SID share its place in unknown order: the expected value under a uniform tie is reported. Axis letter: N rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from tsrec_jax.data.catalogue import Catalogue

LEVELS = ("sid", "item")
KS = (1, 3, 5, 10, 20, 50)
# Metrics that tables show if the lists are long enough. NDCG@1 is HR@1.
SHOWN = ("HR@1", "HR@3", "HR@5", "HR@10", "HR@20", "HR@50", "NDCG@3", "NDCG@5", "NDCG@10", "NDCG@20")


def metric_names(beams: int) -> list[str]:
    """HR and NDCG at every cut-off that a list of `beams` entries can fill."""
    return [f"{name}@{k}" for name in ("HR", "NDCG") for k in KS if k <= max(beams, KS[0])]


def ndcg_of_ranks(rank_N: np.ndarray, k: int) -> np.ndarray:
    """float64 (N), NDCG@K of targets at these ranks, which count from 0; -1: not listed."""
    return ((rank_N >= 0) & (rank_N < k)) / np.log2(np.maximum(rank_N, 0) + 2.0)


@dataclasses.dataclass(frozen=True, eq=False)
class TargetRanks:
    """Where the targets of N rows stand in their ranked lists; int32 arrays of N values.

    Attributes:
      rank: place of the target's SID, from 0; -1: not listed.
      before: number of items that carry the SIDs before it; 0 if it is not listed.
      group: number of items that carry the target's SID.
    """

    rank: np.ndarray
    before: np.ndarray
    group: np.ndarray

    def values(self, level: str, metric: str) -> np.ndarray:
        """float64 (N), a metric such as `HR@10` for each row, at level `sid` or `item`."""
        name, _, cut = metric.partition("@")
        listed_N, k = self.rank >= 0, int(cut)
        if level == "sid":
            return (listed_N & (self.rank < k)).astype(np.float64) if name == "HR" else ndcg_of_ranks(self.rank, k)
        # Places of the group's items within the first k.
        inside_N = np.where(listed_N, np.clip(k - self.before, 0, self.group), 0)
        if name == "HR":
            return inside_N / self.group
        gains = np.concatenate([[0.0], np.cumsum(ndcg_of_ranks(np.arange(k), k))])  # of the first 0, 1, ... places
        first_N = np.minimum(self.before, k)
        return (gains[np.minimum(first_N + inside_N, k)] - gains[first_N]) / self.group

    def mean(self, level: str, metric: str) -> float:
        """The mean of `values`."""
        return float(self.values(level, metric).mean())

    def means(self, metrics: Sequence[str]) -> dict[str, dict[str, float]]:
        """{"sid" | "item": {metric: mean}}."""
        return {level: {metric: self.mean(level, metric) for metric in metrics} for level in LEVELS}


def find_targets(predictions: Sequence[Sequence[str]], targets: np.ndarray, catalogue: Catalogue) -> TargetRanks:
    """Finds the target of each row in its ranked SIDs.

    Args:
      predictions: for each row the SIDs, best first, none twice; a target missing from a list shorter than K is a miss.
      targets: catalogue index of each row's item.
      catalogue: gives SIDs and the items that share one.

    Raises:
      ValueError: row counts differ, no rows, or a SID stands twice in a list.
    """
    if len(predictions) != len(targets) or not len(targets):
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
    return TargetRanks(rank, before, group)
