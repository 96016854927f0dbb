"""One pinned thread, or all cores: set before a backend starts, by running the program again."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

PINNED = "TSREC_BENCHMARK_CORES"  # the cores that the process had before it was pinned
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def pin_to_one_core(arguments: Sequence[str]) -> None:
    """Runs this program again on one core with one thread in every library; returns when that has happened."""
    if PINNED in os.environ or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    os.environ[PINNED] = ",".join(map(str, cores))
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {ONE_THREAD}".strip()
    os.environ |= dict.fromkeys(POOLS, "1")
    os.sched_setaffinity(0, {cores[-1]})  # the first core serves most interrupts
    os.execv(sys.executable, [sys.executable, *arguments])


def all_cores() -> list[int]:
    """The cores that the process had before it was pinned."""
    if PINNED in os.environ:
        return [int(core) for core in os.environ[PINNED].split(",")]
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def unpinned_environment() -> dict[str, str]:
    """The environment for a child process that may use all cores."""
    environment = {key: value for key, value in os.environ.items() if key not in (PINNED, *POOLS)}
    environment["XLA_FLAGS"] = environment.get("XLA_FLAGS", "").replace(ONE_THREAD, "").strip()
    return environment
