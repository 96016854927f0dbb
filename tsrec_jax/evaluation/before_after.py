"""What a training that continued from an earlier run has changed, on rows that the earlier run did not have."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from tsrec_jax.data.target_ranks import TargetRanks
from tsrec_jax.evaluation.statistics import Comparison, compare, draw_users

METRICS = ("HR@10", "NDCG@10")


@dataclasses.dataclass(frozen=True)
class RowGroup:
    """Some rows, and how the models before and after the training compare on them."""

    name: str
    rows: int
    comparisons: Sequence[Comparison]


@dataclasses.dataclass(frozen=True)
class BeforeAfter:
    """A model before and after it was trained further.

    Attributes:
      earlier: the run that it continued from.
      rows: number of all evaluated rows.
      groups: the new rows among them, and further groups of the new ones.
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
      name: name of the group.
      chosen: int64, numbers of the group's rows among the ranked ones; at least one.
      users: users of all ranked rows.
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
