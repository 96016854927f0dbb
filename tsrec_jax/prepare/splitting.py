"""Users' sequences as rows of a history and the item that came next, and the rows as train, valid and test.

A row's history holds the last items of its user before the target, so nothing in a row is later than its target. Rows
stand in the order of their targets' times (then of users, and of each user's sequence). Two targets of the same second
never come apart under "ratio" and "date": there no target of train is later than one of valid or test, and none of
valid later than one of test. "leave_one_out" keeps that order for each user alone: other users' train rows may be later
than a test row, and the history of a test row holds the target of the user's valid row.
"""

from __future__ import annotations

import csv
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from tsrec_jax.errors import UserError

SPLITS = ("train", "valid", "test")
COLUMNS = ("user_id", "history_item_id", "item_id")
_ROUNDING = 1e-6  # rows: nine tenths of ten rows are nine, whatever the floats say
_MANY_OF_A_SECOND = 0.1  # share of the targets: as much as a small split has
LEAVE_ONE_OUT_NEEDS = (
    "a user's last row is for test, the one before for valid: only users with four interactions have one for train; "
    "keep more interactions with a wider window, or split by ratio or date"
)
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclasses.dataclass(frozen=True)
class Log:
    """N interactions, by user, then time, then in the order of the files (which `ties` may change).

    Attributes:
      users: uint32 (N,), positions in a list of user ids.
      items: uint32 (N,), positions in a list of item ids.
      times: int64 (N,), seconds since 1970.
    """

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray

    def __len__(self) -> int:
        return len(self.users)

    def where(self, chosen: np.ndarray | slice) -> Log:
        """The chosen interactions: a mask, positions or a slice."""
        return Log(self.users[chosen], self.items[chosen], self.times[chosen])


@dataclasses.dataclass(frozen=True)
class Rows:
    """R rows over a log: each history is `log.items[start:end]`, each target `log.items[end]`.

    Attributes:
      starts: int64 (R,), position of the first item of the history.
      ends: int64 (R,), position of the target.
    """

    starts: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def where(self, chosen: np.ndarray | slice) -> Rows:
        """The chosen rows: a mask, positions or a slice."""
        return Rows(self.starts[chosen], self.ends[chosen])


def prefix_rows(log: Log, max_history: int) -> tuple[Rows, int]:
    """A row for every interaction with one of its user before it, in the order of time.

    Users who buy one thing over and over have the same row many times, once `max_history` cuts it: that is what they
    did, so all of them stay, and are counted.

    Args:
      log: the interactions.
      max_history: most items in a history; the last ones count.

    Returns:
      The rows, and how many of them have the user, history and target of an earlier one.
    """
    is_first = np.ones(len(log), bool)
    is_first[1:] = log.users[1:] != log.users[:-1]
    ends = np.flatnonzero(~is_first)
    first_of_user = np.maximum.accumulate(np.where(is_first, np.arange(len(log)), 0))[ends]
    rows = Rows(np.maximum(first_of_user, ends - max_history), ends)
    rows = rows.where(np.argsort(log.times[rows.ends], kind="stable"))
    return rows, _repeated(log, rows)


def _repeated(log: Log, rows: Rows) -> int:
    """How many rows have the user, history and target of an earlier row."""
    repeated = 0
    seen = set()
    # Rows that share their hash with no other row repeat none; the few others are compared in full.
    for row in _sharing(_hashes(log, rows)):
        start, end = rows.starts[row], rows.ends[row]
        key = (log.users[end], log.items[start : end + 1].tobytes())
        repeated += key in seen
        seen.add(key)
    return repeated


def _hashes(log: Log, rows: Rows) -> np.ndarray:
    """uint64 (R,), the same for rows of the same user, history and target."""
    hashes = log.users[rows.ends].astype(np.uint64)
    for back in range(int((rows.ends - rows.starts).max(initial=0)) + 1):
        positions = rows.ends - back
        items = np.where(positions >= rows.starts, log.items[positions].astype(np.uint64) + np.uint64(1), np.uint64(0))
        hashes = (hashes ^ items) * _MIX
        hashes ^= hashes >> np.uint64(29)
    return hashes


def _sharing(hashes: np.ndarray) -> np.ndarray:
    """Positions, in rising order, of the values that occur more than once."""
    order = np.argsort(hashes, kind="stable")
    same = hashes[order][1:] == hashes[order][:-1]
    shares = np.zeros(len(hashes), bool)
    shares[order[1:][same]] = True
    shares[order[:-1][same]] = True
    return np.flatnonzero(shares)


