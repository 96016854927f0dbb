"""The rows of plain tables, CSV or Parquet, as rows of interactions and items.

`table_lines` gives for each row its line and what makes its row, or raises `Malformed`.
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import functools
import io
import pathlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from tsrec_jax.errors import UserError
from tsrec_jax.prepare.raw_files import PARQUET, encoding_of, open_raw, read_head
from tsrec_jax.prepare.raw_rows import (
    INTERACTIONS,
    ITEMS,
    TEXT_COLUMNS,
    Lines,
    Malformed,
    Row,
    id_of,
    image_of,
    second_of,
    text_of,
    whole,
)

NEEDED = {INTERACTIONS: ("user", "item", "timestamp"), ITEMS: ("item", "title")}
OPTIONAL = {INTERACTIONS: (), ITEMS: (*TEXT_COLUMNS[1:], "image")}
COLUMNS = tuple(dict.fromkeys((*NEEDED[INTERACTIONS], *NEEDED[ITEMS], *OPTIONAL[ITEMS])))

# Characters of a cell. Ids and times are short, so that a quote that is never closed is met soon; texts can be long.
_LONGEST_CELL = {INTERACTIONS: 1 << 17, ITEMS: 1 << 24}
_SEPARATORS = (",", ";", "\t", "|")
_DATES = range(1900_01_01, 2100_01_01)  # written without hyphens; as seconds all of them lie in August 1970
_PARQUET_SLICE = 200_000  # rows
_FLOAT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?")
_ZONE = re.compile(r"\s*(UTC|GMT)$", re.IGNORECASE)


def table_lines(table: str, path: pathlib.Path, columns: Mapping[str, str], encoding: str) -> Lines:
    """Rows of a table, as INTERACTION_SCHEMA or ITEM_SCHEMA.

    Args:
      table: INTERACTIONS or ITEMS.
      path: the file.
      columns: the file's names for its columns, where they differ.
      encoding: of a CSV; empty: told by the file.

    Raises:
      UserError: the file is of another kind, lacks a column or has one twice, or ends early.
    """
    row_of = {INTERACTIONS: _row_of_interaction, ITEMS: _row_of_item}[table]
    head = read_head(path)
    if head.startswith(PARQUET):
        with path.open("rb") as file:
            if file.read(len(PARQUET)) != PARQUET:
                raise UserError(f"{path}: is a Parquet file that was compressed once more; unpack it")
        return _parquet_rows(table, path, columns, row_of)
    return _csv_rows(table, path, columns, encoding_of(path, head, encoding), head, row_of)


def _row_of_interaction(row: Mapping[str, Any]) -> Row:
    return id_of(row["user"], "user"), id_of(row["item"], "item"), _time(row["timestamp"])


def _row_of_item(row: Mapping[str, Any]) -> Row:
    texts = (text_of(row.get(column), " > " if column == "categories" else " ") for column in TEXT_COLUMNS)
    return id_of(row["item"], "item"), *texts, image_of(row.get("image"))


def _names(table: str, path: pathlib.Path, columns: Mapping[str, str], found: Sequence[str]) -> dict[str, str]:
    """{column: its name in the file} of the columns that are there.

    Raises:
      UserError: a column that is needed, or that the settings name, is not there, stands twice or counts twice.
    """
    if not found:
        raise UserError(f"{path}: holds no header; its first line must name the columns")
    wanted = {column: columns.get(column, column) for column in (*NEEDED[table], *OPTIONAL[table])}
    missing = [column for column, name in wanted.items() if (column in NEEDED[table] or column in columns)
               and name not in found]  # fmt: skip
    if missing:
        setting = f"{table}." * (missing[0] in columns) + missing[0]  # if the other table's name for it differs
        raise UserError(
            f"{path}: column {', '.join(wanted[column] for column in missing)} is missing; its columns are: "
            f"{', '.join(found)}. Where they have other names, say so: --config.prepare.columns='{setting}=NAME'"
        )
    needed = [wanted[column] for column in NEEDED[table]]
    both = [name for name in needed if needed.count(name) > 1]
    if both:
        raise UserError(f"{path}: column {both[0]} is named for two things in config.prepare.columns")
    twice = [name for name in wanted.values() if found.count(name) > 1]
    if twice:
        raise UserError(f"{path}: column {twice[0]} stands twice in the header; take one of them out")
    return {column: name for column, name in wanted.items() if name in found}


# --- CSV ---


def _csv_rows(
    table: str,
    path: pathlib.Path,
    columns: Mapping[str, str],
    encoding: str,
    head: bytes,
    row_of: Callable[[Mapping[str, Any]], Row],
) -> Lines:
    separator, header = _header(path, head.decode(encoding, "ignore"), {columns.get(c, c) for c in NEEDED[table]})
    names = _names(table, path, columns, header)
    places = [(column, header.index(name)) for column, name in names.items()]
    reader = None
    with (
        _cells_up_to(_LONGEST_CELL[table]),
        open_raw(path, lambda: reader.line_num if reader else 0) as file,
        # Bytes that are not of the encoding pass through, so that they cost their row and not the file.
        io.TextIOWrapper(file, encoding, "surrogateescape", newline="") as text,
    ):
        # Strict, so that a quote in the wrong place is an error and takes no other rows into its cell.
        reader = csv.reader(text, strict=True, delimiter=separator)
        is_header = True
        while True:
            start = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except UnicodeError as error:
                raise UserError(f"{path}: not {encoding} after line {reader.line_num} ({error})") from None
            except csv.Error as error:
                make_row = functools.partial(_refuse, "not valid CSV", f" ({error})")
            else:
                if not any(cell and not cell.isspace() for cell in cells):  # spreadsheets end in lines of separators
                    continue
                if is_header:
                    is_header = _names_separator(cells, separator)
                    continue
                make_row = functools.partial(_row_of_cells, header, places, cells, encoding, row_of)
            lines = reader.line_num - start + 1
            yield start, functools.partial(_row_of_lines, make_row, lines) if lines > 1 else make_row


def _header(path: pathlib.Path, text: str, needed: Collection[str]) -> tuple[str, list[str]]:
    """The separator and the columns of a CSV, by its beginning: the separator that gives the columns that are needed.

    Raises:
      UserError: it begins as JSON lines do.
    """
    if text.lstrip().startswith(("{", "[")):
        raise UserError(f"{path}: holds JSON; tables are CSV or Parquet (Amazon's files: config.prepare.source)")
    found = []
    for separator in _SEPARATORS:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        try:
            cells = next(
                (r for r in rows if any(cell.strip() for cell in r) and not _names_separator(r, separator)), []
            )
        except csv.Error:
            cells = []
        columns = [column.strip() for column in cells]
        found.append((len(set(columns) & set(needed)), len(columns), separator, columns))
    return max(found, key=lambda each: each[:2])[2:]


def _names_separator(cells: Sequence[str], separator: str) -> bool:
    """Whether a line is the one that Excel reads the separator from, as in `sep=;`."""
    return re.fullmatch("sep=.", separator.join(cells).strip(), re.DOTALL) is not None


@contextlib.contextmanager
def _cells_up_to(characters: int) -> Iterator[None]:
    """The longest cell of the module csv, which it knows for the whole process, while a file is read."""
    before = csv.field_size_limit(characters)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _refuse(reason: str, detail: str) -> Row:
    raise Malformed(reason, detail)


def _row_of_lines(make_row: Callable[[], Row], lines: int) -> Row:
    """A row that a quoted cell spreads over several lines; where it cannot be used, all of them are lost."""
    try:
        return make_row()
    except Malformed as error:
        detail = f"{error}; a quote opens on this line and takes the next {lines - 1} with it"
        raise Malformed(error.reason, detail.removeprefix(error.reason), lines) from None


def _row_of_cells(
    header: Sequence[str],
    places: Sequence[tuple[str, int]],
    cells: Sequence[str],
    encoding: str,
    row_of: Callable[[Mapping[str, Any]], Row],
) -> Row:
    if len(cells) != len(header):
        raise Malformed(f"{len(cells)} field(s) where the header has {len(header)}")
    try:
        "".join(cells).encode("utf-8")
    except UnicodeEncodeError:
        raise Malformed(f"not {encoding.removesuffix('-sig').upper()}") from None
    row = {column: cells[place] for column, place in places}
    if all(row[column].strip() == header[place] for column, place in places):
        raise Malformed("the header again")
    return row_of(row)


# --- Parquet ---


def _parquet_rows(
    table: str, path: pathlib.Path, columns: Mapping[str, str], row_of: Callable[[Mapping[str, Any]], Row]
) -> Lines:
    try:
        frame = pl.scan_parquet(path)
        schema = frame.collect_schema()
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from None
    names = _names(table, path, columns, schema.names())
    for column in ("user", "item"):
        # A whole number stored as a float would be the id "7.0" here and "7" in another table.
        if column in names and not (schema[names[column]] == pl.String or schema[names[column]].is_integer()):
            kind = schema[names[column]]
            raise UserError(
                f"{path}: column {names[column]} is {kind}; ids are text or whole numbers: cast it (in pandas to "
                f"'{'Int64' if kind.is_numeric() else 'string'}')"
            )
    frame = frame.select(pl.col(name).alias(column) for column, name in names.items())
    height = frame.select(pl.len()).collect().item()
    for start in range(0, height, _PARQUET_SLICE):
        rows = frame.slice(start, _PARQUET_SLICE).collect().iter_rows(named=True)
        for number, row in enumerate(rows, start + 1):
            yield number, functools.partial(row_of, row)


# --- times ---


def _time(value: Any) -> int:
    """Seconds since 1970 of a whole number of seconds, a date or time, or a text of one of them."""
    if isinstance(value, str):
        value = _time_of_text(value.strip())
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day)
    if isinstance(value, datetime.datetime):
        return int((value if value.tzinfo else value.replace(tzinfo=datetime.UTC)).timestamp() // 1)
    seconds = whole(value)
    if seconds is None:
        raise Malformed("timestamp is not a whole number of seconds", f": {str(value)[:40]!r}")
    if seconds in _DATES and _is_date(str(seconds)):
        raise Malformed("timestamp is a date without hyphens, or seconds of 1970; write dates as 2014-05-13",
                        f": {seconds}")  # fmt: skip
    return second_of(seconds)


def _is_date(text: str) -> bool:
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _time_of_text(text: str) -> int | float | datetime.datetime:
    if text.removeprefix("-").isdecimal():
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    zone = _ZONE.search(text)
    try:
        return datetime.datetime.fromisoformat(f"{text[: zone.start()]}Z" if zone else text)
    except ValueError:
        raise Malformed("timestamp is neither seconds nor an ISO 8601 date", f": {text[:40]!r}") from None
