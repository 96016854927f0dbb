"""The lines of raw files, Amazon's JSON and plain tables alike, as rows of interactions and items.

`interaction_lines` and `item_lines` give for each line its number and what makes its row, or raises `Malformed`.
"""

from __future__ import annotations

import csv
import datetime
import functools
import gzip
import io
import json
import pathlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from tsrec_jax.errors import UserError

INTERACTION_SCHEMA = {"user": pl.String, "item": pl.String, "timestamp": pl.Int64}
TEXT_COLUMNS = ("title", "description", "brand", "categories")
ITEM_SCHEMA = {"item": pl.String, **dict.fromkeys(TEXT_COLUMNS, pl.String)}

_LONGEST_LINE = 1 << 24  # bytes: what is longer is no review, and must not fill the memory
_LAST_SECOND = 253_402_300_799  # the end of the year 9999
_DATES = range(1900_01_01, 2100_01_01)  # written without hyphens; as seconds all of them lie in August 1970
_PARQUET_SLICE = 200_000  # rows

Row = tuple[Any, ...]  # the columns of a schema above
Lines = Iterator[tuple[int, Callable[[], Row]]]


class Malformed(ValueError):
    """Why a line cannot be used, or why all the `lines` of one row cannot."""

    def __init__(self, reason: str, lines: int = 1) -> None:
        super().__init__(reason)
        self.lines = lines


def interaction_lines(kind: str, path: pathlib.Path) -> Lines:
    """Lines of a review file or an interaction table; rows as INTERACTION_SCHEMA.

    Raises:
      UserError: the file is of another kind, lacks a column, or ends early.
    """
    if kind == "tables":
        return _table(path, ("user", "item", "timestamp"), (), _row_of_interaction)
    user, item, time, units = _REVIEW_KEYS[kind]
    return _json_lines(path, functools.partial(_row_of_review, user, item, time, units))


def item_lines(kind: str, path: pathlib.Path) -> Lines:
    """Lines of a metadata file or an item table; rows as ITEM_SCHEMA. Raises as `interaction_lines` does."""
    if kind == "tables":
        return _table(path, ("item", "title"), TEXT_COLUMNS[1:], _row_of_item)
    return _json_lines(path, _row_of_metadata[kind])


# --- Amazon: JSON lines ---


# kind: (user, item keys in order of preference, time, units of time in a second)
_REVIEW_KEYS = {
    "amazon2018": ("reviewerID", ("asin",), "unixReviewTime", 1),
    "amazon2023": ("user_id", ("parent_asin", "asin"), "timestamp", 1000),
}


