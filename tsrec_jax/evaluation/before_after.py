"""What a training that went on from an earlier run has changed, on the rows that the earlier run did not have."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from tsrec_jax.data.target_ranks import TargetRanks
from tsrec_jax.evaluation.statistics import Comparison, compare, draw_users

METRICS = ("HR@10", "NDCG@10")


@dataclasses.dataclass(frozen=True)
class RowGroup:
    """Rows, and how the model after training does on them beside the one before."""

    name: str
    rows: int
    comparisons: Sequence[Comparison]


@dataclasses.dataclass(frozen=True)
class BeforeAfter:
    """A model before and after it went on learning.

    Attributes:
      earlier: the run that it went on from.
      rows: all rows that were evaluated.
      groups: those among them that are new, and further groups of these.
    """

    earlier: str
    rows: int
    groups: Sequence[RowGroup]


def row_group(
    name: str,
    chosen: np.ndarray,
    users: Sequence[str],
    pair: tuple[TargetRanks, TargetRanks],
    *,
    resamples: int,
    seed: int,
) -> RowGroup:
    """Compares the model after (first of the pair) and before on some rows, paired, at SID level.

    Args:
      name: of the group.
      chosen: int64, the rows of the group, of those that the ranks are of; at least one.
      users: of these rows.
      pair: ranks after and before.
      resamples, seed: as in `draw_users`.
    """
    draws = draw_users([users[row] for row in chosen], resamples, seed)
    comparisons = []
    for metric in METRICS:
        after_SN, before_SN = (ranks.values("sid", metric)[None, chosen] for ranks in pair)
        comparisons.append(
            compare(("after", "before"), (after_SN, before_SN), draws, metric=metric, level="sid", seeds=(seed,))
        )
    return RowGroup(name, len(chosen), comparisons)