def split_by_ratio(log: Log, rows: Rows, ratios: Sequence[float]) -> dict[str, Rows]:
    """Cuts the rows, in the order of time, at shares of their number.

    A cut that would part targets of the same second moves to the nearer end of that second.
    """
    times = log.times[rows.ends]
    shares = np.cumsum(ratios)[:-1] / np.sum(ratios)
    return _cut(rows, [_between_seconds(times, int(share * len(rows) + _ROUNDING)) for share in shares])


def _between_seconds(times: np.ndarray, cut: int) -> int:
    if not 0 < cut < len(times):
        return cut
    below = int(np.searchsorted(times, times[cut], side="left"))
    above = int(np.searchsorted(times, times[cut], side="right"))
    return below if cut - below <= above - cut else above


def split_by_date(log: Log, rows: Rows, cuts: Sequence[int]) -> dict[str, Rows]:
    """Cuts the rows at the first time of valid and that of test, in seconds since 1970."""
    times = log.times[rows.ends]
    return _cut(rows, [int(np.searchsorted(times, time, side="left")) for time in cuts])


def _cut(rows: Rows, cuts: Sequence[int]) -> dict[str, Rows]:
    bounds = (0, *cuts, len(rows))
    return {split: rows.where(slice(bounds[i], bounds[i + 1])) for i, split in enumerate(SPLITS)}


def split_leave_one_out(log: Log, rows: Rows) -> dict[str, Rows]:
    """Each user's last row to test, the one before to valid, the others to train."""
    by_user = np.argsort(rows.ends)  # the log is by user, then time
    users = log.users[rows.ends[by_user]]
    # How many rows of the same user follow: the distance to the end of the user's run.
    last = np.searchsorted(users, users, side="right") - 1
    following = np.empty(len(rows), np.int64)
    following[by_user] = last - np.arange(len(rows))
    return {
        "train": rows.where(following >= 2),
        "valid": rows.where(following == 1),
        "test": rows.where(following == 0),
    }


def items_of(log: Log, rows: Rows) -> np.ndarray:
    """uint32, the items of histories and targets, each once, in rising order."""
    # A position is inside some row where more rows have begun than have ended before it.
    begun = np.cumsum(np.bincount(rows.starts, minlength=len(log)))
    ended = np.cumsum(np.bincount(rows.ends + 1, minlength=len(log) + 1))[:-1]
    return np.unique(log.items[begun > ended])


def check_splits(splits: Mapping[str, Rows], settings: str, way_out: str = "") -> None:
    """Refuses an empty split.

    Args:
      splits: the rows of each.
      settings: what the user set, for the message.
      way_out: what to do, where the cause is known.

    Raises:
      UserError: a split has no rows; the message names it, the others' sizes and what to change.
    """
    empty = [split for split, rows in splits.items() if not len(rows)]
    if empty:
        sizes = ", ".join(f"{split} {len(rows)}" for split, rows in splits.items())
        raise UserError(
            f"{settings} leaves {' and '.join(empty)} without rows ({sizes}); "
            f"{way_out or 'move the cuts, or keep more interactions with a lower prepare.k_core or a wider window'}"
        )


def times_that_tie(log: Log, rows: Rows) -> str:
    """What to do where a second has so many targets that cuts by ratio miss a split; empty where none has."""
    most = int(np.unique(log.times[rows.ends], return_counts=True)[1].max(initial=0))
    if most < 2 or _MANY_OF_A_SECOND * len(rows) > most:
        return ""
    return (
        f"{most} of {len(rows)} targets have the same time, and targets of one second are never parted: give times "
        "that differ, or split by prepare.split='leave_one_out'"
    )


def write_rows(path: pathlib.Path, log: Log, rows: Rows, user_ids: Sequence[str], sequence: Sequence[str]) -> None:
    """Writes rows as CSV: user_id, history_item_id (a Python list of ids), item_id.

    Args:
      path: the file.
      log: the interactions.
      rows: the rows, in the order in which they are written.
      user_ids: the id of each user.
      sequence: the item id of each interaction of the log.
    """
    users = log.users[rows.ends].tolist()
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for user, start, end in zip(users, rows.starts.tolist(), rows.ends.tolist(), strict=True):
            writer.writerow((user_ids[user], sequence[start:end], sequence[end]))
