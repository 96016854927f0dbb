"""The catalogue of a service: changes that survive kill -9, and look-ups among very many items.

    PYTHONPATH=. python benchmarks/catalogue.py --changes=100000 --kills=5 --items=1000000 --out=catalogue.md

First, a process makes changes one by one and says so after each; it is killed at even distances and started again.
After each kill every change that was said to be made must be there, and at most one more; at the end the items must be
those of the same changes without a kill. Then the times of unknown ids and of searches in a catalogue of --items items.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np

from benchmarks.facts import command
from tsrec_jax.data.catalogue import Catalogue, Item
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.errors import UserError
from tsrec_jax.pipeline.provenance import commit
from tsrec_jax.serving.catalogue_changes import Changes
from tsrec_jax.serving.live_catalogue import LiveCatalogue

ROOT = pathlib.Path(__file__).resolve().parents[1]
CODES = 32  # of each of three levels
IDS = 5_000  # that are put, blocked and removed again and again
QUERIES = {
    "a word of many items": "steel",
    "two words of many": "steel pump",
    "a rare word": "qx17",
    "a word of none": "zzzzzz",
    "two letters": "qx",
    "two letters of none": "zq",
}


def open_catalogue(items: int, path: pathlib.Path | None) -> LiveCatalogue:
    """A made-up catalogue with the changes in a file."""
    random = np.random.default_rng(0)
    words = np.array(["steel", "pump", "drill", "blue", "camping", "mug", "lamp", "travel", "desk", "folding"])
    chosen = words[random.integers(0, len(words), (items, 5))].tolist()
    codes = random.integers(0, CODES, (items, 3))
    codes[:CODES] = np.arange(min(CODES, items))[:, None]  # every token is there
    sids = tuple((f"<a_{a}>", f"<b_{b}>", f"<c_{c}>") for a, b, c in codes.tolist())
    rare = {number: f" qx{number % 100}" for number in range(0, items, max(items // 500, 1))}
    titles = (" ".join(chosen[number]) + f" {number}" + rare.get(number, "") for number in range(items))
    catalogue = Catalogue(tuple(Item(f"B{number:09d}", title) for number, title in enumerate(titles)), sids)
    return LiveCatalogue(catalogue, Trie.of_catalogue(catalogue, 0), Changes(path))


def change(catalogue: LiveCatalogue, number: int) -> None:
    """Makes change `number`, which depends on what was changed before it and on nothing else."""
    item_id = f"N{number * 7919 % IDS}"
    there = catalogue.get(item_id)
    if there is not None and number % 4 == 2:
        catalogue.block([item_id], not there.blocked)
    elif there is not None and number % 4 == 3:
        catalogue.remove(item_id)
    else:
        code = number % CODES
        catalogue.put(item_id, f"Thing {number}", (f"<a_{code}>", f"<b_{code}>", f"<c_{code}>"))


def make_changes(path: pathlib.Path, total: int) -> None:
    """Continues the changes of a file and prints the number of each change it makes."""
    catalogue = open_catalogue(CODES, path)
    for number in range(catalogue.last_change, total):
        change(catalogue, number)
        print(number + 1, flush=True)


def survive(total: int, kills: int, folder: pathlib.Path) -> list[str]:
    """Makes the changes in processes that are killed; returns lines for the report.

    Raises:
      AssertionError: an acknowledged change is lost, or the catalogue is not that of the changes.
    """
    path = folder / "changes.sqlite"
    stops = [total * (kill + 1) // (kills + 1) for kill in range(kills)]
    seconds, made = 0.0, 0
    while made < total:
        child = [sys.executable, "-m", "benchmarks.catalogue", f"--changes={total}", f"--child={path}"]
        with subprocess.Popen(child, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            begun = None
            for line in process.stdout:
                begun = begun or time.perf_counter()  # the first change: imports are not measured
                made = int(line)
                if stops and made >= stops[0]:
                    process.kill()
                    del stops[0]
            seconds += time.perf_counter() - (begun or time.perf_counter())
        kept = open_catalogue(CODES, path)
        assert not kept.changes.faults()
        assert made <= kept.last_change <= made + 1, f"{made} acknowledged, {kept.last_change} kept"
    alone = open_catalogue(CODES, None)
    for number in range(total):
        change(alone, number)
    assert sorted(alone.items(), key=str) == sorted(kept.items(), key=str)
    size = path.stat().st_size / 2**20
    begun = time.perf_counter()
    open_catalogue(CODES, path)
    return [
        f"- {total:,} changes, {kills} times killed: none that was acknowledged is lost, none is there twice",
        f"- {1000 * seconds / total:.2f} ms a change, one after the other, each durable; the file has {size:.0f} MiB",
        f"- read again in {time.perf_counter() - begun:.1f} s",
    ]


def look_up(items: int, repeats: int) -> list[str]:
    """Times look-ups; returns lines for the report."""
    catalogue = open_catalogue(items, None)
    begun = time.perf_counter()
    assert catalogue.search.index()
    lines = [
        f"- {items:,} items, indexed in {time.perf_counter() - begun:.1f} s",
        "",
        "| look-up | median ms | slowest ms |",
        "|---|---:|---:|",
    ]

    def unknown() -> None:
        try:
            catalogue.item("B00000X123")
        except UserError:
            return
        raise AssertionError("an unknown id was found")

    lines.append(_row("an unknown id, with the nearest ones", unknown, repeats))
    lines.append(_row("an exact title of none", lambda: catalogue.titled("Steel pump"), repeats))
    for name, text in QUERIES.items():
        lines.append(_row(f"{name} (`{text}`)", lambda text=text: catalogue.find(text, 20), repeats))
    return lines


def _row(name: str, call: Callable[[], object], repeats: int) -> str:
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - begun))
    return f"| {name} | {np.median(times):.3f} | {max(times):.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=100, help="of each look-up")
    parser.add_argument("--out", type=pathlib.Path, help="where the report goes; default: printed only")
    parser.add_argument("--child", type=pathlib.Path, help="make the changes of this file, as one of the processes")
    options = parser.parse_args()
    if options.child:
        make_changes(options.child, options.changes)
        return
    with tempfile.TemporaryDirectory(prefix="catalogue-") as folder:
        lines = survive(options.changes, options.kills, pathlib.Path(folder))
    lines += look_up(options.items, options.repeats)
    made = f"Made by `{command()}`: commit {commit()}, {os.cpu_count()} CPU cores."
    report = "\n".join(["# The catalogue of a service", "", made, "", *lines, ""])
    print(report)
    if options.out:
        options.out.write_text(report, encoding="utf-8")


if __name__ == "__main__":
    main()
