"""Rows that continue each other as one sequence, in which every row is learned once and its history is read once."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tsrec_jax.data.interactions import Interactions

KEEP = 0.7  # of the items of a varied chain, in expectation; chosen on the valid split of Industrial
REVERSED = 0.5  # of the varied chains
BACK = 0.3  # chance that a similar item is like one further back in the history
SWAPPED = 0.3  # of the items of a distilled history
CHUNK = 512  # histories that a teacher ranks at one time


@dataclasses.dataclass(frozen=True)
class Chain:
    """A sequence of items of which the last ones are targets.

    Attributes:
      items: catalogue indices, oldest first.
      first: place of the first target; every later item is one too.
      rows: the rows whose targets these are, in the order of the targets.
      ranked: int32 (M, R), what a teacher ranks for the place of each of the M targets, best first; empty where the
        targets alone are right. Equality leaves it out.
    """

    items: tuple[int, ...]
    first: int
    rows: tuple[int, ...]
    ranked: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0), np.int32), compare=False)


def chains(rows: Interactions, context: int = 0) -> list[Chain]:
    """The fewest chains that hold every row exactly once, equal ones each for itself, ordered by their last row.

    A row continues another one of its user when its history is that one's history and target. A history that was cut
    at its oldest end continues none.

    Args:
      rows: of one split.
      context: the newest items of a history that are kept; 0: all.
    """
    parts = zip(rows.users, rows.histories, rows.targets, strict=True)
    whole = [(user, *history[-context:], int(target)) for user, history, target in parts]
    rows_of: dict[Any, list[int]] = {}
    for row, sequence in enumerate(whole):
        rows_of.setdefault(sequence, []).append(row)
    wanted = collections.Counter(sequence[:-1] for sequence in whole)
    # Of equal rows as many are continued as there are rows that continue them; the others end a chain.
    continued = {sequence: collections.deque(same[: wanted[sequence]]) for sequence, same in rows_of.items()}
    ends = sorted(row for sequence, same in rows_of.items() for row in same[wanted[sequence] :])
    found = []
    for row in ends:
        members = [row]
        while before := continued.get(whole[members[0]][:-1]):
            members.insert(0, before.popleft())
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
                found.append(Chain((*items, _like(rng, like, nearest_IN, cumulative_IN)), len(items), (row,)))
    return found


def distilled_chains(
    rows: Interactions,
    rank: Callable[[Sequence[Sequence[int]]], np.ndarray],
    nearest_IN: np.ndarray,
    chances_IN: np.ndarray,
    *,
    copies: int,
    longest: int,
    targets: int,
    any_item: float,
    soft: bool,
    throughout: bool = False,
    seed: int,
) -> list[Chain]:
    """Histories that go on with items that a teacher ranks high for them; only these are learned.

    Knowledge distillation on sequences (arXiv 1606.07947): the item at place r is chosen with a chance in proportion to
    1 / r, and each further one by the ranking for the history with the items before it at its end. A history is the
    last 1 to `longest` items of a row, SWAPPED of them exchanged for items of like text, so that the teacher is asked
    about items that train's histories lack as well.

    Args:
      rows: of train; their histories and targets make the histories.
      rank: from B histories to int32 best_BR, catalogue indices, best first.
      nearest_IN, chances_IN: as in `similar_chains`.
      copies: of each row.
      longest: items of a history.
      targets: items that it goes on with.
      any_item: share of a history's items that are exchanged for any of the catalogue, likely or not.
      soft: chains keep the rankings that their targets were drawn from.
      throughout: with `soft`, the teacher is asked after every item of the history too. All items but the first are
        targets then; those of the history need not be among the ranked.
      seed: of the choices.
    """
    rng = np.random.default_rng(seed)
    cumulative_IN = np.cumsum(chances_IN, axis=1)
    whole = [(*history, int(target)) for history, target in zip(rows.histories, rows.targets, strict=True)]

    def swapped(item: int) -> int:
        if any_item and rng.random() < any_item:
            return int(rng.integers(len(nearest_IN)))
        taken = rng.random() < SWAPPED and cumulative_IN[item, -1] > 0
        return _like(rng, item, nearest_IN, cumulative_IN) if taken else item

    asked = [*range(len(whole))] * copies
    found = []
    for start in range(0, len(asked), CHUNK):
        numbers = asked[start : start + CHUNK]
        histories = [whole[row][-int(rng.integers(1, longest + 1)) :] for row in numbers]
        histories = [tuple(map(swapped, history)) for history in histories]
        first_B = [1 if throughout else len(history) for history in histories]
        items, ranked_BMR = histories, _ranked_from(first_B, histories, rank)
        for number in range(targets):
            if number:
                ranked_BMR = [np.vstack([before, last]) for before, last in zip(ranked_BMR, rank(items), strict=True)]
            best_BR = np.stack([ranked_MR[-1] for ranked_MR in ranked_BMR])
            chance_R = 1 / np.arange(1, best_BR.shape[1] + 1)
            place_B = rng.choice(len(chance_R), len(items), p=chance_R / chance_R.sum())
            drawn_B = np.take_along_axis(best_BR, place_B[:, None], axis=1)[:, 0].tolist()
            items = [(*before, item) for before, item in zip(items, drawn_B, strict=True)]
        for row, first, one, ranked_MR in zip(numbers, first_B, items, ranked_BMR, strict=True):
            found.append(Chain(one, first, (row,), ranked_MR) if soft else Chain(one, first, (row,)))
    return found


def _ranked_from(
    first_B: Sequence[int],
    histories: Sequence[Sequence[int]],
    rank: Callable[[Sequence[Sequence[int]]], np.ndarray],
) -> list[np.ndarray]:
    """What a teacher ranks for the first items of each history, from so many on: int32 (questions, R) of each."""
    asked = [
        [history[:end] for end in range(first, len(history) + 1)]
        for first, history in zip(first_B, histories, strict=True)
    ]
    ranked = rank([part for parts in asked for part in parts])
    return np.split(ranked, np.cumsum([len(parts) for parts in asked])[:-1])


def _like(rng: np.random.Generator, item: int, nearest_IN: np.ndarray, cumulative_IN: np.ndarray) -> int:
    """One of the items nearest to an item that is like others."""
    place = np.searchsorted(cumulative_IN[item], rng.random() * cumulative_IN[item, -1], side="right")
    return int(nearest_IN[item, place])


def _back(rng: np.random.Generator, length: int) -> int:
    """1 for the last item, 2 for the one before, and so on."""
    return int(min(rng.geometric(1 - BACK), length))
