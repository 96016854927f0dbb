"""Raw data beyond one machine, thinned by Apache Beam to what one machine can prepare.

    python -m tsrec_jax.prepare.thin --source=amazon2023 --out=gs://BUCKET/thin \
        --interactions_file='gs://BUCKET/reviews/*.jsonl.gz' --items_file='gs://BUCKET/metadata/*.jsonl.gz' \
        --runner=DataflowRunner --project=PROJECT --region=REGION --temp_location=gs://BUCKET/tmp

It drops nothing that `prepare` would not drop under the same settings: lines that cannot be read, interactions outside
the time window or of items without a usable title, and most of what is not in the k-core, which a few rounds find. It
writes tables; `prepare` makes of them the folder that it would have made of the raw files, since it drops the rest
itself, exactly, and each user's lines stand in the order of the raw files.

A file is read by one worker, so many files are read faster than one. Flags that are not listed by `--help` are Beam's.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import pathlib
import sys
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
from tsrec_jax.prepare.titles import TOO_LONG, fault_of_title, plain_space, plain_text

ROUNDS = 3  # of the k-core: on generated reviews they find all of it, and `prepare` finishes what they leave
FACTS = "thin.json"  # written when the tables are complete
SETTINGS = ("source", "interactions_file", "items_file", "columns", "encoding", "k_core", "start", "end",
            "max_title_words", "clean_titles", "max_unreadable", "max_unmatched")  # fmt: skip

Place = tuple[int, int]  # number of the file and of its line: the order of the raw files
Entry = tuple[int, Place, Any]  # of an item: 0 and its row where the title is usable, else 1 and why it is not


def thin(settings: PrepareSettings, out: str, options: PipelineOptions | None = None) -> dict[str, int]:
    """Writes `interactions-*.csv.gz` and `items-*.csv.gz` into `out`, and FACTS when they are complete.

    Args:
      settings: those of SETTINGS are read; files are named as for `prepare`.
      out: a new folder, or an address.
      options: of Beam; None: its local runner.

    Returns:
      Numbers of interactions: `read`, `in the window`, `without a title` and `left`.

    Raises:
      UserError: as `prepare` raises for raw files; or there is something at `out`.
    """
    found = {
        table: find_files(getattr(settings, key), f"config.prepare.{key}")
        for table, key in ((INTERACTIONS, "interactions_file"), (ITEMS, "items_file"))
    }
    source = RawSource(
        settings.source, found[INTERACTIONS], found[ITEMS], columns_of(settings.columns), settings.encoding
    )
    system, folder = fsspec.core.url_to_fs(out, auto_mkdir=True)
    if system.exists(folder) and system.ls(folder):
        raise UserError(f"--out={out}: there is something already; give a new folder")
    system.makedirs(folder, exist_ok=True)
    pipeline = beam.Pipeline(options=options)
    _build(pipeline, source, settings, out)
    result = pipeline.run()
    result.wait_until_finish()
    counts = {counter.key.metric.name: counter.result for counter in
              result.metrics().query(MetricsFilter().with_namespace(__name__))["counters"]}  # fmt: skip
    lost, seen = counts.get("without a title", 0), counts.get("in the window", 0)
    if lost > settings.max_unmatched * seen:
        raise UserError(
            f"{lost:,} of {seen:,} interactions have no item with a usable title, more than "
            f"max_unmatched={settings.max_unmatched:g} allows; are ids written alike in both files? Else allow the loss"
        )
    if not counts.get("left", 0):
        raise UserError(
            f"nothing is left of {seen:,} interactions; lower k_core={settings.k_core}, or widen the window"
        )
    system.pipe_file(f"{folder}/{FACTS}", json.dumps(counts, indent=1).encode())
    return counts


def _build(pipeline: beam.Pipeline, source: RawSource, settings: PrepareSettings, out: str) -> None:
    def rows(table: str) -> beam.PCollection:
        files = list(enumerate(getattr(source, table)))
        read = beam.ParDo(_Read(source, table, settings.max_unreadable))
        return pipeline | f"{table}: files" >> beam.Create(files) | f"{table}: deal" >> beam.Reshuffle() | table >> read

    window = tuple(seconds(f"prepare.{key}", getattr(settings, key)) for key in ("start", "end"))
    entries = (
        rows(ITEMS)
        | "titles" >> beam.Map(_judged, settings.clean_titles, settings.max_title_words)
        | "first entry" >> beam.CombinePerKey(min)
    )
    log = rows(INTERACTIONS) | "window" >> beam.FlatMap(_in_window, *window)
    described = (
        {"log": log, "entries": entries}
        | "join" >> beam.CoGroupByKey()
        | "described" >> beam.FlatMap(_described, settings.k_core).with_outputs("items", main="log")
    )
    _write(described["items"] | "item rows" >> beam.Map(_line), f"{out}/items", ITEM_SCHEMA)
    log = described["log"]
    for number in range(1, ROUNDS + 1):
        log = log | f"users {number}" >> beam.GroupByKey() | f"core of users {number}" >> beam.FlatMap(
            _core, max(settings.k_core, 2)
        )  # fmt: skip
        log = log | f"items {number}" >> beam.GroupByKey() | f"core of items {number}" >> beam.FlatMap(
            _core, settings.k_core
        )  # fmt: skip
    lines = log | "users" >> beam.GroupByKey() | "rows" >> beam.FlatMap(_lines, max(settings.k_core, 2))
    _write(lines, f"{out}/interactions", INTERACTION_SCHEMA)


class _Read(beam.DoFn):
    """A numbered file to ((file, line), row)."""

    def __init__(self, source: RawSource, table: str, max_unreadable: float) -> None:
        self._source, self._table, self._most = source, table, max_unreadable

    def process(self, file: tuple[int, str]) -> Iterator[tuple[Place, Row]]:
        number, place = file
        with tempfile.TemporaryDirectory() as scratch, at_hand(place, pathlib.Path(scratch)) as path:
            tally = Tally(path, self._table)
            for line, make_row in self._source.lines(self._table, path):
                row = tally.row(line, make_row)
                if row is not None:
                    yield (number, line), row
            refuse_loss(path, tally.finish(), self._most)


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
    """The interactions of an item with a usable title and at least `k` of them, by user; and its row, under `items`."""
    item, groups = joined
    entry = next(iter(groups["entries"]), (1, (0, 0), ""))
    if entry[0]:
        _count("without a title", 0 if entry[2] == TOO_LONG else _length(groups["log"]))
    elif _length(groups["log"]) >= k:
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


def parser() -> argparse.ArgumentParser:
    """The flags of this program; what it does not know is for Beam."""
    made = argparse.ArgumentParser("python -m tsrec_jax.prepare.thin", description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    made.add_argument("--out", required=True, help="new folder or address for the tables")
    fields = {field.name: field for field in dataclasses.fields(PrepareSettings)}
    for name in SETTINGS:
        default = fields[name].default
        is_switch: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        made.add_argument(f"--{name}", default=default, help=f"as config.prepare.{name}; default: {default!r}",
                          **(is_switch if isinstance(default, bool) else {"type": type(default)}))  # fmt: skip
    return made


def main(arguments: Sequence[str]) -> int:
    """The command line; returns the exit code."""
    given, of_beam = parser().parse_known_args(arguments)
    settings = {name: getattr(given, name) for name in SETTINGS}
    options = PipelineOptions(of_beam)
    # Beam passes over what it does not know with a warning: a misspelt flag would thin by its default.
    unknown = options.get_all_options(retain_unknown_options=True).keys() - options.get_all_options().keys()
    if unknown:
        parser().error(f"neither a flag of this program nor of Beam: {', '.join(sorted(unknown))}")
    try:
        counts = thin(PrepareSettings(**settings), given.out, options)
    except UserError as error:
        print(f"thin: {error}", file=sys.stderr)
        return 2
    print(f"thin: {counts['left']:,} of {counts['read']:,} interactions are left in {given.out}")
    return 0


if __name__ == "__main__":
    # Workers know the functions by the name of their module, which `__main__` is not.
    from tsrec_jax.prepare import thin as module

    sys.exit(module.main(sys.argv[1:]))
