"""What the rows of a folder say of themselves: repeats, rows of two splits, which end is the newest, and their order.

A row continues another one of its user when its history is the other's history and then its target, or the newest
part of that where histories are cut to a length. There are no times in a folder; this is what tells the order.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable

from tsrec_jax.data.interactions import Interactions

LEAST_EVIDENCE = 5  # rows that continue another at the oldest end before a folder counts as written newest first
IN_ORDER = 0.95  # of the rows that continue another, the share that must stand behind it for file order to be time

Row = tuple[str, tuple[int, ...], int]


def keys(rows: Interactions) -> list[Row]:
    """(user, history, target) of each row."""
    return list(zip(rows.users, rows.histories, rows.targets.tolist(), strict=True))


def repeats(rows: Interactions) -> int:
    """Rows that are equal to an earlier one. A user who buys one thing again and again makes such rows."""
    return len(rows) - len(set(keys(rows)))


def also_in(rows: Interactions, other: Interactions) -> list[int]:
    """Numbers of the rows that stand in the other split too, with the same user, history and target."""
    known = set(keys(other))
    return [number for number, key in enumerate(keys(rows)) if key in known]


@dataclasses.dataclass(frozen=True)
class Direction:
    """Rows that continue another row of their user, by the end of the history at which they do.

    Attributes:
      rows: those of users with several rows.
      newest: rows that continue another one as this package reads histories, oldest first, and not the other way.
      oldest: rows that do so only when their history is read newest first.
    """

    rows: int
    newest: int
    oldest: int

    @property
    def backwards(self) -> bool:
        """Whether histories were written newest first."""
        return self.oldest >= LEAST_EVIDENCE and self.oldest > 2 * self.newest


def direction(splits: Iterable[Interactions]) -> Direction:
    """Which end of the histories is the newest, by the rows of all splits together."""
    parts = list(splits)
    several = {user for user, count in Counter(user for rows in parts for user in rows.users).items() if count > 1}
    rows = [row for part in parts for row in keys(part) if row[0] in several]
    ends = {
        end: {(user, part) for user, history, target in rows for part in continued(history, target)}
        for end, continued in (("newest", _behind), ("oldest", _before))
    }
    found = [tuple((user, history) in ends[end] for end in ("newest", "oldest")) for user, history, _ in rows]
    return Direction(len(rows), found.count((True, False)), found.count((False, True)))


def out_of_time(rows: Interactions) -> str:
    """Why the order of the rows cannot be that of time; empty where nothing speaks against it."""
    first: dict[tuple[str, tuple[int, ...]], int] = {}
    for number, (user, history, target) in enumerate(keys(rows)):
        for part in _behind(history, target):
            first.setdefault((user, part), number)
    continuing = [first[user, history] < number for number, (user, history, _) in enumerate(keys(rows))
                  if (user, history) in first]  # fmt: skip
    if sum(continuing) < IN_ORDER * len(continuing):
        return f"{sum(continuing)} of {len(continuing)} rows that continue another one stand behind it"
    counts = Counter(rows.users)
    blocks = Counter(user for number, user in enumerate(rows.users) if not number or rows.users[number - 1] != user)
    several = [user for user, count in counts.items() if count > 1]
    if len(several) > 1 and all(blocks[user] == 1 for user in several):
        return "they stand user by user"
    return ""


def _behind(history: tuple[int, ...], target: int) -> list[tuple[int, ...]]:
    """The histories that the row after this one may have: whole, and cut to the length of this one's if not to one."""
    whole = (*history, target)
    return [whole, whole[1:]] if len(history) > 1 else [whole]


def _before(history: tuple[int, ...], target: int) -> list[tuple[int, ...]]:
    """The same where histories are written newest first."""
    whole = (target, *history)
    return [whole, whole[:-1]] if len(history) > 1 else [whole]
