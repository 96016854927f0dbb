"""Memory and time of `prepare` on generated reviews in the format of Amazon Reviews 2023.

    python benchmarks/prepare.py --reviews=10000000 --folder=FOLDER

Writes gzipped JSON lines (an eighth as many users and a fortieth as many items as reviews; some users and items occur
far more often than others; some lines are broken), prepares them in a process of its own, and prints that process's
largest resident memory, the seconds of each stage and what was kept. What it made is deleted afterwards unless --keep
is given; raw files that an earlier run kept are used again.
"""

from __future__ import annotations

import argparse
import gzip
import logging
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
import polars as pl

from tsrec_jax.prepare.preparation import prepare
from tsrec_jax.prepare.raw import RawSource
from tsrec_jax.prepare.settings import PrepareSettings
from tsrec_jax.progress import LOGGER

BATCH = 250_000  # reviews
BROKEN_EVERY = 100_000  # reviews
YEARS = (1_262_304_000_000, 1_672_531_200_000)  # 2010 to 2022 in milliseconds
ITEM_SKEW, USER_SKEW = 6.0, 1.5  # how much more often some occur than others; 1: all equally


NAMES = ("Made.jsonl.gz", "meta_Made.jsonl.gz")  # of the raw files


def generate(reviews: int, folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes the raw files (the reviews and the metadata) unless they exist."""
    made, metadata = (folder / name for name in NAMES)
    if made.exists() and metadata.exists():
        return made, metadata
    random = np.random.default_rng(42)
    users, items = max(reviews // 8, 1), max(reviews // 40, 1)
    texts = _texts(random)
    with gzip.open(made, "wb", compresslevel=1) as file:
        for start in range(0, reviews, BATCH):
            size = min(BATCH, reviews - start)
            file.write(_reviews(random, size, users, items, texts).write_ndjson().encode())
            if start // BROKEN_EVERY != (start + size) // BROKEN_EVERY:
                file.write(b'{"rating": 5.0, "title": "cut sh\n')
    with gzip.open(metadata, "wb", compresslevel=1) as file:
        for start in range(0, items, BATCH):
            numbers = np.arange(start, min(start + BATCH, items))
            file.write(_metadata(random, numbers, texts).write_ndjson().encode())
    return made, metadata


def _texts(random: np.random.Generator) -> pl.Series:
    """A thousand texts of 20 to 80 words."""
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(random.choice(letters, length)) for length in random.integers(2, 10, 3000)])
    return pl.Series([" ".join(random.choice(words, length)) for length in random.integers(20, 80, 1000)])


def _reviews(random: np.random.Generator, size: int, users: int, items: int, texts: pl.Series) -> pl.DataFrame:
    item = (items * random.random(size) ** ITEM_SKEW).astype(np.int64)
    user = (users * random.random(size) ** USER_SKEW).astype(np.int64)
    ids = pl.Series(item)
    return pl.select(
        rating=pl.lit(pl.Series(random.integers(1, 6, size).astype(float))),
        title=pl.lit(texts.gather(random.integers(0, len(texts), size))).str.slice(0, 30),
        text=pl.lit(texts.gather(random.integers(0, len(texts), size))),
        asin=pl.format("B{}", pl.lit(ids).cast(pl.String).str.zfill(9)),
        parent_asin=pl.format("B{}", pl.lit(ids).cast(pl.String).str.zfill(9)),
        user_id=pl.format("AG{}QXFNIVBTUOZK", pl.lit(pl.Series(user)).cast(pl.String).str.zfill(14)),
        timestamp=pl.lit(pl.Series(random.integers(*YEARS, size))),
        helpful_vote=pl.lit(0),
        verified_purchase=pl.lit(True),
    )


def _metadata(random: np.random.Generator, numbers: np.ndarray, texts: pl.Series) -> pl.DataFrame:
    def some() -> pl.Expr:
        return pl.lit(texts.gather(random.integers(0, len(texts), len(numbers))))

    ids = pl.lit(pl.Series(numbers)).cast(pl.String).str.zfill(9)
    return pl.select(
        main_category=pl.lit("Made"),
        title=pl.format("{} &amp; {}", some().str.slice(0, 60), ids),
        average_rating=pl.lit(4.0),
        features=pl.concat_list(some(), some()),
        description=pl.concat_list(some()),
        store=some().str.slice(0, 12),
        categories=pl.concat_list(pl.lit("Made"), some().str.slice(0, 20)),
        parent_asin=pl.format("B{}", ids),
    )


def prepare_and_time(folder: pathlib.Path) -> None:
    """Prepares the raw files of the folder and prints the seconds of each stage."""
    begun = time.perf_counter()
    seconds: dict[str, float] = {}
    last = begun

    class Timed(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            nonlocal last
            now = time.perf_counter()
            stage = record.getMessage().split(":")[0]
            seconds[stage] = seconds.get(stage, 0.0) + now - last
            last = now

    source = RawSource("amazon2023", *(folder / name for name in NAMES))
    LOGGER.handlers = [Timed()]
    prepare(source, PrepareSettings(), "Made", folder / "Made")
    total = time.perf_counter() - begun
    for stage, spent in seconds.items():
        print(f"{spent:8.1f} s {100 * spent / total:5.1f} %  {stage}")
    print(f"{total:8.1f} s in all")
    print((folder / "Made" / "prepare.md").read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", type=int, default=10_000_000)
    parser.add_argument("--folder", type=pathlib.Path, help="where to write; default: a temporary folder")
    parser.add_argument("--keep", action="store_true", help="leave the folder's files")
    parser.add_argument("--only", choices=("generate", "prepare"), help="only one of the two halves")
    options = parser.parse_args()
    folder = options.folder or pathlib.Path(tempfile.mkdtemp(prefix="prepare-"))
    folder.mkdir(parents=True, exist_ok=True)
    if options.only == "prepare":
        prepare_and_time(folder)
        return
    begun = time.perf_counter()
    raw = generate(options.reviews, folder)
    sizes = ", ".join(f"{path.name} {path.stat().st_size / 1e6:,.0f} MB" for path in raw)
    print(f"generated {options.reviews:,} reviews in {time.perf_counter() - begun:.0f} s: {sizes}", flush=True)
    if options.only != "generate":
        shutil.rmtree(folder / "Made", ignore_errors=True)
        command = [sys.executable, __file__, "--only=prepare", f"--folder={folder}"]
        subprocess.run(command, check=True)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        print(f"largest resident memory: {peak:.2f} GiB")
    if not options.keep:  # what was made here, and nothing else that the folder may hold
        shutil.rmtree(folder / "Made", ignore_errors=True)
        for path in raw:
            path.unlink()


if __name__ == "__main__":
    main()
