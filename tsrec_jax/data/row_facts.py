"""What the rows of a folder show: repeats, rows in two splits, which end of a history is the newest, and row order.

A row continues another row of its user if its history is the other's history followed by the other's target, or the
newest part of that where histories are cut to a length. A folder holds no times, so the order is inferred from this.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator

from tsrec_jax.data.interactions import Interactions

LEAST_EVIDENCE = 5  # rows that continue another at the oldest end before a folder counts as written newest first
IN_ORDER = 0.95  # share of continuing rows that must come after the row they continue for file order to be time

Row = tuple[str, tuple[int, ...], int]


def keys(rows: Interactions) -> Iterator[Row]:
    """(user, history, target) of each row."""
    return zip(rows.users, rows.histories, rows.targets.tolist(), strict=True)


def repeats(rows: Interactions) -> int:
    """The number of rows that equal an earlier one, as when a user buys the same thing again and again."""
    return sum(len(own) - len(set(own)) for own in _by_user([rows]))


def also_in(rows: Interactions, other: Interactions) -> list[int]:
    """Numbers of the rows that are also in the other split, with the same user, history and target."""
    wanted = set(keys(rows))
    known = {key for key in keys(other) if key in wanted}
    return [number for number, key in enumerate(keys(rows)) if key in known]


def _by_user(splits: Iterable[Interactions]) -> Iterator[list[tuple[tuple[int, ...], int]]]:
    """(history, target) of the rows of each user, in file order."""
    found: dict[str, list[tuple[tuple[int, ...], int]]] = {}
    for rows in splits:
        for user, history, target in keys(rows):
            found.setdefault(user, []).append((history, target))
    yield from found.values()


@dataclasses.dataclass(frozen=True)
class Direction:
    """Counts of rows that continue another row of their user, by the end of the history at which they do so.

    Attributes:
      rows: all rows of users with several rows.
      newest: rows that continue another one only when histories are read oldest first, as this package reads them.
      oldest: rows that do so only when histories are read newest first.
    """

    rows: int
    newest: int
    oldest: int

    @property
    def backwards(self) -> bool:
        """Whether histories were written newest first."""
        return self.oldest >= LEAST_EVIDENCE and self.oldest > 2 * self.newest


def direction(splits: Iterable[Interactions]) -> Direction:
    """Which end of the histories is the newest, judged from the rows of all splits together."""
    rows = newest = oldest = 0
    for own in _by_user(splits):
        if len(own) > 1:
            behind = {part for row in own for part in _behind(*row)}
            before = {part for row in own for part in _before(*row)}
            rows += len(own)
            newest += sum(history in behind and history not in before for history, _ in own)
            oldest += sum(history in before and history not in behind for history, _ in own)
    return Direction(rows, newest, oldest)


def out_of_time(rows: Interactions) -> str:
    """Why the rows cannot be in time order; empty if nothing speaks against it."""
    continuing = behind = 0
    for own in _by_user([rows]):
        first: dict[tuple[int, ...], int] = {}
        for number, row in enumerate(own):
            for part in _behind(*row):
                first.setdefault(part, number)
        known = [first[history] < number for number, (history, _) in enumerate(own) if history in first]
        continuing, behind = continuing + len(known), behind + sum(known)
    if behind < IN_ORDER * continuing:
        return f"{behind} of {continuing} rows that continue another one stand behind it"
    counts = Counter(rows.users)
    blocks = Counter(user for number, user in enumerate(rows.users) if not number or rows.users[number - 1] != user)
    several = [user for user, count in counts.items() if count > 1]
    if len(several) > 1 and all(blocks[user] == 1 for user in several):
        return "they stand user by user"
    return ""


def _behind(history: tuple[int, ...], target: int) -> list[tuple[int, ...]]:
    """The histories that the next row may have: whole, and, if this row's has several items, cut to its length."""
    whole = (*history, target)
    return [whole, whole[1:]] if len(history) > 1 else [whole]


def _before(history: tuple[int, ...], target: int) -> list[tuple[int, ...]]:
    """The same for histories written newest first."""
    whole = (target, *history)
    return [whole, whole[:-1]] if len(history) > 1 else [whole]
