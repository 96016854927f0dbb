"""The lines of Amazon's raw files as rows of interactions and items, and what a value of any raw file must be.

`amazon_lines` gives for each line its number and what makes its row, or raises `Malformed`.
"""

from __future__ import annotations

import codecs
import functools
import io
import json
import pathlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from tsrec_jax.data.catalogue import is_address
from tsrec_jax.data.texts import stands_for_nothing
from tsrec_jax.errors import UserError
from tsrec_jax.prepare.raw_files import PARQUET, encoding_of, open_raw, read_head

INTERACTION_SCHEMA = {"user": pl.String, "item": pl.String, "timestamp": pl.Int64}
TEXT_COLUMNS = ("title", "description", "brand", "categories")
ITEM_SCHEMA = {"item": pl.String, **dict.fromkeys((*TEXT_COLUMNS, "image"), pl.String)}

_LONGEST_LINE = 1 << 24  # bytes: what is longer is no review, and must not fill the memory
_LONGEST_ID = 1024  # characters: what is longer is a text in the wrong place
_LAST_SECOND = 253_402_300_799  # the end of the year 9999

Row = tuple[Any, ...]  # the columns of a schema above
Lines = Generator[tuple[int, Callable[[], Row]]]


class Malformed(ValueError):
    """Why a line cannot be used, or why all the `lines` of one row cannot.

    Attributes:
      reason: in words that many lines share; lines are counted by it.
      lines: how many are lost.
    """

    def __init__(self, reason: str, detail: str = "", lines: int = 1) -> None:
        super().__init__(reason + detail)
        self.reason, self.lines = reason, lines


INTERACTIONS, ITEMS = "interactions", "items"
# kind: (user, item keys in order of preference, time, units of time in a second)
_REVIEW_KEYS = {
    "amazon2018": ("reviewerID", ("asin",), "unixReviewTime", 1),
    "amazon2023": ("user_id", ("parent_asin", "asin"), "timestamp", 1000),
}
# kind: (item keys in order of preference, parts of the description, brand, categories, images)
_METADATA_KEYS = {
    "amazon2018": (("asin",), ("description",), "brand", "category", "imageURL"),
    "amazon2023": (("parent_asin", "asin"), ("description", "features"), "store", "categories", "images"),
}
_IMAGE_SIZES = ("large", "hi_res", "thumb")  # of one of several images, in order of preference


def amazon_lines(table: str, kind: str, path: pathlib.Path) -> Lines:
    """Lines of a review file (INTERACTIONS) or a metadata file (ITEMS); rows as the table's schema.

    Raises:
      UserError: the file is of another kind, or ends early.
    """
    if table == INTERACTIONS:
        return _json_lines(path, functools.partial(_row_of_review, *_REVIEW_KEYS[kind]))
    return _json_lines(path, functools.partial(_row_of_metadata, *_METADATA_KEYS[kind]))


def _row_of_review(user: str, item: Sequence[str], time: str, units: int, entry: Mapping[str, Any]) -> Row:
    seconds = whole(_first_of(entry, (time,)))
    if seconds is None:
        raise Malformed(f"{time} is not a whole number", f": {str(entry[time])[:40]!r}")
    ids = id_of(_first_of(entry, (user,)), user), id_of(_first_of(entry, item), item[0])
    return *ids, second_of(seconds // units)


def _row_of_metadata(
    item: Sequence[str], description: Sequence[str], brand: str, categories: str, images: str, entry: Mapping[str, Any]
) -> Row:
    return (
        id_of(_first_of(entry, item), item[0]),
        text_of(entry.get("title")),
        " ".join(filter(None, (text_of(entry.get(part)) for part in description))),
        text_of(entry.get(brand)),
        text_of(entry.get(categories), " > "),
        image_of(entry.get(images)),
    )


def _json_lines(path: pathlib.Path, row_of: Callable[[Mapping[str, Any]], Row]) -> Lines:
    head = read_head(path)
    if head.startswith(PARQUET):
        raise UserError(f"{path}: is a Parquet file, and Amazon's hold JSON lines; use config.prepare.source=tables")
    encoding = encoding_of(path, head, "utf-8")
    if not encoding.startswith("utf-8"):
        raise UserError(f"{path}: is {encoding.upper()}, and Amazon's files are UTF-8; save it as UTF-8")
    number = 0
    with open_raw(path, lambda: number) as file:
        for number, line in _lines_of(file):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.isspace():
                yield number, functools.partial(_parse, line, row_of)


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
        raise Malformed("not UTF-8", f" (byte {line[error.start]:#04x})") from None
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON", f" ({error})") from None
    if not isinstance(entry, dict):
        raise Malformed("not a JSON object")
    return row_of(entry)


def _first_of(entry: Mapping[str, Any], keys: Sequence[str]) -> Any:
    for key in keys:
        value = entry.get(key)
        if value is not None and value != "":
            return value
    raise Malformed(f"{' and '.join(keys)} missing")


# --- values of any raw file ---


def whole(value: Any) -> int | None:
    """A whole number, also one that is written as a float; None for anything else."""
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def second_of(seconds: int) -> int:
    """The number where it can be seconds since 1970."""
    if abs(seconds) > _LAST_SECOND:
        raise Malformed("timestamp is beyond the year 9999; it must be in seconds, not milliseconds", f": {seconds}")
    return seconds


def id_of(value: Any, name: str) -> str:
    """An id, without the blanks around it that tables have in one file and not in the other."""
    if type(value) is int:
        value = str(value)
    text = value.strip() if isinstance(value, str) else ""
    if not text:
        raise Malformed(f"{name} is not an id", f": {value!r}")
    if not text.isprintable():  # tabs and line breaks would tear the files that hold ids
        raise Malformed(f"{name} holds control characters", f": {text[:40]!r}")
    if len(text) > _LONGEST_ID:
        raise Malformed(f"{name} is longer than {_LONGEST_ID} characters", f": {text[:40]!r}")
    return text


def text_of(value: Any, separator: str = " ") -> str:
    """A text, the parts of a list, or nothing; halves of surrogate pairs, which no file can hold, become `?`."""
    if value is None:
        return ""
    if isinstance(value, list):
        value = separator.join(text for part in value if part and not stands_for_nothing(text := str(part)))
    text = str(value)
    if stands_for_nothing(text):
        return ""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def image_of(value: Any) -> str:
    """The address of a picture: a text, or the first of a list of texts or of sizes; empty where there is none."""
    if isinstance(value, list):
        return next(filter(None, map(image_of, value)), "")
    if isinstance(value, Mapping):
        return image_of([value.get(size) for size in _IMAGE_SIZES])
    return value if isinstance(value, str) and is_address(value) else ""
