"""Baselines under the protocol of the recommender: ranked SIDs for every row, full ranking, fitted on train only."""

from __future__ import annotations

import collections
from collections.abc import Sequence

from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.interactions import Interactions


def popular_sids(catalogue: Catalogue, train: Interactions) -> list[str]:
    """All SIDs by how often they are a target in train; equal counts by catalogue order."""
    counts = collections.Counter(catalogue.sid(int(target)) for target in train.targets)
    return sorted(catalogue.items_of_sid, key=lambda sid: -counts[sid])


def popularity(catalogue: Catalogue, train: Interactions, rows: Interactions, length: int) -> list[list[str]]:
    """The same most popular SIDs for every row."""
    top = popular_sids(catalogue, train)[:length]
    return [top for _ in range(len(rows))]


def repeat_last(catalogue: Catalogue, train: Interactions, rows: Interactions, length: int) -> list[list[str]]:
    """The SIDs of the history, newest first, then the most popular ones."""
    popular = popular_sids(catalogue, train)[: length + max(map(len, rows.histories))]
    return [_distinct([catalogue.sid(i) for i in reversed(history)], popular, length) for history in rows.histories]


def _distinct(first: Sequence[str], then: Sequence[str], length: int) -> list[str]:
    return list(dict.fromkeys([*first, *then]))[:length]
