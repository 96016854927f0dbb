"""The pipeline in Apache Beam that thins raw data; `thin` is its command line."""

from __future__ import annotations

import collections
import csv
import dataclasses
import io
import json
import pathlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import fsspec
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.metrics.metric import Metrics, MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions

from tsrec_jax.errors import UserError
from tsrec_jax.prepare.places import at_hand, find_files
from tsrec_jax.prepare.raw import RawSource, Tally, refuse_loss
from tsrec_jax.prepare.raw_rows import INTERACTION_SCHEMA, INTERACTIONS, ITEM_SCHEMA, ITEMS, Row
from tsrec_jax.prepare.settings import PrepareSettings, columns_of, seconds
from tsrec_jax.prepare.thin_facts import FACTS, SETTINGS, TABLE, ThinFacts, find_facts
from tsrec_jax.prepare.ties import falls_beyond_chance
from tsrec_jax.prepare.titles import TOO_LONG, fault_of_title, plain_space, plain_text

ROUNDS = 3  # of the k-core: on generated reviews they find all of it, and `prepare` finishes what they leave
# Counted to tell which way the files run (`ties.is_newest_first`): neighbours of different times, and those where the
# later line has the earlier time; of each user, and of all lines of a file.
STEPS, FALLS = "steps", "falls"
ORDERS = OF_USERS, OF_LINES = "of users", "of lines"

Place = tuple[int, int]  # number of the file and of its line: the order of the raw files
Entry = tuple[int, Place, Any]  # of an item: 0 and its row where the title is usable, else 1 and why it is not


def thin(settings: PrepareSettings, out: str, options: PipelineOptions | None = None) -> dict[str, int]:
    """Writes `thinned-interactions-*.csv.gz` and `thinned-items-*.csv.gz` into `out`, and FACTS when they are complete.

    The numbers are Beam's counters: on runners that count attempts alone, work that was tried again counts twice.

    Args:
      settings: those of SETTINGS are read; files are named as for `prepare`.
      out: a new folder, or an address.
      options: of Beam; None: its local runner.

    Returns:
      Numbers of interactions: `read`, `in the window`, of these `distinct` (those of one user, item and second are one)
      and of the distinct ones `without a title`; and those `left`, repeats among them.

    Raises:
      UserError: as `prepare` raises for raw files; `out` is not empty; or the files have been thinned before.
    """
    found = {
        table: find_files(getattr(settings, key), f"--{key}")
        for table, key in ((INTERACTIONS, "interactions_file"), (ITEMS, "items_file"))
    }
    if find_facts(found[INTERACTIONS], found[ITEMS]) is not None:
        raise UserError(f"{found[INTERACTIONS][0]} was thinned before; thin the raw files again under these settings")
    source = RawSource(
        settings.source, found[INTERACTIONS], found[ITEMS], columns_of(settings.columns), settings.encoding
    )
    system, folder = fsspec.core.url_to_fs(out, auto_mkdir=True)
    if system.exists(folder) and system.ls(folder):
        raise UserError(f"--out={out} is not empty; give a new folder")
    system.makedirs(folder, exist_ok=True)
    pipeline = beam.Pipeline(options=options)
    _build(pipeline, source, settings, out)
    result = pipeline.run()
    result.wait_until_finish()
    counts: collections.Counter[str] = collections.Counter()  # each transform has counters of its own
    for counter in result.metrics().query(MetricsFilter().with_namespace(__name__))["counters"]:
        counts[counter.key.metric.name] += counter.result
    lost, seen = counts["without a title"], counts["distinct"]
    if lost > settings.max_unmatched * seen:
        raise UserError(
            f"{lost:,} of {seen:,} interactions have no item with a usable title, more than --max_unmatched="
            f"{settings.max_unmatched:g} allows; are ids written alike in both files? Else allow the loss"
        )
    if not counts["left"]:
        raise UserError(
            f"nothing is left of {seen:,} interactions; "
            f"{f'lower --k_core={settings.k_core}, or ' if settings.k_core > 1 else ''}widen the window"
        )
    falls = [(counts.pop(f"{FALLS} {order}", 0), counts.pop(f"{STEPS} {order}", 0)) for order in ORDERS]
    newest_first = falls_beyond_chance(falls)
    facts = ThinFacts({name: getattr(settings, name) for name in SETTINGS}, newest_first, dict(counts))
    system.pipe_file(f"{folder}/{FACTS}", json.dumps(dataclasses.asdict(facts), indent=1).encode())
    return dict(counts)


def _build(pipeline: beam.Pipeline, source: RawSource, settings: PrepareSettings, out: str) -> None:
    def rows(table: str) -> beam.PCollection:
        files = list(enumerate(source.files(table)))
        read = beam.ParDo(_Read(source, table, settings.max_unreadable))
        return pipeline | f"{table}: files" >> beam.Create(files) | f"{table}: deal" >> beam.Reshuffle() | table >> read

    window = tuple(seconds(f"prepare.{key}", getattr(settings, key)) for key in ("start", "end"))
    entries = (
        rows(ITEMS)
        | "titles" >> beam.Map(_judged, settings.clean_titles, settings.max_title_words)
        | "first entry" >> beam.CombinePerKey(min)
    )
    lines = rows(INTERACTIONS)
    _ = lines | "by user" >> beam.Map(_whose) | "logs" >> beam.GroupByKey() | "steps" >> beam.Map(_count_steps)
    log = lines | "window" >> beam.FlatMap(_in_window, *window)
    described = (
        {"log": log, "entries": entries}
        | "join" >> beam.CoGroupByKey()
        | "described" >> beam.FlatMap(_described, settings.k_core).with_outputs("items", main="log")
    )
    _write(described["items"] | "item rows" >> beam.Map(_line), f"{out}/{TABLE}items", ITEM_SCHEMA)
    log = described["log"]
    for number in range(1, ROUNDS + 1):
        log = log | f"users {number}" >> beam.GroupByKey() | f"core of users {number}" >> beam.FlatMap(
            _core, max(settings.k_core, 2)
        )  # fmt: skip
        log = log | f"items {number}" >> beam.GroupByKey() | f"core of items {number}" >> beam.FlatMap(
            _core, settings.k_core
        )  # fmt: skip
    texts = log | "users" >> beam.GroupByKey() | "rows" >> beam.FlatMap(_lines, max(settings.k_core, 2))
    _write(texts, f"{out}/{TABLE}interactions", INTERACTION_SCHEMA)


