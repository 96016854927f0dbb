"""Raw interactions and items to a text folder: the dataset folder before its items have semantic IDs.

Files of the folder for the data set NAME:
  NAME.item.json   {id: {title, description, brand, categories, image}}, ids in rising order
  train.csv, valid.csv, test.csv   user_id, history_item_id (ids as a Python list, oldest first), item_id;
                                   in the order of time
  prepare.json     the summary: settings, input files with their SHA-256, what was kept and dropped at each step
  prepare.md       the same as tables

The order of steps: lines that can be read; the time window; exact duplicates (same user, item and second) out, while
the same purchase at another time stays; items without a usable title out; the k-core. So every user and item that is
left has k_core interactions among those that are left, of all times: the k-core is taken before the split, as the
field does, and so knows which items will still be bought later. In what order the interactions of one user and second
stand is the subject of `ties`.

Memory holds 16 bytes for each interaction, in the few copies of a sort, and ids and titles; the rest streams from disk.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import pathlib
import re
import shutil
from collections.abc import Mapping

import numpy as np
import polars as pl

from tsrec_jax.data.prepared import SUMMARY
from tsrec_jax.errors import UserError
from tsrec_jax.files import new_folder
from tsrec_jax.prepare import filtering, splitting, ties
from tsrec_jax.prepare.filtering import Titles
from tsrec_jax.prepare.raw import RawSource, RawTables, read_raw
from tsrec_jax.prepare.raw_rows import INTERACTIONS, ITEMS, TEXT_COLUMNS
from tsrec_jax.prepare.settings import PrepareSettings, seconds
from tsrec_jax.prepare.splitting import Log, Rows
from tsrec_jax.prepare.summary import SplitCount, Step, Summary, of_ties, summary_tables
from tsrec_jax.prepare.thin_facts import find_facts
from tsrec_jax.prepare.titles import plain_text
from tsrec_jax.progress import report

_FEW_LEFT = 0.2  # share of the interactions below which the k-core is a warning
_SHOWN_IDS = 3
# Settings that say where the data comes from; the summary lists the files themselves instead.
_WHERE_FROM = (
    "source",
    "name",
    "category",
    "raw",
    "base_url",
    "interactions_file",
    "items_file",
    "columns",
    "encoding",
)


def prepare(source: RawSource, settings: PrepareSettings, name: str, folder: str | os.PathLike[str]) -> Summary:
    """Makes a text folder from raw data; it appears only when it is complete.

    Args:
      source: the raw data.
      settings: what to keep and how to split.
      name: NAME of the data set's files.
      folder: the folder to make. Until it is done the work lies beside it, under a temporary name.

    Raises:
      UserError: the folder exists already; a raw file is missing, broken or of another kind, or was thinned under
        tighter settings; nothing or an empty split is left, with the setting to loosen.
    """
    folder = pathlib.Path(folder)
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"data set name {name!r}: use letters, digits, '_', '-' and '.'")
    facts = find_facts(source.files(INTERACTIONS), source.files(ITEMS))
    if facts is not None:
        facts.refuse_looser(settings)
        report("thinned before: {left:,} of {read:,} interactions are left".format_map(facts.interactions))
    with new_folder(folder) as scratch:
        tables = read_raw(source, scratch / "raw", settings.max_unreadable)
        summary = _prepare(tables, settings, name, scratch, facts.newest_first if facts else None)
        shutil.rmtree(scratch / "raw")
    report(f"done: {folder}")
    return summary


def _prepare(
    tables: RawTables, settings: PrepareSettings, name: str, folder: pathlib.Path, newest_first: bool | None
) -> Summary:
    user_ids, item_ids, log, backwards = filtering.encode(tables.interactions, newest_first)
    report(f"numbered: {len(log):,} interactions, {len(user_ids):,} users, {len(item_ids):,} items")
    lines = sum(file.lines for file in tables.interaction_files)
    log, titles, steps = _filter(log, lines, tables.items, item_ids, settings)
    log, found = ties.settle(log, user_ids, item_ids, settings.ties, backwards)
    if found.interactions:
        report(f"ties: {'WARNING: ' if found.share >= ties.MANY else ''}{of_ties(found)}")
    rows, repeated = splitting.prefix_rows(log, settings.max_history)
    splits = _split(log, rows, settings)
    counts = _count_splits(log, splits)
    report(f"split: {', '.join(f'{count.name} {count.rows:,}' for count in counts)}")
    kept = np.unique(log.items)
    _write_items(folder / f"{name}.item.json", tables.items, item_ids, titles, kept)
    report(
        f"items: {len(kept):,} written; {titles.cold:,} left out because nobody interacted with them; "
        f"{titles.repeated:,} entries of an item that has an earlier one"
    )
    # Each id once in memory, however often it was bought.
    users, sequence = user_ids.to_list(), np.array(item_ids.to_list(), object)[log.items].tolist()
    for split, chosen in splits.items():
        splitting.write_rows(folder / f"{split}.csv", log, chosen, users, sequence)
        report(f"{split}.csv: {len(chosen):,} rows written")
    summary = Summary(
        name,
        {key: value for key, value in dataclasses.asdict(settings).items() if key not in _WHERE_FROM},
        tables.interaction_files,
        tables.item_files,
        steps,
        found,
        repeated,
        len(kept),
        titles.cold,
        titles.repeated,
        counts,
    )
    text = json.dumps(dataclasses.asdict(summary), indent=1, ensure_ascii=False) + "\n"
    (folder / SUMMARY).write_text(text, encoding="utf-8")
    (folder / "prepare.md").write_text(summary_tables(summary), encoding="utf-8")
    return summary


def _filter(
    log: Log, lines: int, items: pl.LazyFrame, item_ids: pl.Series, settings: PrepareSettings
) -> tuple[Log, Titles, tuple[Step, ...]]:
    """What is left of the log, the titles of all items, and a step for every reason to drop."""
    steps: list[Step] = []

    def left(reason: str, log: Log) -> Log:
        before = steps[-1].interactions if steps else lines
        users, items = (int(np.count_nonzero(np.bincount(column))) for column in (log.users, log.items))
        steps.append(Step(reason, before - len(log), len(log), users, items))
        return log

    left("line is malformed", log)
    start, end = (seconds(f"prepare.{key}", getattr(settings, key)) for key in ("start", "end"))
    log = left("outside the time window", filtering.in_window(log, start, end))
    if not len(log):
        raise UserError(f"no interaction lies between prepare.start={settings.start!r} and end={settings.end!r}")
    log = left("same user, item and second again", filtering.without_duplicates(log))
    titles = filtering.choose_titles(items, item_ids, settings.clean_titles, settings.max_title_words)
    _refuse_unmatched(log, item_ids, titles, settings.max_unmatched)
    for fault, reason in enumerate(filtering.FAULTS[1:], 1):
        log = left(reason, log.where(titles.faults[log.items] != fault))
    if not len(log):
        worst = max(steps[-len(filtering.FAULTS) + 1 :], key=lambda step: step.dropped)
        raise UserError(
            f"no interaction has an item with a usable title ({worst.reason}: {worst.dropped:,}); are the item files "
            f"those of the interactions, and is prepare.max_title_words={settings.max_title_words} large enough?"
        )
    report(f"titles: {len(log):,} interactions left")
    before = len(log)
    log, rounds = filtering.core(log, settings.k_core)
    left(f"not in the {settings.k_core}-core (rounds: {rounds})", log)
    if not len(log):
        worst = max(steps, key=lambda step: step.dropped)
        if worst is not steps[-1]:
            raise UserError(
                f"nothing is left: {worst.dropped:,} of {lines:,} interactions were dropped because: {worst.reason}; "
                f"mend that first. The last {before:,} make no {settings.k_core}-core"
            )
        raise UserError(
            f"prepare.k_core={settings.k_core} leaves nothing of {before} interactions, since users need two at least; "
            f"{'lower it, or ' if settings.k_core > 1 else ''}widen prepare.start and prepare.end"
        )
    few = len(log) < _FEW_LEFT * before
    loss = f" of {before:,}: lower prepare.k_core={settings.k_core} to keep more" if few else ""
    report(f"{settings.k_core}-core: {'WARNING: only ' if few else ''}{len(log):,} interactions left{loss}")
    return log, titles, tuple(steps)


def _refuse_unmatched(log: Log, item_ids: pl.Series, titles: Titles, most: float) -> None:
    """Raises a UserError if too many interactions are with items that the item files do not describe."""
    faults_N = titles.faults[log.items]
    counts = {reason: int(np.sum(faults_N == filtering.FAULTS.index(reason))) for reason in filtering.UNMATCHED}
    lost = sum(counts.values())
    if lost > most * len(log):
        listed = ", ".join(f"{reason} ({count:,})" for reason, count in counts.items() if count)
        unused = np.unique(log.items[np.isin(faults_N, [filtering.FAULTS.index(reason) for reason in counts])])
        shown = ", ".join(repr(text) for text in item_ids.gather(unused[:_SHOWN_IDS]))
        raise UserError(
            f"{lost:,} of {len(log):,} interactions have no item with a usable title, more than "
            f"config.prepare.max_unmatched={most:g} allows: {listed}; of {len(unused):,} items, the first: {shown}. "
            "Are ids written alike in both files, and is each item there? Else allow the loss"
        )


def _split(log: Log, rows: Rows, settings: PrepareSettings) -> dict[str, Rows]:
    way_out = ""
    if settings.split == "ratio":
        splits = splitting.split_by_ratio(log, rows, settings.ratios)
        shown, way_out = f"prepare.ratios={settings.ratios}", splitting.times_that_tie(log, rows)
    elif settings.split == "date":
        keys = ("valid_from", "test_from")
        # The settings hold both times.
        cuts = [seconds(f"config.prepare.{key}", getattr(settings, key)) or 0 for key in keys]
        splits = splitting.split_by_date(log, rows, cuts)
        shown = ", ".join(f"prepare.{key}={getattr(settings, key)!r}" for key in keys)
    else:
        splits = splitting.split_leave_one_out(log, rows)
        shown, way_out = "prepare.split='leave_one_out'", splitting.LEAVE_ONE_OUT_NEEDS
    splitting.check_splits(splits, shown, way_out)
    return splits


def _count_splits(log: Log, splits: Mapping[str, Rows]) -> tuple[SplitCount, ...]:
    is_known = np.zeros(int(log.items.max()) + 1, bool)
    is_known[splitting.items_of(log, splits["train"])] = True
    tied_N = ties.is_tied(log)
    counts = []
    for name, rows in splits.items():
        targets, times = log.items[rows.ends], log.times[rows.ends]
        counts.append(
            SplitCount(
                name,
                rows=len(rows),
                users=len(np.unique(log.users[rows.ends])),
                targets=len(np.unique(targets)),
                first=_iso(times[0]),
                last=_iso(times[-1]),
                unseen=float(np.mean(~is_known[targets])),
                tied=float(np.mean(tied_N[rows.ends])),
            )
        )
    return tuple(counts)


def _iso(time: int) -> str:
    return f"{datetime.datetime.fromtimestamp(int(time), datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"


def _write_items(
    path: pathlib.Path, items: pl.LazyFrame, item_ids: pl.Series, titles: Titles, kept: np.ndarray
) -> None:
    """Writes the item file: one item per line, in the order of ids."""
    chosen = pl.LazyFrame({"number": kept, "entry": titles.entries[kept]})
    facts = items.join(chosen, on="entry").collect(engine="streaming").sort("number")
    with path.open("w", encoding="utf-8") as file:
        separator = "{\n"
        for row in facts.iter_rows(named=True):
            texts = {column: plain_text(row[column]) for column in TEXT_COLUMNS}
            texts["title"] = titles.texts[row["number"]]
            if row["image"]:
                texts["image"] = row["image"]
            file.write(f"{separator}{json.dumps(row['item'], ensure_ascii=False)}: ")
            file.write(json.dumps(texts, ensure_ascii=False))
            separator = ",\n"
        file.write("\n}\n")
