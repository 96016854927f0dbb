"""The changes of a catalogue, kept in a SQLite file: who changed what and when, durable before the answer is sent.

The file is a journal. Each row carries the whole state of one item after the change, so the rows in their order,
applied to an export's catalogue, give the catalogue as it is now. Several processes of one machine may use one file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tsrec_jax.errors import UserError

_APPLICATION = 0x54535243  # "TSRC": SQLite keeps it in the header, which tells the file from other programs' files
_FORMAT = 1
_MOST = 2**63 - 1  # the largest row number
_BUSY_SECONDS = 30.0  # the longest wait for another process's change, such as an import
_OVERTAKEN = "number NOT IN (SELECT max(number) FROM changes GROUP BY id)"
_TABLES = """
CREATE TABLE changes (
  number INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, who TEXT NOT NULL, action TEXT NOT NULL,
  id TEXT NOT NULL, state TEXT
);
CREATE INDEX changes_of_item ON changes (id, number);
CREATE TABLE exported (id TEXT PRIMARY KEY, sid TEXT NOT NULL) WITHOUT ROWID;
"""


class NotRead(UserError):
    """The journal cannot be read: the file is damaged, gone, a different journal than before, or no journal at all."""


class NotKept(UserError):
    """A change could not be written and so was not made; the catalogue is as before."""


@dataclasses.dataclass(frozen=True)
class Change:
    """One row of the journal.

    Attributes:
      number: rises with each change; 0 if it is not written yet.
      at: the time, UTC, ISO 8601 with milliseconds.
      who: whoever requested it.
      action: `put`, `change`, `block`, `unblock`, `remove`, `restore` or `adopt`.
      id: the item.
      state: the item afterwards, as the fields of a `LiveItem` without its id; without a SID: as the export has it,
        except for the stated fields; None: it is not in the catalogue.
    """

    number: int
    at: str
    who: str
    action: str
    id: str
    state: Mapping[str, Any] | None


class Changes:
    """The journal of one catalogue. Safe for several threads.

    Args:
      path: the file, created by the first change; None: in memory, for as long as this object lives.
      until: the number of the last change to read; later ones are ignored and none can be made. None: all are read.

    Attributes:
      closed: whether it can no longer be used.

    Raises:
      NotRead: the file exists and is not a journal.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, until: int | None = None):
        self.path = None if path is None else pathlib.Path(path)
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None  # device and inode: the name may later point to another file
        self._version = -1
        self._until = until
        self.closed = False
        self._lock = threading.RLock()
        if self.path is None or self.path.exists():
            self._connection()

    def close(self) -> None:
        """Closes the file for good."""
        with self._lock:
            self.reopen()
            self.closed = True

    def reopen(self) -> None:
        """Closes the file; the next use opens it again, and refuses another one that has taken its place."""
        with self._lock:
            if self._db is not None:
                self._db.close()
            self._db, self._version = None, -1

    def require_writable(self) -> None:
        """Raises NotKept if no change could be written. Creates the file."""
        with self.writing():
            pass

    @property
    def absent(self) -> bool:
        """Whether there is no file yet because nothing was changed."""
        return self._db is None and self._file is None and self.path is not None and not self.path.exists()

    @property
    def changed_elsewhere(self) -> bool:
        """Whether another connection has written since the last call; on the first call, whether there is a file."""
        with self._lock:
            if self.closed or self.absent:
                return False
            before, self._version = self._version, self._value("PRAGMA data_version")
            return before != self._version

    def after(self, number: int, limit: int = -1) -> list[Change]:
        """The changes after a number, in order, at most `limit`.

        Raises:
          NotRead: the file cannot be read.
        """
        if self.absent:
            return []
        return self._changes("number > ? AND number <= ? ORDER BY number LIMIT ?", (number, self._to, limit))

    def behind(self, last: Change | None, limit: int) -> list[Change]:
        """As `after`, for the changes after one that was read before; None: from the first one on.

        Raises:
          NotRead: the file cannot be read, or its journal is not the one of `last`, for example a backup copied over
            it.
        """
        if last is not None:
            there = self.after(last.number - 1, 1)
            # A change that a later one has superseded may be dropped, but no number is used twice.
            if self.last_number < last.number or (there[0].number == last.number and there[0] != last):
                raise NotRead(f"{self.path}: not the journal that was followed so far, but another one; start again")
        return self.after(0 if last is None else last.number, limit)

    @property
    def followed(self) -> bool:
        """Whether other processes may make changes that are read here."""
        return self.path is not None and self._until is None

    @property
    def count(self) -> int:
        """The number of changes to read; `compact` lowers it."""
        return 0 if self.absent else int(self._value("SELECT count(*) FROM changes WHERE number <= ?", (self._to,)))

    @property
    def _to(self) -> int:
        return _MOST if self._until is None else self._until

    @property
    def last_number(self) -> int:
        """The highest number that a change of this file has had; 0 before the first change."""
        rows = [] if self.absent else self._rows("SELECT seq FROM sqlite_sequence WHERE name = 'changes'")
        return int(rows[0][0]) if rows else 0

    def last(self, item_id: str) -> Change | None:
        """The last change of an item."""
        number = self._value("SELECT max(number) FROM changes WHERE id = ?", (item_id,))
        return None if number is None else self.after(number - 1, 1)[0]

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Changes appended inside become durable together when the block ends, or none of them is made.

        No change of another process comes between them and what was read inside.

        Raises:
          NotKept: the disk is full, the file cannot be written, or another process has held it for too long.
        """
        if self._until is not None:
            raise NotKept(f"{self.path}: read as of change {self._until}; the change is not made")
        with self._lock:
            try:
                db = self._connection()
                db.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    db.execute("COMMIT")
                finally:
                    if db.in_transaction:
                        db.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise NotKept(f"{self.path}: the change is not made ({error})") from None
            except NotRead as error:
                raise NotKept(f"{error}; the change is not made") from None

    def append(self, changes: Sequence[Change]) -> None:
        """Writes changes, inside `writing`, and numbers them."""
        self._connection().executemany(
            "INSERT INTO changes (at, who, action, id, state) VALUES (?, ?, ?, ?, ?)",
            (
                (c.at, c.who, c.action, c.id, None if c.state is None else json.dumps(c.state, ensure_ascii=False))
                for c in changes
            ),
        )

    def exported(self) -> dict[str, str]:
        """{id: SID} of some items of the export to which the changes were made; empty before the first change."""
        if self.absent:
            return {}
        return dict(self._rows("SELECT id, sid FROM exported"))

    def set_exported(self, sids: Mapping[str, str]) -> None:
        """Writes, inside `writing`, what `exported` returns."""
        db = self._connection()
        db.execute("DELETE FROM exported")
        db.executemany("INSERT INTO exported VALUES (?, ?)", sids.items())

    def faults(self) -> list[str]:
        """What SQLite finds wrong with the file."""
        with self._lock:
            try:
                found = [str(row[0]) for row in self._connection().execute("PRAGMA integrity_check")]
            except sqlite3.Error as error:
                found = [str(error)]
        return [] if found == ["ok"] else found

    def compact(self, keep: Callable[[Sequence[Change]], None]) -> int:
        """Drops the changes that a later one of the same item has superseded, and frees the space.

        Args:
          keep: receives the dropped changes, in order, before they are gone.

        Returns:
          the number of dropped changes.
        """
        with self.writing():
            overtaken = self._changes(f"{_OVERTAKEN} ORDER BY number")
            keep(overtaken)
            self._connection().execute(f"DELETE FROM changes WHERE {_OVERTAKEN}")
        for statement in ("VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
            self._rows(statement)
        return len(overtaken)

    def _changes(self, condition: str, values: Sequence[Any] = ()) -> list[Change]:
        rows = self._rows(f"SELECT * FROM changes WHERE {condition}", values)
        try:
            return [
                Change(number, at, who, action, item_id, None if state is None else json.loads(state))
                for number, at, who, action, item_id, state in rows
            ]
        except ValueError as error:
            raise NotRead(f"{self.path}: a change from number {rows[0][0]} on is broken ({error})") from None

    def _value(self, query: str, values: Sequence[Any] = ()) -> Any:
        return self._rows(query, values)[0][0]

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._connection().execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise NotRead(f"{self.path}: cannot be read ({error}); `tsrec catalogue verify` says more") from None

    def _connection(self) -> sqlite3.Connection:
        if self.path is not None and self._file not in (None, _identity(self.path)):
            raise NotRead(f"{self.path}: removed or replaced while it was in use; start again")
        if self._db is None:
            if self.closed:
                raise NotRead(f"{self.path}: the changes of the catalogue are closed")
            if self.path is None:
                self._db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
                _make_tables(self._db)
            else:
                self._db = _opened(self.path)
                self._file = _identity(self.path)
        return self._db


def changes_file(folder: str | os.PathLike[str]) -> pathlib.Path:
    """The file for the changes of an export unless a command names another: beside the export's folder.

    Exporting again replaces the folder and leaves the changes; so does redirecting a link to another folder.
    """
    folder = pathlib.Path(os.path.abspath(folder))
    return folder.with_name(f"{folder.name}.catalogue.sqlite")


def now() -> str:
    """The time as the journal writes it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def _identity(path: pathlib.Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _opened(path: pathlib.Path) -> sqlite3.Connection:
    """A connection to the file, which is created if it does not exist."""
    if not path.parent.is_dir():
        raise NotRead(f"{path}: its folder is not there")
    try:
        db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            _prepare(db, path)
        except BaseException:
            db.close()
            raise
    except sqlite3.Error as error:
        raise NotRead(f"{path}: cannot be opened as a catalogue's changes ({error}); see --catalogue") from None
    return db


def _prepare(db: sqlite3.Connection, path: pathlib.Path) -> None:
    db.execute("PRAGMA synchronous = FULL")  # a commit returns when the disk has it
    if _is_empty(db):
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("BEGIN IMMEDIATE")
        if _is_empty(db):  # another process may have been first
            _make_tables(db)
        db.execute("COMMIT")
    if _header(db, "application_id") != _APPLICATION:
        raise NotRead(f"{path}: a database of another program; give another --catalogue")
    if (version := _header(db, "user_version")) != _FORMAT:
        raise NotRead(f"{path}: written by another version of this program (format {version}); use that one")


def _is_empty(db: sqlite3.Connection) -> bool:
    return not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


def _header(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


def _make_tables(db: sqlite3.Connection) -> None:
    for statement in _TABLES.split(";"):
        db.execute(statement)
    db.execute(f"PRAGMA application_id = {_APPLICATION}")
    db.execute(f"PRAGMA user_version = {_FORMAT}")
