"""Settings of the way from raw data to a folder of texts and interactions."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Literal

from tsrec_jax.errors import UserError
from tsrec_jax.section import Section, setting


@dataclasses.dataclass(frozen=True)
class PrepareSettings(Section, key="prepare"):
    """Raw data to a folder, where `dataset.path` is empty and a source is named (docs/upstream.md)."""

    source: Literal["", "amazon2018", "amazon2023", "tables"] = setting(
        "", "kind of raw data to prepare; empty: nothing is prepared"
    )
    name: str = setting("", "NAME in the names of the files that are written; empty: the category, or else `data`")
    category: str = setting("", "Amazon only: the category as the site spells it, such as Industrial_and_Scientific")
    raw: str = setting(
        "", "Amazon only: folder of the raw files, which `download` fills; not used where files are named below"
    )
    base_url: str = setting("", "Amazon only: address of a mirror; empty: the publishers' site")
    interactions_file: str = setting(
        "",
        "file of interactions, or several by a pattern or at an address, such as gs://BUCKET/reviews/*.jsonl.gz: CSV "
        "or Parquet with the columns user, item and timestamp (Unix seconds or ISO 8601), or Amazon's reviews instead "
        "of those of `raw`",
    )
    items_file: str = setting(
        "",
        "file of items, in the same way: CSV or Parquet with the columns item and title, and any of the other text "
        "columns, or Amazon's metadata",
    )
    columns: str = setting(
        "", "tables only: names of these columns where they differ, such as `user=userId,item=movieId,items.item=id`"
    )
    encoding: str = setting(
        "", "tables only: encoding of CSV files that are not UTF-8, such as cp1252; a byte-order mark takes precedence"
    )
    k_core: int = setting(
        5,
        "users and items with fewer interactions than this, repeats included, are removed until none is left",
        least=1,
    )
    start: str = setting("", "earliest time to keep, in ISO 8601 (UTC unless it names a time zone); empty: no limit")
    end: str = setting("", "time from which nothing is kept, in ISO 8601; empty: no limit")
    max_history: int = setting(10, "largest number of items in a row's history", least=1)
    split: Literal["ratio", "date", "leave_one_out"] = setting(
        "ratio",
        "how the rows are split: by time, in the proportions of `ratios` (`ratio`) or at `valid_from` and "
        "`test_from` (`date`); or each user's last row to test and the one before it to valid (`leave_one_out`)",
    )
    ratios: tuple[float, ...] = setting(
        (8.0, 1.0, 1.0), "for the split `ratio`: proportions of train, valid and test", above=0
    )
    valid_from: str = setting("", "for the split `date`: time of the first target in valid, in ISO 8601")
    test_from: str = setting("", "for the split `date`: time of the first target in test, in ISO 8601")
    max_title_words: int = setting(0, "items whose title has more words than this are removed; 0: no limit", least=0)
    clean_titles: bool = setting(
        True, "strip HTML from titles, and remove items whose title is leftover markup or script"
    )
    max_unreadable: float = setting(
        0.05, "largest share of a raw file's lines that may be unreadable; more is an error", least=0, most=1
    )
    max_unmatched: float = setting(
        0.2,
        "largest share of the interactions that may be lost because their item is unknown or has no usable title;"
        " more is an error (titles that are too long do not count)",
        least=0,
        most=1,
    )
    ties: Literal["auto", "file", "shuffled", "item"] = setting(
        "auto",
        "order of a user's interactions within the same second: as in the file, shuffled by a hash, or by item "
        "id; `auto`: as in the file, or shuffled if the file is sorted by item",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.ratios) != 3:
            raise UserError(f"config.prepare.ratios={self.ratios!r} must be three positive numbers: train, valid, test")
        self._check_times("start", "end")
        self._check_times("valid_from", "test_from")
        if (self.split == "date") != bool(self.valid_from and self.test_from) or (
            self.split != "date" and (self.valid_from or self.test_from)
        ):
            raise UserError(
                f"config.prepare.split={self.split!r} with valid_from={self.valid_from!r} and "
                f"test_from={self.test_from!r}: split='date' needs both, and the other splits neither"
            )
        check_encoding(self.encoding)
        if self.source.startswith("amazon") and bool(self.interactions_file) != bool(self.items_file):
            raise UserError(
                "config.prepare.interactions_file and config.prepare.items_file: give both, or neither and "
                "config.prepare.raw"
            )
        if (columns_of(self.columns) or self.encoding) and self.source not in ("tables", ""):
            raise UserError("config.prepare.columns and config.prepare.encoding are for config.prepare.source=tables")

    def _check_times(self, first: str, second: str) -> None:
        one, other = (seconds(f"config.prepare.{name}", getattr(self, name)) for name in (first, second))
        if one is not None and other is not None and one >= other:
            raise UserError(
                f"config.prepare.{first}={getattr(self, first)!r} must be before {second}={getattr(self, second)!r}"
            )


def columns_of(text: str) -> dict[str, str]:
    """The column names that a text such as "user=userId, item=movieId" gives.

    Raises:
      UserError: it is no such text.
    """
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, is_given, column = (piece.strip() for piece in part.partition("="))
        if not (name and is_given and column) or name in found:
            raise UserError(
                f"config.prepare.columns={text!r}: {part!r} is not of the form user=NAME, or names it twice"
            )
        found[name] = column
    return found


def seconds(name: str, text: str) -> int | None:
    """Seconds since 1970 of an ISO 8601 date or time; None for an empty text.

    Raises:
      UserError: the text is neither; the message begins with `name`.
    """
    if not text:
        return None
    try:
        time = datetime.datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise UserError(f"{name}={text!r} is not an ISO 8601 date, as in '2016-10-01'") from None
    return int((time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).timestamp())


def check_encoding(name: str) -> None:
    """Refuses the name of an encoding that does not exist, or that is none of texts; an empty name is none.

    Raises:
      UserError: it is not known.
    """
    try:
        b"".decode(name or "utf-8", "ignore")
        "".encode(name or "utf-8", "surrogateescape")
    except (LookupError, UnicodeError):
        raise UserError(
            f"config.prepare.encoding={name!r} is not known; use a name as utf-8, utf-16, cp1252 or latin-1"
        ) from None
