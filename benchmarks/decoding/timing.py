"""Times of methods that take turns, so that a busy moment of the machine hits all of them."""

from __future__ import annotations

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass
class Timing:
    """Seconds of one method: wall clock, and processor time of all threads of this process.

    Attributes:
      first: of the first run, which compiles and touches memory; among the others only for a method too slow to run
        again.
      wall, cpu: of the timed runs.
    """

    first: float
    wall: list[float]
    cpu: list[float]

    @property
    def median(self) -> float:
        """Median wall time in seconds."""
        return statistics.median(self.wall)

    @property
    def median_cpu(self) -> float:
        """Median processor time in seconds."""
        return statistics.median(self.cpu)


def timed(method: Callable[[], Any]) -> tuple[float, float, Any]:
    """(wall seconds, processor seconds, result) of one run."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = method()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def take_turns(
    methods: Mapping[str, Callable[[], Any]],
    repeats: int,
    seconds: float,
    progress: Callable[[str], None] = lambda line: None,
    ready: Collection[str] = (),
) -> tuple[dict[str, Timing], dict[str, Any]]:
    """Times every method `repeats` times in rounds, each round in another order.

    Args:
      methods: by name.
      repeats: rounds.
      seconds: a method whose runs would take longer than this in all gets fewer, at least one.
      progress: receives a line for each first run.
      ready: methods that compile nothing; where the first run of such a method takes longer than `seconds`, it is the
        only one.

    Returns:
      The times and each method's result of its first run.
    """
    gc.collect()
    timings: dict[str, Timing] = {}
    results: dict[str, Any] = {}
    turns: dict[str, int] = {}
    for name, method in methods.items():
        wall, cpu, results[name] = timed(method)
        slow = wall > seconds and name in ready
        timings[name] = Timing(wall, [wall] if slow else [], [cpu] if slow else [])
        turns[name] = 0 if slow else repeats
        progress(f"{name}: first run {wall:.2f} s")
    names = list(methods)
    for turn in range(repeats):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            timing = timings[name]
            if turn >= turns[name]:
                continue
            wall, cpu, _ = timed(methods[name])
            timing.wall.append(wall)
            timing.cpu.append(cpu)
            if turn == 0:
                turns[name] = max(1, min(repeats, int(seconds / wall)))
    return timings, results


def paired_difference(
    with_it: Callable[[], Any], without: Callable[[], Any], repeats: int
) -> tuple[float, tuple[float, float], float]:
    """How much longer one method takes than another, measured in neighbouring runs whose order alternates.

    Returns:
      Median of the differences in seconds of processor time, its 95 % interval by order statistics, and the median of
      `without`.
    """
    with_it(), without()
    gc.collect()
    differences, baseline = [], []
    for turn in range(repeats):
        order = (with_it, without) if turn % 2 else (without, with_it)
        taken = {}
        for method in order:
            started = time.process_time()
            method()
            taken[method] = time.process_time() - started
        differences.append(taken[with_it] - taken[without])
        baseline.append(taken[without])
    ordered = np.sort(differences)
    half = 0.98 * np.sqrt(repeats)  # binomial(n, 1/2): 1.96 standard deviations of n / 4
    low, high = int(max(0, repeats / 2 - half)), int(min(repeats - 1, repeats / 2 + half))
    return float(np.median(ordered)), (float(ordered[low]), float(ordered[high])), float(np.median(baseline))
