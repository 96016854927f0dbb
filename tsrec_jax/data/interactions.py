"""Interactions: what a user had, and what came next."""

from __future__ import annotations

import ast
import csv
import dataclasses
import io
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tsrec_jax.data.catalogue import Item
from tsrec_jax.data.faults import Faults

COLUMNS = (
    "user_id",
    "history_item_title",
    "item_title",
    "history_item_id",
    "item_id",
    "history_item_sid",
    "item_sid",
)
TEXT_COLUMNS = ("user_id", "history_item_id", "item_id")  # all that a folder without SIDs needs


@dataclasses.dataclass(frozen=True, eq=False)
class Interactions:
    """Rows of one split, in file order; equal to others with the same rows.

    Attributes:
      users: user id of each row.
      histories: catalogue indices of the items before, oldest first, at least one.
      targets: int32, catalogue index of the item that came next.
    """

    users: tuple[str, ...]
    histories: tuple[tuple[int, ...], ...]
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.users)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Interactions):
            return NotImplemented
        same = self.users == other.users and self.histories == other.histories
        return same and np.array_equal(self.targets, other.targets)

    def take(self, numbers: Sequence[int] | np.ndarray) -> Interactions:
        """The rows of these numbers, in this order."""
        return Interactions(
            tuple(self.users[n] for n in numbers),
            tuple(self.histories[n] for n in numbers),
            self.targets[np.asarray(numbers, np.int64)],
        )

    def spread(self, count: int) -> Interactions:
        """`count` of the rows at equal distances, from the first to the last; all where there are no more."""
        return self.take(np.linspace(0, len(self) - 1, min(count, len(self))).astype(int))


def read_interactions(
    path: pathlib.Path, text: str, items: Sequence[Item], faults: Faults, sids: Sequence[str] | None = None
) -> Interactions:
    """Reads the rows of one split.

    Args:
      path: the file, for the wording of faults.
      text: its contents.
      items: the items that its ids must name.
      faults: takes every fault with its row; row 1 is the header. Rows with a fault are not in the result.
      sids: the SID of each item, which the file's SIDs must agree with; None: the columns of SIDs and titles are
        neither needed nor read.
    """
    index = {item.id: position for position, item in enumerate(items)}
    columns = TEXT_COLUMNS if sids is None else COLUMNS
    users: list[str] = []
    histories: list[tuple[int, ...]] = []
    targets: list[int] = []
    seen: dict[tuple[str, str, str], int] = {}
    reader = csv.DictReader(io.StringIO(text, newline=""))
    missing = [column for column in columns if column not in (reader.fieldnames or ())]
    if missing:
        faults.add(path, 1, f"columns are missing: {', '.join(missing)}")
        return Interactions((), (), np.zeros(0, np.int32))
    for number, row in _rows(path, reader, faults):
        if None in row or any(row[column] is None for column in columns):
            faults.add(path, number, "has another number of fields than the header")
            continue
        key = (row["user_id"], row["history_item_id"], row["item_id"])
        if key in seen:
            faults.add(path, number, f"repeats row {seen[key]}")
            continue
        seen[key] = number
        history = _history(path, number, row, index, sids, faults)
        target = _indexed(path, number, [row["item_id"]], [row.get("item_sid")], index, sids, faults)
        if history and target:
            users.append(row["user_id"])
            histories.append(history)
            targets.append(target[0])
    if not seen:
        faults.add(path, "", "holds no rows")
    return Interactions(tuple(users), tuple(histories), np.array(targets, np.int32))


def _rows(
    path: pathlib.Path, reader: csv.DictReader, faults: Faults
) -> Iterator[tuple[int, dict[str | None, str | None]]]:
    """(row number, row) of each row after the header, up to the first that is not CSV."""
    number = 1
    try:
        for number, row in enumerate(reader, 2):
            yield number, row
    except csv.Error as error:
        faults.add(path, number + 1, f"not valid CSV ({error}); nothing after it was read")


def _history(
    path: pathlib.Path,
    number: int,
    row: Mapping[str, str],
    index: Mapping[str, int],
    sids: Sequence[str] | None,
    faults: Faults,
) -> tuple[int, ...]:
    """The history of a row as catalogue indices; empty where a fault was noted."""
    lists = {}
    needed = ("history_item_id",) if sids is None else ("history_item_id", "history_item_sid", "history_item_title")
    for column in needed:
        try:
            lists[column] = ast.literal_eval(row[column])
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            faults.add(path, number, f"{column} is not a Python list: {row[column][:60]!r}")
            return ()
        if not isinstance(lists[column], list):
            faults.add(path, number, f"{column} is not a Python list: {row[column][:60]!r}")
            return ()
    ids = lists["history_item_id"]
    if not ids:
        faults.add(path, number, "the history is empty")
        return ()
    if len({len(values) for values in lists.values()}) != 1:
        lengths = ", ".join(f"{len(values)} in {column}" for column, values in lists.items())
        faults.add(path, number, f"history lengths disagree: {lengths}")
        return ()
    return _indexed(path, number, ids, lists.get("history_item_sid", ids), index, sids, faults)


def _indexed(
    path: pathlib.Path,
    number: int,
    ids: Sequence[Any],
    named_sids: Sequence[Any],
    index: Mapping[str, int],
    sids: Sequence[str] | None,
    faults: Faults,
) -> tuple[int, ...]:
    found = []
    for item_id, sid in zip(ids, named_sids, strict=True):
        position = index.get(str(item_id))
        if position is None:
            faults.add(path, number, f"item {str(item_id)!r} is not in the catalogue")
        elif sids is not None and sid != sids[position]:
            faults.add(path, number, f"item {item_id!r} has SID {sid} here and {sids[position]} in the index")
        else:
            found.append(position)
    return tuple(found) if len(found) == len(ids) else ()
