"""Interactions as numbers, and what is left of them: time window, duplicates, items with usable titles, k-core."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl

from tsrec_jax.prepare.splitting import Log
from tsrec_jax.prepare.ties import is_newest_first, is_tied
from tsrec_jax.prepare.titles import MARKUP, NO_TITLE, TOO_LONG, fault_of_title, plain_space, plain_text

NO_ENTRY = "item is not in the item files"
FAULTS = ("", NO_ENTRY, NO_TITLE, MARKUP, TOO_LONG)
UNMATCHED = (NO_ENTRY, NO_TITLE, MARKUP)  # not described by the item files; long titles are the settings' choice


@dataclasses.dataclass(frozen=True)
class Titles:
    """The title of each of I items.

    Attributes:
      entries: int64 (I,), the chosen entry of the item files: the first with a usable title; -1: there is none.
      texts: its title, plain; empty where there is none.
      faults: uint8 (I,), position in FAULTS of the reason why the item cannot be used; 0 if it can.
      repeated: entries of the item files whose item has an earlier one.
      cold: items of the item files that were not asked for: nothing is known of who bought them.
    """

    entries: np.ndarray
    texts: list[str]
    faults: np.ndarray
    repeated: int
    cold: int


def encode(interactions: pl.LazyFrame, newest_first: bool | None = None) -> tuple[pl.Series, pl.Series, Log, bool]:
    """Turns ids into numbers.

    Args:
      interactions: user, item (text), timestamp (int64, seconds), in the order of the files.
      newest_first: whether the files run from new to old; None: as their times say.

    Returns:
      The user ids and the item ids, each sorted, so that numbers stand in the order of ids; all interactions; and
      whether the files run from new to old, so that within a second the last line came first.
    """
    users, items = (interactions.select(pl.col(c).unique()).collect(engine="streaming")[c] for c in ("user", "item"))
    users, items = users.sort(), items.sort()
    numbers = (
        interactions.with_row_index("line")
        .join(pl.LazyFrame([users]).with_row_index("user_number"), on="user")
        .join(pl.LazyFrame([items]).with_row_index("item_number"), on="item")
        .select("line", "user_number", "item_number", "timestamp")
        .collect(engine="streaming")
    )
    lines = numbers["line"].to_numpy()  # joins keep no order
    log = Log(*(_at(lines, numbers[name].to_numpy()) for name in ("user_number", "item_number", "timestamp")))
    backwards = is_newest_first(log.users, log.times) if newest_first is None else newest_first
    if backwards:
        log = log.where(slice(None, None, -1))
    return users, items, log.where(np.lexsort((log.times, log.users))), backwards  # a stable sort


def _at(places: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The values, each at its place."""
    arranged = np.empty_like(values)
    arranged[places] = values
    return arranged


def in_window(log: Log, start: int | None, end: int | None) -> Log:
    """The interactions from `start` up to but excluding `end` (seconds; None: open)."""
    keep_N = np.ones(len(log), bool)
    if start is not None:
        keep_N &= log.times >= start
    if end is not None:
        keep_N &= log.times < end
    return log.where(keep_N)


def without_duplicates(log: Log) -> Log:
    """Each user, item and second once: the first in the order of the files."""
    tied = np.flatnonzero(is_tied(log))
    columns = [column[tied] for column in (log.items, log.times, log.users)]
    order = np.lexsort(columns)  # stable
    again = np.all([column[order][1:] == column[order][:-1] for column in columns], axis=0)
    keep_N = np.ones(len(log), bool)
    keep_N[tied[order[1:][again]]] = False
    return log.where(keep_N)


def choose_titles(items: pl.LazyFrame, item_ids: pl.Series, clean: bool, max_words: int) -> Titles:
    """Finds for every item the first entry with a usable title.

    Args:
      items: entry, item, title and more.
      item_ids: the items to find titles for.
      clean: whether titles lose their HTML, and left-over markup counts as a fault; white space is collapsed anyway.
      max_words: longest title in words; 0: any length.
    """
    entries = np.full(len(item_ids), -1, np.int64)
    texts = [""] * len(item_ids)
    faults = np.full(len(item_ids), FAULTS.index(NO_ENTRY), np.uint8)
    found = (
        items.select("entry", "item", "title")
        .join(pl.LazyFrame([item_ids.alias("item")]).with_row_index("number"), on="item")
        .select("entry", "number", "title")
        .collect(engine="streaming")
        .sort("entry")
    )
    for entry, number, text in found.iter_rows():
        if not faults[number]:
            continue
        title = plain_text(text) if clean else plain_space(text)
        fault = fault_of_title(title, max_words, refuse_markup=clean)
        if not fault or entries[number] < 0:
            entries[number], texts[number], faults[number] = entry, title, FAULTS.index(fault)
    known = items.select(pl.len().alias("entries"), pl.col("item").n_unique()).collect(engine="streaming").row(0)
    return Titles(entries, texts, faults, known[0] - known[1], known[1] - int(np.count_nonzero(entries >= 0)))


def core(log: Log, k: int) -> tuple[Log, int]:
    """The largest part of the log in which every user and every item has at least `k` interactions.

    Users need at least two: one interaction makes no row.

    Returns:
      What is left, and the number of rounds that dropped something.
    """
    rounds = 0
    while True:
        by_user, by_item = np.bincount(log.users), np.bincount(log.items)
        keep_N = (by_user[log.users] >= max(k, 2)) & (by_item[log.items] >= k)
        if keep_N.all():
            return log, rounds
        log = log.where(keep_N)
        rounds += 1
