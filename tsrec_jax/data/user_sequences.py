"""Joins rows that continue each other into one sequence, so that each row is learned and each history read once."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import numpy as np

from tsrec_jax.data.interactions import Interactions


@dataclasses.dataclass(frozen=True)
class ItemSequence:
    """A sequence of items of which the last ones are targets.

    Attributes:
      items: catalogue indices, oldest first.
      first: position of the first target; every later item is a target too.
      rows: the rows whose targets these are, in the order of the targets.
      ranked: int32 (M, R), what a teacher ranks at the position of each of the M targets, best first; empty if only the
        targets are right. Equality ignores it.
    """

    items: tuple[int, ...]
    first: int
    rows: tuple[int, ...]
    ranked: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0), np.int32), compare=False)


def user_sequences(rows: Interactions, context: int = 0) -> list[ItemSequence]:
    """The fewest sequences that hold every row exactly once, equal rows separately, ordered by their last row.

    A row continues another row of its user if its history is that row's history and target. A row whose history was cut
    at its oldest end continues none.

    Args:
      rows: the rows of one split.
      context: how many of a history's newest items are kept; 0: all.
    """
    parts = zip(rows.users, rows.histories, rows.targets, strict=True)
    whole: list[tuple[Any, ...]] = [(user, *history[-context:], int(target)) for user, history, target in parts]
    rows_of: dict[Any, list[int]] = {}
    for row, sequence in enumerate(whole):
        rows_of.setdefault(sequence, []).append(row)
    wanted = collections.Counter(sequence[:-1] for sequence in whole)
    # As many of a set of equal rows are continued as there are rows that continue them; the others end a sequence.
    continued = {sequence: collections.deque(same[: wanted[sequence]]) for sequence, same in rows_of.items()}
    ends = sorted(row for sequence, same in rows_of.items() for row in same[wanted[sequence] :])
    found = []
    for row in ends:
        members = [row]
        while before := continued.get(whole[members[0]][:-1]):
            members.insert(0, before.popleft())
        _, *items = whole[row]
        found.append(ItemSequence(tuple(items), len(items) - len(members), tuple(members)))
    return found
