"""Baselines that count train's rows: popularity, recent popularity, repeating the last items, and transitions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from tsrec_jax.baselines.choosing import best_settings, best_with_seen, choose_seen, ndcg
from tsrec_jax.baselines.tables import ItemTables, Seen, Term
from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.row_facts import out_of_time

# Half-lives as shares of the rows of train; infinite means that all rows count alike.
HALF_LIVES = (float("inf"), 1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125)
TRANSITION_START = {"count_decay": 0.5, "history_decay": 0.3, "shrinkage": 10.0}
TRANSITION_GRIDS = {
    "history_decay": (0.0, 0.2, 0.3, 0.5, 0.7, 0.85, 1.0),
    "count_decay": (0.0, 0.3, 0.5, 0.7, 0.85, 1.0),
    "shrinkage": (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0),
}
FALLBACK = 1e-3  # weight of popularity, which orders the items that nothing else tells apart


@dataclasses.dataclass(frozen=True)
class Popularity:
    """The same scores for every history.

    Attributes:
      share_I: float32, share of train's (weighted) targets that have the item's SID.
      facts: see `Fitted`.
    """

    share_I: np.ndarray
    facts: Mapping[str, Any]

    @property
    def tables(self) -> ItemTables:
        """In the form that is exported and served."""
        return ItemTables(self.share_I)

    def scores(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """float32 scores_BI."""
        return self.tables.scores(histories)


@dataclasses.dataclass(frozen=True)
class RepeatLast:
    """The items of the history, newest first, then the most popular ones.

    Attributes:
      popularity: popularity in train.
    """

    popularity: Popularity

    @property
    def facts(self) -> Mapping[str, Any]:
        """See `Fitted`."""
        return self.popularity.facts

    def scores(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """float32 scores_BI: at least 2 for an item of the history, at most 1 for all others."""
        scores_BI = self.popularity.scores(histories)
        for row, history in enumerate(histories):
            scores_BI[row, list(history)] = np.arange(2, 2 + len(history))  # for a repeated item, its last place
        return scores_BI


@dataclasses.dataclass(frozen=True)
class Transitions:
    """How often an item followed the items of the history.

    Attributes:
      follow_II: float32, sparse: for each item (row) how often each item (column) followed it, each count weighted by
        `count_decay` to the power of the number of items in between, over the row's sum plus `shrinkage`.
      popularity: popularity in train; orders the items that never followed.
      history_decay: factor on the weight of a history item for each item that came after it.
      seen: what the items of the history gain by being in it.
      facts: see `Fitted`.
    """

    follow_II: sparse.csr_matrix
    popularity: Popularity
    history_decay: float
    seen: Seen | None
    facts: Mapping[str, Any]

    @property
    def tables(self) -> ItemTables:
        """In the form that is exported and served."""
        bias_I = np.float32(FALLBACK) * self.popularity.share_I
        return ItemTables(bias_I, (Term(self.history_decay, self.follow_II),), self.seen)

    def scores(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """float32 scores_BI."""
        return self.tables.scores(histories)


def fit_popularity(
    catalogue: Catalogue, train: Interactions, select: Interactions, seed: int, report: Callable[[str], None]
) -> Popularity:
    """How often each SID is a target in train; nothing is chosen."""
    return _popularity(catalogue, train, float("inf"))


def fit_recent_popularity(
    catalogue: Catalogue, train: Interactions, select: Interactions, seed: int, report: Callable[[str], None]
) -> Popularity:
    """Popularity in which a row of train counts half as much for every half-life of rows that come after it.

    A dataset folder has no time stamps. The rows of a split made by time, as MiniOneRec's and `tsrec prepare`'s are,
    stand in time order, so the position in the file serves as time. If the rows show that they are not
    (`data.row_facts.out_of_time`), all count alike, and the report says so. The half-life is chosen on `select`;
    infinity, which is plain popularity, is among those tried.
    """
    if reason := out_of_time(train):
        report(f"recent popularity: plain popularity, since train's rows are not in the order of time ({reason})")
        return _popularity(catalogue, train, float("inf"))

    def value(settings: Mapping[str, float]) -> float:
        return ndcg(_popularity(catalogue, train, settings["half_life"]).scores, select, catalogue)

    choice = best_settings({"half_life": HALF_LIVES[0]}, {"half_life": HALF_LIVES[1:]}, value)
    report(choice.said("recent popularity"))
    found = _popularity(catalogue, train, choice.settings["half_life"])
    return dataclasses.replace(found, facts={**found.facts, "at_end": list(choice.at_end)})


def fit_repeat_last(
    catalogue: Catalogue, train: Interactions, select: Interactions, seed: int, report: Callable[[str], None]
) -> RepeatLast:
    """Ranks the history backwards, then by popularity; nothing is chosen."""
    return RepeatLast(_popularity(catalogue, train, float("inf")))


def fit_transitions(
    catalogue: Catalogue, train: Interactions, select: Interactions, seed: int, report: Callable[[str], None]
) -> Transitions:
    """Counts what followed what in train; decays, shrinkage and the weight of `seen` are chosen on `select`."""
    popularity = _popularity(catalogue, train, float("inf"))

    def unseen(settings: Mapping[str, float]) -> Transitions:
        return count_transitions(train, popularity, settings)

    choice = best_with_seen(
        TRANSITION_START,
        TRANSITION_GRIDS,
        lambda settings: choose_seen(unseen(settings).scores, select, catalogue, settings["history_decay"]),
    )
    report(choice.said("transitions"))
    found = unseen(choice.settings)
    seen = Seen(choice.settings["seen"], found.history_decay, catalogue.sid_numbers_I)
    facts = {**choice.facts, "parameters": found.follow_II.nnz + catalogue.num_items}
    return dataclasses.replace(found, seen=seen, facts=facts)


def count_transitions(train: Interactions, popularity: Popularity, settings: Mapping[str, float]) -> Transitions:
    """Transitions with given settings of TRANSITION_GRIDS; the items of the history gain nothing by being in it."""
    follow_II = _follow(train, len(popularity.share_I), settings["count_decay"], settings["shrinkage"])
    return Transitions(follow_II, popularity, settings["history_decay"], None, {})


def _popularity(catalogue: Catalogue, train: Interactions, half_life: float) -> Popularity:
    """Shares of train's targets; the counts of items that share a SID add up.

    Args:
      catalogue: gives the SIDs.
      train: the rows, oldest first if `half_life` is finite.
      half_life: the half-life as a share of the rows.
    """
    rows = len(train)
    weights_B = np.exp2(-(rows - 1 - np.arange(rows)) / (half_life * rows))
    count_I = np.bincount(train.targets, weights_B, catalogue.num_items)
    for items in catalogue.items_of_sid.values():
        count_I[list(items)] = count_I[list(items)].sum()
    share_I = (count_I / weights_B.sum()).astype(np.float32)
    settings = {} if half_life == float("inf") else {"half_life": half_life}
    return Popularity(share_I, {"settings": settings, "at_end": [], "parameters": catalogue.num_items})


def _follow(train: Interactions, num_items: int, decay: float, shrinkage: float) -> sparse.csr_matrix:
    lengths_B = np.fromiter(map(len, train.histories), np.int64, len(train))
    ends_B = np.cumsum(lengths_B)
    before = np.fromiter((item for history in train.histories for item in history), np.int64, ends_B[-1])
    rows = np.repeat(np.arange(len(train)), lengths_B)
    weights = np.power(float(decay), ends_B[rows] - 1 - np.arange(len(before)))
    kept = weights > 0
    counts_II = sparse.csr_matrix(
        (weights[kept], (before[kept], train.targets[rows][kept])), shape=(num_items, num_items)
    )
    scale_I = 1 / (np.asarray(counts_II.sum(axis=1)).reshape(-1) + shrinkage)
    return sparse.csr_matrix(sparse.diags_array(scale_I) @ counts_II, dtype=np.float32)