class _Read(beam.DoFn):
    """A numbered file to ((file, line), row)."""

    def __init__(self, source: RawSource, table: str, max_unreadable: float) -> None:
        self._source, self._table, self._most = source, table, max_unreadable

    def process(self, file: tuple[int, str]) -> Iterator[tuple[Place, Row]]:
        number, place = file
        with tempfile.TemporaryDirectory() as scratch, at_hand(place, pathlib.Path(scratch)) as path:
            tally, steps = Tally(path, self._table), _Steps(OF_LINES)
            for line, make_row in self._source.lines(self._table, path):
                row = tally.row(line, make_row)
                if row is not None:
                    if self._table == INTERACTIONS:
                        steps.see(row[2])
                    yield (number, line), row
            steps.count()
            refuse_loss(path, tally.finish(), self._most)


class _Steps:
    """Counts the steps from one time to the next, and those that fall."""

    def __init__(self, order: str) -> None:
        self._order = order
        self._last: int | None = None
        self._steps = self._falls = 0

    def see(self, time: int) -> None:
        if self._last is not None:
            self._steps += time != self._last
            self._falls += time < self._last
        self._last = time

    def count(self) -> None:
        _count(f"{STEPS} {self._order}", self._steps)
        _count(f"{FALLS} {self._order}", self._falls)


def _whose(entry: tuple[Place, Row]) -> tuple[str, tuple[Place, int]]:
    """A user, and a time with its place."""
    place, (user, _, time) = entry
    return user, (place, time)


def _count_steps(group: tuple[str, Iterable[tuple[Place, int]]]) -> None:
    steps = _Steps(OF_USERS)
    for _, time in sorted(group[1]):
        steps.see(time)
    steps.count()


def _judged(entry: tuple[Place, Row], clean: bool, max_words: int) -> tuple[str, Entry]:
    """An item, and its entry with the row or what is wrong with the title."""
    place, row = entry
    title = plain_text(row[1]) if clean else plain_space(row[1])
    fault = fault_of_title(title, max_words, refuse_markup=clean)
    return row[0], (1, place, fault) if fault else (0, place, row)


def _in_window(
    entry: tuple[Place, Row], start: int | None, end: int | None
) -> Iterator[tuple[str, tuple[Place, str, int]]]:
    """An item, and who had it when."""
    place, (user, item, time) = entry
    _count("read")
    if (start is None or time >= start) and (end is None or time < end):
        _count("in the window")
        yield item, (place, user, time)


def _described(joined: tuple[str, dict[str, Any]], k: int) -> Iterator[Any]:
    """By user the interactions of an item with a usable title and `k` distinct ones or more; its row under `items`."""
    item, groups = joined
    entry = next(iter(groups["entries"]), (1, (0, 0), ""))
    distinct = len({(user, time) for _, user, time in groups["log"]})  # `prepare` drops repeats before it counts
    _count("distinct", distinct)
    if entry[0]:
        _count("without a title", 0 if entry[2] == TOO_LONG else distinct)
    elif distinct >= k:
        yield beam.pvalue.TaggedOutput("items", entry[2])
        for place, user, time in groups["log"]:
            yield user, (place, item, time)


def _core(group: tuple[str, Iterable[tuple[Place, str, int]]], k: int) -> Iterator[tuple[str, tuple[Place, str, int]]]:
    """The interactions of a user (or item) with at least `k`, by item (or user)."""
    key, members = group
    if _length(members) >= k:
        for place, other, time in members:
            yield other, (place, key, time)


def _lines(group: tuple[str, Iterable[tuple[Place, str, int]]], k: int) -> Iterator[str]:
    """A user's rows, in the order of the raw files: as one text, since Beam keeps no order of several."""
    user, members = group
    rows = sorted(members)
    if len(rows) >= k:
        _count("left", len(rows))
        yield "\n".join(_line((user, item, time)) for _, item, time in rows)


def _length(members: Iterable[Any]) -> int:
    return sum(1 for _ in members)


def _count(name: str, number: int = 1) -> None:
    Metrics.counter(__name__, name).inc(number)


def _line(row: Sequence[Any]) -> str:
    """A row as a line of CSV, its texts in quotes whatever they hold."""
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="").writerow(row)
    return text.getvalue()


def _write(lines: beam.PCollection, place: str, columns: Iterable[str]) -> None:
    sink = beam.io.WriteToText(place, ".csv.gz", header=_line(tuple(columns)), compression_type=CompressionTypes.GZIP)
    _ = lines | f"write {place.rpartition('/')[2]}" >> sink
