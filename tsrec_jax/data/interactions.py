"""Interactions: the items a user had, and the one that came next."""

from __future__ import annotations

import ast
import csv
import dataclasses
import io
import itertools
import pathlib
import re
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tsrec_jax.data.catalogue import Item
from tsrec_jax.data.faults import Faults
from tsrec_jax.data.texts import stands_for_nothing

COLUMNS = (
    "user_id",
    "history_item_title",
    "item_title",
    "history_item_id",
    "item_id",
    "history_item_sid",
    "item_sid",
)
TEXT_COLUMNS = ("user_id", "history_item_id", "item_id")  # all columns that a folder without SIDs needs
_OTHER_SEPARATORS = (";", "\t", "|")
_AS_NUMPY = ", as NumPy prints arrays; write it from a list (array.tolist())"
_SIDE_BY_SIDE = re.compile(r"""['"]\s*['"]""")  # in a list, two texts without a comma; rarely, quotes within a text
_NUMPY = re.compile(r"\[\s*[^\s,]+(\s+[^\s,]+)+\s*\]|.*\b(np|numpy)\.|array\(", re.DOTALL)


@dataclasses.dataclass(frozen=True, eq=False)
class Interactions:
    """Rows of one split, in file order; two are equal if they have the same rows.

    Attributes:
      users: user id of each row.
      histories: catalogue indices of the earlier items, oldest first, at least one.
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
        """The rows with these numbers, in this order."""
        return Interactions(
            tuple(self.users[n] for n in numbers),
            tuple(self.histories[n] for n in numbers),
            self.targets[np.asarray(numbers, np.int64)],
        )

    def spread(self, count: int) -> Interactions:
        """`count` of the rows at equal distances, from the first to the last; all if there are no more than that."""
        return self.take(spread(len(self), count))


def spread(length: int, count: int) -> np.ndarray:
    """int64: `count` numbers below `length` at equal distances, from 0 to the last; all if there are no more."""
    return np.linspace(0, length - 1, min(count, length)).astype(np.int64)


def read_interactions(
    path: pathlib.Path, text: str, items: Sequence[Item], faults: Faults, sids: Sequence[str] | None = None
) -> Interactions:
    """Reads the rows of one split. Equal rows are kept: a user may buy one thing again and again.

    Args:
      path: the file, for the wording of faults.
      text: its contents.
      items: the items that its ids must name.
      faults: takes every fault with its row; row 1 is the header. Rows with a fault are not in the result.
      sids: the SID of each item, which the file's SIDs must agree with, or an empty text if that SID has a fault; None:
        the columns of SIDs and titles are neither needed nor read.
    """
    index = {item.id: position for position, item in enumerate(items)}
    columns = TEXT_COLUMNS if sids is None else COLUMNS
    users: list[str] = []
    histories: list[tuple[int, ...]] = []
    targets: list[int] = []
    nameless, number = 0, 1
    reader = csv.DictReader(io.StringIO(text, newline=""))
    there = reader.fieldnames or ()
    missing = [column for column in columns if column not in there]
    if missing:
        has = f"its columns are {', '.join(map(repr, there))}" if there else "the file is empty"
        if separator := next((mark for mark in _OTHER_SEPARATORS if mark in "".join(there)), ""):
            has += f"; it separates them by {separator!r}, write it with commas"
        faults.add(path, 1, f"columns are missing: {', '.join(missing)}; {has}")
        return Interactions((), (), np.zeros(0, np.int32))
    for number, row in _rows(path, reader, faults):
        if None in row or any(row[column] is None for column in columns):
            faults.add(path, number, "has another number of fields than the header")
            continue
        if not row["user_id"].strip():  # otherwise all such rows would count as one user's
            faults.add(path, number, "user_id is empty; a row needs the user whose history it is")
            continue
        history = _history(path, number, row, index, sids, faults)
        target = _indexed(path, number, [row["item_id"]], [row.get("item_sid")], index, sids, faults)
        if history and target:
            unknown = stands_for_nothing(row["user_id"])
            nameless += unknown
            users.append(f"{row['user_id']} ({path.stem}, row {number})" if unknown else row["user_id"])
            histories.append(history)
            targets.append(target[0])
    if number == 1:
        faults.add(path, "", "holds no rows")
    if nameless:
        faults.note(
            path,
            f"{nameless} of {len(users)} rows have what programs write where there is no user_id, such as nan or N/A; "
            "each is read as the row of a user of its own",
        )
    return Interactions(tuple(users), tuple(histories), np.array(targets, np.int32))


def _rows(path: pathlib.Path, reader: csv.DictReader, faults: Faults) -> Iterator[tuple[int, dict[Any, Any]]]:
    """(row number, row) of each row after the header, up to the first that is not valid CSV."""
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
    """The history of a row as catalogue indices; empty if a fault was noted."""
    needed = ("history_item_id",) if sids is None else ("history_item_id", "history_item_sid", "history_item_title")
    lists: dict[str, list[Any]] = {}
    for column in needed:
        values = _list(row[column])
        if values is None:
            faults.add(path, number, f"{column} is not a Python list: {row[column][:60]!r}{_hint(row[column])}")
            return ()
        lists[column] = values
    ids = lists["history_item_id"]
    disagree = len({len(values) for values in lists.values()}) != 1
    for column in lists if disagree else ("history_item_id",):
        if _joins_texts(row[column]):
            faults.add(path, number, f"{column} has texts without a comma between: {row[column][:60]!r}{_AS_NUMPY}")
            return ()
    if not ids:
        faults.add(path, number, "the history is empty: a row needs what came before its target; leave the row out")
        return ()
    if disagree:
        lengths = ", ".join(f"{len(values)} in {column}" for column, values in lists.items())
        faults.add(path, number, f"history lengths disagree: {lengths}")
        return ()
    return _indexed(path, number, ids, lists.get("history_item_sid", ids), index, sids, faults)


def _list(cell: str) -> list[Any] | None:
    """The list that a cell holds as a Python literal; None if it holds something else."""
    try:
        value = ast.literal_eval(cell)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, list) else None


def _hint(cell: str) -> str:
    return _AS_NUMPY if _NUMPY.match(cell) else ""


def _joins_texts(cell: str) -> bool:
    """Whether a list has texts side by side without a comma, which Python reads as one text."""
    if not _SIDE_BY_SIDE.search(cell):
        return False
    kinds = [token.type for token in tokenize.generate_tokens(io.StringIO(cell).readline)]
    kinds = [kind for kind in kinds if kind not in (tokenize.NL, tokenize.NEWLINE)]
    return (tokenize.STRING, tokenize.STRING) in itertools.pairwise(kinds)


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
        elif sids is not None and sid != sids[position] and sids[position]:
            faults.add(path, number, f"item {str(item_id)!r} has SID {sid} here and {sids[position]} in the index")
        else:
            found.append(position)
    return tuple(found) if len(found) == len(ids) else ()
