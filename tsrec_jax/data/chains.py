"""Rows that continue each other as one sequence, in which every row is learned once and its history is read once."""

from __future__ import annotations

import dataclasses

import numpy as np

from tsrec_jax.data.interactions import Interactions

KEEP = 0.7  # of the items of a varied chain, in expectation; chosen on the valid split of Industrial
REVERSED = 0.5  # of the varied chains
BACK = 0.3  # chance that a similar item is like one further back in the history


@dataclasses.dataclass(frozen=True)
class Chain:
    """A sequence of items of which the last ones are targets.

    Attributes:
      items: catalogue indices, oldest first.
      first: place of the first target; every later item is one too.
      rows: the rows whose targets these are, in the order of the targets.
    """

    items: tuple[int, ...]
    first: int
    rows: tuple[int, ...]


def chains(rows: Interactions, context: int = 0) -> list[Chain]:
    """The fewest chains that hold every row exactly once, ordered by their last row.

    A row continues another one of its user when its history is that one's history and target. A history that was cut
    at its oldest end continues none.

    Args:
      rows: of one split.
      context: the newest items of a history that are kept; 0: all.
    """
    parts = zip(rows.users, rows.histories, rows.targets, strict=True)
    whole = [(user, *history[-context:], int(target)) for user, history, target in parts]
    at = {sequence: row for row, sequence in enumerate(whole)}
    continued = {at[sequence[:-1]] for sequence in whole if sequence[:-1] in at}
    taken: set[int] = set()
    found = []
    for row in range(len(rows)):
        if row in continued:
            continue
        members = [row]
        while (before := at.get(whole[members[0]][:-1])) is not None and before not in taken:
            members.insert(0, before)
        taken.update(members)
        items = whole[row][1:]
        found.append(Chain(items, len(items) - len(members), tuple(members)))
    return found


def varied_chains(rows: Interactions, copies: int, seed: int) -> list[Chain]:
    """Chains as their users might have made them: thinned, and half of them backwards; all items but the first learned.

    What was bought together says something about each other in both directions and across gaps, and most users are
    known by a few purchases only.

    Args:
      rows: of train.
      copies: variants of each chain.
      seed: of the choice.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(copies):
        for chain in chains(rows):
            items = np.array(chain.items)
            kept = items[rng.random(len(items)) < KEEP]
            kept = kept if len(kept) > 1 else items
            kept = kept[::-1] if rng.random() < REVERSED else kept
            found.append(Chain(tuple(kept.tolist()), 1, chain.rows))
    return found


def similar_chains(
    rows: Interactions, nearest_IN: np.ndarray, chances_IN: np.ndarray, *, copies: int, longest: int, seed: int
) -> list[Chain]:
    """Histories that go on with an item whose text is like that of one of their last items; only that one is learned.

    So the tokens of items that nobody bought yet are learned too, where a search would look for them.

    Args:
      rows: of train; their histories and targets make the histories.
      nearest_IN: the N items nearest to each item.
      chances_IN: how likely each of them is to be chosen; rows sum to 1, or to 0 for an item that is like no other.
      copies: of each row.
      longest: items of a history; of a longer one the last.
      seed: of the choice.
    """
    rng = np.random.default_rng(seed)
    cumulative_IN = np.cumsum(chances_IN, axis=1)
    found = []
    for _ in range(copies):
        for row, (history, target) in enumerate(zip(rows.histories, rows.targets, strict=True)):
            items = (*history, int(target))[-longest:]
            like = items[-_back(rng, len(items))]
            if cumulative_IN[like, -1] > 0:
                place = np.searchsorted(cumulative_IN[like], rng.random() * cumulative_IN[like, -1], side="right")
                found.append(Chain((*items, int(nearest_IN[like, place])), len(items), (row,)))
    return found


def _back(rng: np.random.Generator, length: int) -> int:
    """1 for the last item, 2 for the one before, and so on."""
    return int(min(rng.geometric(1 - BACK), length))
