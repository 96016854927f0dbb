"""Residual k-means against faiss' residual quantiser and scikit-learn's MiniBatchKMeans, level by level.

    pip install faiss-cpu==1.15.1
    PYTHONPATH=. python benchmarks/rq_kmeans.py [--items=100000] [--features=576] [--repeats=3] [--out=FILE.md]

All of them index the same generated items (a mixture of Gaussians with a falling spectrum, seeded) into 3 x 256 codes
in one process on all cores. Times are ratios of medians; the shares of variance left say that nobody buys time with
worse codes. The first run of ours, which compiles, is shown by itself. A library that is not installed is left out.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import pathlib
import statistics
import time
from collections.abc import Callable

import numpy as np

from benchmarks.facts import command
from tsrec_jax.pipeline.provenance import commit, machine

SIZES = (256, 256, 256)
SAMPLED = 64


def make_items(count: int, features: int, seed: int = 0) -> np.ndarray:
    """float32 (count, features): 5,000 centres and noise, both with variances that fall as 1 / (1 + d / 16)."""
    rng = np.random.default_rng(seed)
    scale_D = 1.0 / np.sqrt(1.0 + np.arange(features) / 16.0)
    centres = rng.normal(size=(5000, features)) * scale_D
    x_ID = centres[rng.integers(len(centres), size=count)] + 0.7 * rng.normal(size=(count, features)) * scale_D
    return x_ID.astype(np.float32)


def left(x_ID: np.ndarray, decoded_ID: np.ndarray) -> float:
    """Share of the variance that the codes leave."""
    return float(np.square(x_ID - decoded_ID).sum() / np.square(x_ID - x_ID.mean(axis=0)).sum())


def ours(x_ID: np.ndarray, rows_per_code: int) -> np.ndarray:
    """What the stage `index` does for `rq_kmeans` from embeddings to codes; rows_per_code 0: k-means sees all items."""
    from tsrec_jax.sid.quantisers.residual import ResidualQuantiser
    from tsrec_jax.sid.settings import IndexSettings

    settings = IndexSettings(sizes=SIZES, iterations=10, rows_per_code=rows_per_code)
    quantiser, codes_IC = ResidualQuantiser.fit(x_ID, settings, 0)
    return quantiser.decode(codes_IC)


def faiss_rq(x_ID: np.ndarray) -> np.ndarray:
    """faiss.ResidualQuantizer with its defaults, but greedy (beam 1), its cheapest search."""
    import faiss

    quantiser = faiss.ResidualQuantizer(x_ID.shape[1], len(SIZES), 8)
    quantiser.max_beam_size = 1
    quantiser.train(x_ID)
    return quantiser.decode(quantiser.compute_codes(x_ID))


def minibatch(x_ID: np.ndarray) -> np.ndarray:
    """scikit-learn's MiniBatchKMeans with its own defaults, one fit per level."""
    from sklearn.cluster import MiniBatchKMeans

    left_ID = x_ID.copy()
    for size in SIZES:
        fitted = MiniBatchKMeans(size, random_state=0).fit(left_ID)
        left_ID -= fitted.cluster_centers_[fitted.labels_]
    return x_ID - left_ID


def timed(method: Callable[[np.ndarray], np.ndarray], x_ID: np.ndarray) -> tuple[float, float]:
    """Seconds, and the share of the variance left."""
    started = time.perf_counter()
    decoded_ID = method(x_ID)
    return time.perf_counter() - started, left(x_ID, decoded_ID)


def main() -> None:
    """Prints the report; with --out, writes it too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=576)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    x_ID = make_items(arguments.items, arguments.features)
    methods = {
        f"ours, {SAMPLED} items a code": functools.partial(ours, rows_per_code=SAMPLED),
        "ours, all items": functools.partial(ours, rows_per_code=0),
    }
    if importlib.util.find_spec("faiss"):
        methods["faiss ResidualQuantizer, beam 1"] = faiss_rq
    methods["scikit-learn MiniBatchKMeans, a fit a level"] = minibatch
    one = next(iter(methods))
    first, _ = timed(methods[one], x_ID)
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    errors = {}
    for _ in range(arguments.repeats):  # one after the other, so that a busy moment of the machine hits all of them
        for name, method in methods.items():
            taken, errors[name] = timed(method, x_ID)
            seconds[name].append(taken)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [f"| {name} | {median / medians[one]:.2f} | {errors[name]:.4f} |" for name, median in medians.items()]
    lines = [
        "# Residual k-means beside other libraries",
        f"{arguments.items} generated items of {arguments.features} features into {SIZES} codes, one process, all "
        f"cores; medians of {arguments.repeats} runs, as multiples of the first line's. That line's first run, which "
        f"compiles, took {first / medians[one]:.2f} of a later one.",
        "\n".join(["| method | time | variance left |", "|---|---:|---:|", *rows]),
        f"Made by `{command()}`: commit `{commit()}`, machine `{machine()}`.",
    ]
    print("\n\n".join(lines))
    if arguments.out:
        arguments.out.write_text("\n\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
