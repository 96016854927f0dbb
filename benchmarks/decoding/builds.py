"""Time and memory of building an index, each in a process of its own that may use all cores.

PYTHONPATH=. python -m benchmarks.decoding.builds METHOD ITEMS SIZE,SIZE,... CORE,CORE,...
"""

from __future__ import annotations

import json
import os
import pathlib
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks.decoding.threads import all_cores, unpinned_environment

MEGABYTE = 1e6


def generated_codes(items: int, level_sizes: Sequence[int], seed: int = 0) -> np.ndarray:
    """int32 codes (items, C), uniform and, where that many exist, distinct but for a few; rows may repeat."""
    total = int(np.prod(np.asarray(level_sizes, np.int64)))
    keys_N = np.random.default_rng(seed).integers(0, total, items)
    codes_NC = np.empty((items, len(level_sizes)), np.int32)
    for level in range(len(level_sizes) - 1, -1, -1):
        codes_NC[:, level] = keys_N % level_sizes[level]
        keys_N //= level_sizes[level]
    return codes_NC


def build_ours(codes_NC: np.ndarray, level_sizes: Sequence[int]) -> tuple[Any, int]:
    """The library's trie, on host and device, and the bytes of one of the two."""
    from tsrec_jax.decoding.trie import Trie

    ends = np.cumsum(level_sizes)
    ids = [np.arange(end - size, end, dtype=np.int32) for end, size in zip(ends, level_sizes, strict=True)]
    trie = Trie.from_codes(codes_NC, level_sizes, ids)
    jax.block_until_ready(trie.arrays)
    return trie, trie.nbytes


def build_sparse(codes_NC: np.ndarray, level_sizes: Sequence[int]) -> tuple[Any, int]:
    """The transition matrix and its bytes."""
    from benchmarks.decoding.constraints import SparseTransitions

    found = SparseTransitions.build(codes_NC, level_sizes)
    jax.block_until_ready(found)
    return found, found.nbytes


def build_host(codes_NC: np.ndarray, level_sizes: Sequence[int]) -> tuple[Any, int]:
    """The dictionary; its bytes are the growth of this process."""
    from benchmarks.decoding.pluggable_search import HostTrie

    before = _status_bytes("VmRSS")
    trie = HostTrie(codes_NC, level_sizes)
    return trie, _status_bytes("VmRSS") - before


BUILDERS: dict[str, Callable[[np.ndarray, Sequence[int]], tuple[Any, int]]] = {
    "ours": build_ours,
    "STATIC": build_sparse,
    "host": build_host,
}


def _status_bytes(key: str) -> int:
    status = pathlib.Path("/proc/self/status")
    if not status.exists():  # another system than Linux: only the peak of the whole process is known
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = next(line for line in status.read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024


def _forget_peak() -> None:
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # the peak then counts from the start of the process, which is more, never less


def measure_build(method: str, items: int, level_sizes: Sequence[int]) -> dict[str, float]:
    """{seconds, seconds_cpu, peak_mb, final_mb}; the peak is what the process grew beyond the codes it was given."""
    codes_NC = generated_codes(items, level_sizes)
    jax.block_until_ready(jax.numpy.zeros(8) + 1)  # the backend is up before the clock starts
    BUILDERS[method](codes_NC[:1000], level_sizes)  # and what a build compiles for small sizes is compiled
    _forget_peak()
    before = _status_bytes("VmRSS")
    started, started_cpu = time.perf_counter(), time.process_time()
    index, size = BUILDERS[method](codes_NC, level_sizes)
    seconds, cpu = time.perf_counter() - started, time.process_time() - started_cpu
    peak = _status_bytes("VmHWM") - before
    del index
    return {
        "seconds": seconds,
        "seconds_cpu": cpu,
        "peak_mb": peak / MEGABYTE,
        "final_mb": size / MEGABYTE,
    }


def measure_apart(method: str, items: int, level_sizes: Sequence[int]) -> dict[str, float]:
    """`measure_build` in a fresh process on all cores."""
    sizes, cores = ",".join(map(str, level_sizes)), ",".join(map(str, all_cores()))
    command = [sys.executable, "-m", "benchmarks.decoding.builds", method, str(items), sizes, cores]
    root = pathlib.Path(__file__).resolve().parents[2]
    environment = unpinned_environment()
    environment["PYTHONPATH"] = f"{root}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core) for core in sys.argv[4].split(",")})
    print(json.dumps(measure_build(sys.argv[1], int(sys.argv[2]), [int(size) for size in sys.argv[3].split(",")])))
