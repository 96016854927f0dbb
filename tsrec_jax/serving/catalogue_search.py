"""Finds items by their words, titles and nearly correct ids, from an index in memory."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from tsrec_jax.data.catalogue import NEAREST_AMONG
from tsrec_jax.errors import UserError

if TYPE_CHECKING:
    from tsrec_jax.serving.catalogue_items import LiveItem

# SQLite indexes runs of three characters. A text is followed by its characters with this one between them, so that
# single characters and pairs are in such runs too: "ab" gives "|a|" and "a|b".
_BETWEEN = "\x01"
_GRAMS = 200  # looked up at most; whether all of the words occur is checked afterwards
_PASSED_OVER = (
    2_000  # items that have all runs of a word but not the word, which a search reads within some milliseconds
)
_NEIGHBOURS = 3  # ids before and after an unknown one in sorted order
_SHARING = 8  # ids that share one half of it
_PATIENCE = 0.002  # seconds; a hint is worth no more waiting
_LEAST_SQLITE = (3, 34)  # the first with an index of three characters
_LOG = logging.getLogger(__name__)
_TABLES = """
CREATE TABLE items (number INTEGER PRIMARY KEY, id TEXT NOT NULL, title TEXT NOT NULL, backwards TEXT NOT NULL);
CREATE VIRTUAL TABLE grams USING fts5(
  text, content = '', columnsize = 0, detail = none, tokenize = 'trigram case_sensitive 1'
);
"""
_INDEXES = """
CREATE UNIQUE INDEX ids ON items (id); CREATE INDEX titles ON items (title); CREATE INDEX ends ON items (backwards);
"""


class CatalogueSearch:
    """The index. Safe for several threads; any query looks at few items.

    Args:
      items: in the order in which they are found.

    Raises:
      UserError: Python's SQLite is too old.
    """

    def __init__(self, items: Iterable[LiveItem]):
        if sqlite3.sqlite_version_info < _LEAST_SQLITE:
            raise UserError(f"a search needs SQLite 3.34 or later; this Python has {sqlite3.sqlite_version}")
        self._lock = threading.Lock()
        self._db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._db.executescript(_TABLES)
        self._db.execute("BEGIN")
        for number, item in enumerate(items):
            self._insert(number, item)
        self._db.execute("COMMIT")
        self._db.executescript(_INDEXES)

    def follow(self, changes: Iterable[tuple[LiveItem | None, LiveItem | None]]) -> None:
        """Takes over changed items, each as it was and as it is; None: it was not, or is not, in the catalogue."""
        with self._lock:
            self._db.execute("BEGIN")
            try:
                for before, after in changes:
                    number = None if before is None else self._remove(before)
                    if after is not None:
                        self._insert(number, after)
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def find(self, text: str, limit: int) -> list[str]:
        """The ids of the first `limit` items whose id or title contains every word of a text, ignoring case.

        Raises:
          UserError: very many items have the parts of a word but not the word.
        """
        words = _folded(text).split()
        with self._lock:
            return _first(limit, self._matching(words))

    def titled(self, title: str) -> list[str]:
        """The ids of the items with exactly this title."""
        with self._lock:
            try:
                return [
                    row[0] for row in self._db.execute("SELECT id FROM items WHERE title = ? ORDER BY number", [title])
                ]
            except UnicodeEncodeError:
                return []

    def near(self, item_id: str) -> list[str]:
        """Some ids that a misspelt one may stand for: those that begin or end like it or like a half of it.

        Every request with an unknown id comes here, so it reads a few rows of sorted tables, and returns none if the
        index is busy.
        """
        start, end = item_id, _folded(item_id)[::-1]
        looks = (
            ("id < ? ORDER BY id DESC", start, _NEIGHBOURS),
            ("id >= ? ORDER BY id", start, _NEIGHBOURS),
            ("id >= ? ORDER BY id", start[: len(start) // 2], _SHARING),
            ("backwards < ? ORDER BY backwards DESC", end, _NEIGHBOURS),
            ("backwards >= ? ORDER BY backwards", end, _NEIGHBOURS),
            ("backwards >= ? ORDER BY backwards", end[: len(end) // 2], _SHARING),
        )
        if not self._lock.acquire(timeout=_PATIENCE):
            return []
        try:
            rows = [
                row
                for look, *values in looks
                for row in self._db.execute(f"SELECT id FROM items WHERE {look} LIMIT ?", values)
            ]
        except UnicodeEncodeError:  # half a pair of surrogates, which no item contains
            return []
        finally:
            self._lock.release()
        return list(dict.fromkeys(row[0] for row in rows))

    def _matching(self, words: list[str]) -> Iterator[str]:
        grams = [gram for word in words for gram in _grams(word)]
        try:
            if grams:
                some = list(dict.fromkeys(grams))[:_GRAMS]
                query = " AND ".join('"{}"'.format(gram.replace('"', '""')) for gram in some)
                rows = self._db.execute(
                    "SELECT id, title FROM grams JOIN items ON items.number = grams.rowid WHERE grams MATCH ? "
                    "ORDER BY grams.rowid",
                    (query,),
                )
            else:
                rows = self._db.execute("SELECT id, title FROM items ORDER BY number")
        except UnicodeEncodeError:
            return
        passed_over = 0
        for item_id, title in rows:
            searched = _searched(item_id, title)
            if all(word in searched for word in words):
                yield item_id
                continue
            passed_over += 1
            if passed_over > _PASSED_OVER:
                raise UserError("very many items have the parts of these words, and not the words; look for others")

    def _insert(self, number: int | None, item: LiveItem) -> None:
        row = (number, item.id, item.title, _folded(item.id)[::-1])
        number = self._db.execute("INSERT INTO items VALUES (?, ?, ?, ?)", row).lastrowid
        self._db.execute("INSERT INTO grams (rowid, text) VALUES (?, ?)", (number, _indexed(item)))

    def _remove(self, item: LiveItem) -> int:
        """Takes an item out and returns its number."""
        number = int(self._db.execute("SELECT number FROM items WHERE id = ?", (item.id,)).fetchone()[0])
        self._db.execute("DELETE FROM items WHERE number = ?", (number,))
        self._db.execute("INSERT INTO grams (grams, rowid, text) VALUES ('delete', ?, ?)", (number, _indexed(item)))
        return number


class FollowedSearch:
    """The index of a catalogue that changes while it is built. Safe for several threads.

    Args:
      items: the items of the catalogue, by id.
      writing: the lock held by any thread that changes the catalogue.
    """

    def __init__(self, items: Mapping[str, LiveItem], writing: threading.RLock):
        self._items, self._writing = items, writing
        self._index: CatalogueSearch | None = None
        # Changes that come while the index is built; None: it is not being built.
        self._waiting: list[tuple[LiveItem | None, LiveItem | None]] | None = None
        self._building = threading.Lock()
        self.failure = ""  # why there is no index and never will be

    @property
    def built(self) -> CatalogueSearch | None:
        """The index, if it is built."""
        return self._index

    def index(self) -> CatalogueSearch:
        """The index; the first use builds it, which takes about a minute for a million items."""
        if self._index is None:
            with self._building:
                if self._index is None:
                    with self._writing:
                        items, self._waiting = list(self._items.values()), []
                    try:
                        index = CatalogueSearch(items)  # changes do not wait for it
                    except Exception as error:
                        self.failure, self._waiting = str(error), None
                        raise
                    with self._writing:
                        index.follow(self._waiting)
                        self._index, self._waiting = index, None
        return self._index

    def prepare(self) -> None:
        """Builds the index, unless it is being built or cannot be: a small one at once, others in the background."""
        if self._index is None and not self.failure and not self._building.locked():
            build = threading.Thread(target=self._build, name="index", daemon=True)
            build.start()
            if len(self._items) <= NEAREST_AMONG:
                build.join()

    def _build(self) -> None:
        try:
            self.index()
        except Exception:
            _LOG.exception("there is no index of the titles")

    def follow(self, changes: Sequence[tuple[LiveItem | None, LiveItem | None]]) -> None:
        """As `CatalogueSearch.follow`; the caller writes and does not hold the catalogue. It waits for searches."""
        if self._waiting is not None:
            self._waiting += changes
        elif self._index is not None:
            self._index.follow(changes)


def _first(limit: int, found: Iterator[str]) -> list[str]:
    return [item_id for _, item_id in zip(range(limit), found, strict=False)]


def holds_all(text: str, item: LiveItem) -> bool:
    """Whether an item's id or title contains every word of a text, ignoring case, as a search requires."""
    searched = _searched(item.id, item.title)
    return all(word in searched for word in _folded(text).split())


def _folded(text: str) -> str:
    """A text without its case, without NUL, which ends a text in SQLite, and without what the index adds."""
    return text.casefold().replace("\0", "\ufffd").replace(_BETWEEN, "\ufffd")


def _searched(item_id: str, title: str) -> str:
    return _folded(f"{item_id} {title}")


def _indexed(item: LiveItem) -> str:
    searched = _searched(item.id, item.title)
    return f"{searched}{_BETWEEN}{_BETWEEN.join(searched)}{_BETWEEN}"


def _grams(word: str) -> list[str]:
    """The entries of the index for a word."""
    if len(word) < 3:
        return [f"{_BETWEEN}{word}{_BETWEEN}" if len(word) == 1 else _BETWEEN.join(word)]
    return [word[place : place + 3] for place in range(len(word) - 2)]