def _row_of_review(user: str, item: Sequence[str], time: str, units: int, entry: Mapping[str, Any]) -> Row:
    seconds = _first_of(entry, (time,))
    if type(seconds) is not int:
        raise Malformed(f"{time} is not a whole number: {str(seconds)[:40]!r}")
    return _id(_first_of(entry, (user,)), user), _id(_first_of(entry, item), item[0]), _second(seconds // units)


def _row_of_metadata_2018(entry: Mapping[str, Any]) -> Row:
    return (
        _id(_first_of(entry, ("asin",)), "asin"),
        _text(entry.get("title")),
        _text(entry.get("description")),
        _text(entry.get("brand")),
        _text(entry.get("category"), " > "),
    )


def _row_of_metadata_2023(entry: Mapping[str, Any]) -> Row:
    description = (_text(entry.get("description")), _text(entry.get("features")))
    return (
        _id(_first_of(entry, ("parent_asin", "asin")), "parent_asin"),
        _text(entry.get("title")),
        " ".join(part for part in description if part),
        _text(entry.get("store")),
        _text(entry.get("categories"), " > "),
    )


_row_of_metadata = {"amazon2018": _row_of_metadata_2018, "amazon2023": _row_of_metadata_2023}


def _json_lines(path: pathlib.Path, row_of: Callable[[Mapping[str, Any]], Row]) -> Lines:
    endings = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
    if not path.name.endswith(endings):
        raise UserError(f"{path}: Amazon files end in {', '.join(endings)}")
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            buffered = io.BufferedReader(file, 1 << 20)
            for number, line in _lines_of(buffered):
                if not line.isspace():
                    yield number, functools.partial(_parse, line, row_of)
    except EOFError:
        raise UserError(
            f"{path}: the gzip stream ends early, after line {number}; delete the file and fetch it again"
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: not a sound gzip file after line {number} ({error}); fetch it again") from None


def _lines_of(file: io.BufferedReader) -> Iterator[tuple[int, bytes]]:
    """(number, line); of a line beyond the longest only its beginning, which is then no JSON."""
    number = 0
    while line := file.readline(_LONGEST_LINE):
        number += 1
        rest = line
        while len(rest) == _LONGEST_LINE and not rest.endswith(b"\n"):
            rest = file.readline(_LONGEST_LINE)
        yield number, line


def _parse(line: bytes, row_of: Callable[[Mapping[str, Any]], Row]) -> Row:
    try:
        entry = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Malformed(f"not UTF-8 (byte {line[error.start]:#04x})") from None
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON ({error})") from None
    if not isinstance(entry, dict):
        raise Malformed("not a JSON object")
    return row_of(entry)


def _first_of(entry: Mapping[str, Any], keys: Sequence[str]) -> Any:
    for key in keys:
        value = entry.get(key)
        if value is not None and value != "":
            return value
    raise Malformed(f"{' and '.join(keys)} missing")


# --- plain tables ---


def _row_of_interaction(row: Mapping[str, Any]) -> Row:
    return _id(row["user"], "user"), _id(row["item"], "item"), _time(row["timestamp"])


def _row_of_item(row: Mapping[str, Any]) -> Row:
    texts = (_text(row.get(column), " > " if column == "categories" else " ") for column in TEXT_COLUMNS)
    return _id(row["item"], "item"), *texts


def _table(
    path: pathlib.Path, needed: Sequence[str], optional: Sequence[str], row_of: Callable[[Mapping[str, Any]], Row]
) -> Lines:
    if path.suffix == ".csv":
        return _csv_rows(path, needed, row_of)
    if path.suffix == ".parquet":
        return _parquet_rows(path, needed, optional, row_of)
    raise UserError(f"{path}: plain tables end in .csv or .parquet")


def _check_columns(path: pathlib.Path, needed: Sequence[str], found: Sequence[str]) -> None:
    missing = [column for column in needed if column not in found]
    if missing:
        raise UserError(f"{path}: column {', '.join(missing)} is missing; its columns are: {', '.join(found)}")


def _csv_rows(path: pathlib.Path, needed: Sequence[str], row_of: Callable[[Mapping[str, Any]], Row]) -> Lines:
    # Bytes that are not UTF-8 pass through, so that they cost their row and not the file.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        # Strict, so that a quote in the wrong place is an error and takes no other rows into its cell.
        reader = csv.reader(file, strict=True)
        header = [column.strip() for column in next(reader, [])]
        _check_columns(path, needed, header)
        while True:
            start = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                make_row = functools.partial(_refuse, f"not valid CSV ({error})")
            else:
                make_row = functools.partial(_row_of_cells, header, cells, row_of)
                if not cells:
                    continue
            lines = reader.line_num - start + 1
            yield start, functools.partial(_row_of_lines, make_row, lines) if lines > 1 else make_row


def _refuse(reason: str) -> Row:
    raise Malformed(reason)


def _row_of_lines(make_row: Callable[[], Row], lines: int) -> Row:
    """A row that a quoted cell spreads over several lines; where it cannot be used, all of them are lost."""
    try:
        return make_row()
    except Malformed as reason:
        raise Malformed(f"{reason}; a quote opens on this line and takes the next {lines - 1} with it", lines) from None


def _row_of_cells(header: Sequence[str], cells: Sequence[str], row_of: Callable[[Mapping[str, Any]], Row]) -> Row:
    if len(cells) != len(header):
        raise Malformed(f"{len(cells)} field(s) where the header has {len(header)}")
    try:
        "".join(cells).encode("utf-8")
    except UnicodeEncodeError:
        raise Malformed("not UTF-8") from None
    return row_of(dict(zip(header, cells, strict=True)))


def _parquet_rows(
    path: pathlib.Path, needed: Sequence[str], optional: Sequence[str], row_of: Callable[[Mapping[str, Any]], Row]
) -> Lines:
    try:
        frame = pl.scan_parquet(path)
        schema = frame.collect_schema()
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from None
    _check_columns(path, needed, schema.names())
    for column in ("user", "item"):
        # A whole number stored as a float would be the id "7.0" here and "7" in another table.
        if column in needed and not (schema[column] == pl.String or schema[column].is_integer()):
            raise UserError(f"{path}: column {column} is {schema[column]}; ids are text or whole numbers")
    frame = frame.select(column for column in (*needed, *optional) if column in schema)
    height = frame.select(pl.len()).collect().item()
    for start in range(0, height, _PARQUET_SLICE):
        rows = frame.slice(start, _PARQUET_SLICE).collect().iter_rows(named=True)
        for number, row in enumerate(rows, start + 1):
            yield number, functools.partial(row_of, row)


def _time(value: Any) -> int:
    """Seconds since 1970 of a whole number of seconds, a date or time, or a text of one of them."""
    if isinstance(value, str):
        value = _time_of_text(value.strip())
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day)
    if isinstance(value, datetime.datetime):
        return int((value if value.tzinfo else value.replace(tzinfo=datetime.UTC)).timestamp() // 1)
    if type(value) is not int:
        raise Malformed(f"timestamp is not a whole number of seconds: {str(value)[:40]!r}")
    if value in _DATES and _is_date(str(value)):
        raise Malformed(f"timestamp {value} is a date without hyphens or seconds of 1970; write dates as 2014-05-13")
    return _second(value)


def _is_date(text: str) -> bool:
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _time_of_text(text: str) -> int | datetime.datetime:
    try:
        return int(text) if text.removeprefix("-").isdigit() else datetime.datetime.fromisoformat(text)
    except ValueError:
        raise Malformed(f"timestamp is neither seconds nor an ISO 8601 date: {text[:40]!r}") from None


# --- values ---


def _second(seconds: int) -> int:
    if abs(seconds) > _LAST_SECOND:
        raise Malformed(f"timestamp {seconds} is beyond the year 9999; it must be in seconds, not milliseconds")
    return seconds


def _id(value: Any, name: str) -> str:
    if type(value) is int:
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise Malformed(f"{name} is not an id: {value!r}")
    if not value.isprintable():  # tabs and line breaks would tear the files that hold ids
        raise Malformed(f"{name} holds control characters: {value[:40]!r}")
    return value


def _text(value: Any, separator: str = " ") -> str:
    """A text, the parts of a list, or nothing; halves of surrogate pairs, which no file can hold, become `?`."""
    if value is None:
        return ""
    if isinstance(value, list):
        value = separator.join(str(part) for part in value if part)
    text = str(value)
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
