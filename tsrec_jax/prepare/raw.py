"""Raw interactions and items: Amazon Reviews 2018 and 2023 as published, or two plain tables.

Amazon files hold one JSON object per line:
  2018 reviews: reviewerID, asin, unixReviewTime (seconds); metadata: asin, title, description, brand, category
  2023 reviews: user_id, parent_asin (else asin), timestamp (milliseconds); metadata: parent_asin (else asin), title,
                description, features (joined to the description), store (the brand), categories
Plain tables are CSV (with a header; separated by `,` `;` `|` or tabs) or Parquet; other columns are ignored:
  interactions: user, item, timestamp (whole seconds since 1970, or an ISO 8601 date or time; UTC unless it says;
                dates with their hyphens, since 20140513 may be seconds)
  items: item, title; optional: description, brand, categories, image (text, or lists in Parquet)
All but Parquet may be compressed with gzip, bzip2 or xz. What a file is, is told by its contents and not by its name.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from tsrec_jax.addresses import is_remote
from tsrec_jax.data.folder_files import sha256_of
from tsrec_jax.errors import UserError
from tsrec_jax.prepare.places import at_hand
from tsrec_jax.prepare.raw_files import check_file
from tsrec_jax.prepare.raw_rows import (
    INTERACTION_SCHEMA,
    INTERACTIONS,
    ITEM_SCHEMA,
    ITEMS,
    Lines,
    Malformed,
    Row,
    amazon_lines,
)
from tsrec_jax.prepare.raw_tables import COLUMNS, NEEDED, OPTIONAL, table_lines
from tsrec_jax.prepare.settings import check_encoding
from tsrec_jax.progress import report

KINDS = ("amazon2018", "amazon2023", "tables")
SHOWN_LINES = 5
_SHOWN_REASONS = 3
_REPORT_EVERY = 1_000_000  # lines
# Users, items and times are short; the texts of an item can be long.
_INTERACTION_BATCH, _ITEM_BATCH = 200_000, 10_000

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclasses.dataclass(frozen=True)
class RawSource:
    """Where raw data lie.

    Attributes:
      kind: "amazon2018", "amazon2023" or "tables".
      interactions: review files or interaction tables, as paths or addresses; one may stand for a tuple of one.
      items: metadata files or item tables, in the same way. Of an item with several entries the first with a usable
        title counts.
      columns: tables: what the files call their columns, as {"user": "userId"}; "items.item" and "interactions.item"
        where the two tables call it differently.
      encoding: tables: of the CSV files that are not UTF-8; empty: told by the files.

    Raises:
      UserError: an unknown kind, column or encoding, or no files.
    """

    kind: str
    interactions: Paths
    items: Paths
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    encoding: str = ""

    def __post_init__(self) -> None:
        check_encoding(self.encoding)
        of_tables = (f"{table}.{name}" for table in NEEDED for name in (*NEEDED[table], *OPTIONAL[table]))
        unknown = set(self.columns).difference(COLUMNS, of_tables)
        if unknown:
            raise UserError(
                f"config.prepare.columns: {min(unknown)!r} is not one of {', '.join(COLUMNS)}, alone or behind the "
                "table that has it, as in items.item"
            )
        if self.kind not in KINDS:
            raise UserError(f"raw data of kind {self.kind!r} are not known; use one of: {', '.join(KINDS)}")
        for field in ("interactions", "items"):
            given = getattr(self, field)
            if not given or not (isinstance(given, str | os.PathLike) or all(map(os.fspath, given))):
                raise UserError(f"raw data of kind {self.kind!r} need at least one file of {field}")
            object.__setattr__(self, field, _paths(given))

    def files(self, table: str) -> tuple[str, ...]:
        """The files of a table, INTERACTIONS or ITEMS."""
        return _paths(self.interactions if table == INTERACTIONS else self.items)

    def lines(self, table: str, path: pathlib.Path) -> Lines:
        """The lines of one file, INTERACTIONS or ITEMS."""
        if self.kind == "tables":
            own = {name.partition(".")[2]: column for name, column in self.columns.items()
                   if name.startswith(f"{table}.")}  # fmt: skip
            return table_lines(table, path, {**self.columns, **own}, self.encoding)
        return amazon_lines(table, self.kind, path)


def _paths(given: Paths) -> tuple[str, ...]:
    files = (given,) if isinstance(given, str | os.PathLike) else given
    return tuple(os.fspath(file) for file in files)


@dataclasses.dataclass(frozen=True)
class FileCount:
    """What was read of one file.

    Attributes:
      file: its name, without the folder.
      sha256: of its bytes as they lie on disk, in hexadecimal.
      lines: lines (JSON) or rows (tables) that are not blank; a row that is left out counts as the lines it stands on.
      malformed: how many of them were left out.
      reasons: {why: how many of those}, the commonest first.
      examples: the first few of those, each with its number and the reason.
    """

    file: str
    sha256: str
    lines: int
    malformed: int
    reasons: Mapping[str, int]
    examples: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class RawTables:
    """Raw data in one shape, on disk.

    Attributes:
      interactions: user, item (text), timestamp (int64, seconds since 1970); in the order of the files.
      items: entry (int64, 0 for the first, in the order of the files), item, title, description, brand, categories,
        image (text, empty where there is none; as written, not cleaned).
      interaction_files, item_files: what was read of each file.
    """

    interactions: pl.LazyFrame
    items: pl.LazyFrame
    interaction_files: tuple[FileCount, ...]
    item_files: tuple[FileCount, ...]


def read_raw(source: RawSource, scratch: str | os.PathLike[str], max_unreadable: float = 1.0) -> RawTables:
    """Reads a source into Parquet files under `scratch`, a batch of lines in memory at a time.

    Args:
      source: the files.
      scratch: a folder for the Parquet files, which the result reads from; it must not exist.
      max_unreadable: the largest share of a file's lines that may be lost because they cannot be read.

    Raises:
      UserError: a file is missing, ends early, is of another kind, lacks a column, has lines of which none can be used
        or loses more of them than it may, or no file of a table has any.
    """
    for file in (*source.files(INTERACTIONS), *source.files(ITEMS)):
        if not is_remote(file):
            check_file(pathlib.Path(file))
    scratch = pathlib.Path(scratch)
    interactions = _Spill(scratch / INTERACTIONS, INTERACTION_SCHEMA, _INTERACTION_BATCH)
    items = _Spill(scratch / ITEMS, ITEM_SCHEMA, _ITEM_BATCH)

    def read(table: str, spill: _Spill) -> tuple[FileCount, ...]:
        counts: list[FileCount] = []
        for file in source.files(table):
            with at_hand(file, scratch / "fetched") as path:
                counts.append(_read_file(path, table, source.lines(table, path), spill))
                refuse_loss(path, counts[-1], max_unreadable)
        if not any(count.lines for count in counts):
            raise UserError(
                f"{', '.join(source.files(table))}: none of 0 lines is one of {table}; name files that hold some"
            )
        return tuple(counts)

    interaction_files = read(INTERACTIONS, interactions)
    item_files = read(ITEMS, items)
    return RawTables(
        interactions.finish(),
        items.finish().with_row_index("entry").with_columns(pl.col("entry").cast(pl.Int64)),
        interaction_files,
        item_files,
    )


def _read_file(path: pathlib.Path, table: str, lines: Lines, spill: _Spill) -> FileCount:
    tally = Tally(path, table)
    with contextlib.closing(lines):
        for number, make_row in lines:
            row = tally.row(number, make_row)
            if row is not None:
                spill.add(row)
    return tally.finish()


class Tally:
    """The lines of one file as they are read.

    Args:
      path: of the file.
      table: INTERACTIONS or ITEMS.
    """

    def __init__(self, path: pathlib.Path, table: str) -> None:
        self._path, self._table = path, table
        self._count = 0
        self._reasons: collections.Counter[str] = collections.Counter()
        self._examples: list[str] = []

    def row(self, number: int, make_row: Callable[[], Row]) -> Row | None:
        """The row of a line, or None where it is malformed."""
        self._count += 1
        row = None
        try:
            row = make_row()
        except Malformed as error:
            self._reasons[error.reason] += error.lines
            self._count += error.lines - 1
            if len(self._examples) < SHOWN_LINES:
                self._examples.append(f"line {number}: {error}")
        if self._count % _REPORT_EVERY == 0:
            report(f"read {self._path.name}: {self._count:,} lines")
        return row

    def finish(self) -> FileCount:
        """What was read of the file.

        Raises:
          UserError: it has lines, and none can be used. (A job that writes many files may leave some of them empty.)
        """
        path, count, malformed, examples = self._path, self._count, self._reasons.total(), tuple(self._examples)
        if count and malformed == count:
            what = "an interaction" if self._table == INTERACTIONS else "an item"
            raise UserError(f"{path}: none of its {count} lines is {what} of this kind of data; {examples[0]}")
        report(f"read {path.name}: {count:,} lines, {malformed:,} malformed{''.join(f'; {line}' for line in examples)}")
        return FileCount(path.name, sha256_of(path), count, malformed, dict(self._reasons.most_common()), examples)


def refuse_loss(path: pathlib.Path, count: FileCount, most: float) -> None:
    """Refuses a file of which a larger share than `most` could not be read.

    Raises:
      UserError: with the commonest reasons.
    """
    if count.malformed > most * count.lines:
        listed = ", ".join(f"{reason} ({lines:,})" for reason, lines in list(count.reasons.items())[:_SHOWN_REASONS])
        raise UserError(
            f"{path}: {count.malformed:,} of {count.lines:,} lines cannot be read, more than "
            f"config.prepare.max_unreadable={most:g} allows: {listed}; the first: {count.examples[0]}. Mend the file, "
            "or allow the loss"
        )


class _Spill:
    """Rows on their way to numbered Parquet files, of which memory holds one batch."""

    def __init__(self, folder: pathlib.Path, schema: Mapping[str, Any], batch: int) -> None:
        folder.mkdir(parents=True)
        self._folder, self._schema, self._batch = folder, schema, batch
        self._rows: list[Row] = []
        self._files: list[pathlib.Path] = []

    def add(self, row: Row) -> None:
        self._rows.append(row)
        if len(self._rows) == self._batch:
            self._write()

    def finish(self) -> pl.LazyFrame:
        """All rows, in the order they came."""
        if self._rows:
            self._write()
        return pl.scan_parquet(self._files)

    def _write(self) -> None:
        path = self._folder / f"{len(self._files):06}.parquet"
        columns = zip(self._schema, zip(*self._rows, strict=True), strict=True)
        pl.DataFrame(dict(columns), schema=self._schema).write_parquet(path, compression="lz4")
        self._files.append(path)
        self._rows = []
