"""Rows that continue each other as one sequence, in which every row is learned once and its history is read once."""

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
      first: place of the first target; every later item is one too.
      rows: the rows whose targets these are, in the order of the targets.
      ranked: int32 (M, R), what a teacher ranks for the place of each of the M targets, best first; empty where the
        targets alone are right. Equality leaves it out.
    """

    items: tuple[int, ...]
    first: int
    rows: tuple[int, ...]
    ranked: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0), np.int32), compare=False)


def user_sequences(rows: Interactions, context: int = 0) -> list[ItemSequence]:
    """The fewest sequences that hold every row exactly once, equal ones each for itself, ordered by their last row.

    A row continues another one of its user when its history is that one's history and target. A history that was cut
    at its oldest end continues none.

    Args:
      rows: of one split.
      context: the newest items of a history that are kept; 0: all.
    """
    parts = zip(rows.users, rows.histories, rows.targets, strict=True)
    whole: list[tuple[Any, ...]] = [(user, *history[-context:], int(target)) for user, history, target in parts]
    rows_of: dict[Any, list[int]] = {}
    for row, sequence in enumerate(whole):
        rows_of.setdefault(sequence, []).append(row)
    wanted = collections.Counter(sequence[:-1] for sequence in whole)
    # Of equal rows as many are continued as there are rows that continue them; the others end a sequence.
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
