"""One case at one beam width: every method's time and lists, and the floor."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import jax

from benchmarks.decoding.floor import floor_of, gemm_rate, program_shapes, square_rate, time_at_own_shapes
from benchmarks.decoding.ours import ours
from benchmarks.decoding.parity import compare
from benchmarks.decoding.problem import Method, Problem
from benchmarks.decoding.timing import take_turns
from benchmarks.decoding.usual_jax import usual_jax

OURS = "ours"
TORCH = ("as shipped", "expert HF")
PEERS = (*TORCH, "usual JAX")


def torch_runs_here() -> bool:
    """torch is installed and computes where JAX does."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return jax.default_backend() == "cpu" or (jax.default_backend() == "gpu" and torch.cuda.is_available())


@contextlib.contextmanager
def methods_of(problem: Problem, beams: int, *, slowest: bool = True) -> Iterator[dict[str, Method]]:
    """Every method that runs here, on the same weights.

    Args:
      problem: what is searched.
      beams: W.
      slowest: with `generate` as shipped.
    """
    methods = {OURS: ours(problem, beams), "usual JAX": usual_jax(problem, beams)}
    if not torch_runs_here():
        yield methods
        return
    from benchmarks.decoding.torch_peers import as_shipped, expert, torch_model

    with torch_model(problem) as model:
        methods["expert HF"] = expert(problem, model, beams)
        if slowest:
            methods["as shipped"] = as_shipped(problem, model, beams)
        yield methods


def measure_case(
    problem: Problem, beams: int, *, repeats: int, seconds: float, progress: Callable[[str], None]
) -> dict[str, Any]:
    """JSON facts of one case.

    Args:
      problem: what is searched.
      beams: W.
      repeats: timed rounds.
      seconds: how long one method may take in all, see `timing.take_turns`.
      progress: receives lines.

    Returns:
      Times in seconds by method, parity with ours, ratios of medians to ours, rates in operations a second, floor.
    """
    with methods_of(problem, beams) as methods:
        timings, results = take_turns(methods, repeats, seconds, progress, ready=TORCH)
    square = square_rate()
    rates = {name: gemm_rate(*shape) for name, shape in program_shapes(problem, beams).items()}
    square = max(square, square_rate())  # before and after, lest a busy moment lower the floor
    floor = floor_of(problem, beams)
    mine = timings[OURS]
    peers = [name for name in PEERS if name in timings]
    return {
        "case": problem.name,
        "beams": beams,
        "batch": len(problem.prompts),
        "prompt_tokens": [len(prompt) for prompt in problem.prompts],
        "cached_tokens": problem.shared,
        "sids": problem.nodes[-1],
        "timings": {name: dataclasses.asdict(timing) for name, timing in timings.items()},
        "medians": {name: timing.median for name, timing in timings.items()},
        "ratios": {name: timings[name].median / mine.median for name in peers},
        "ratios_cpu": {name: timings[name].median_cpu / mine.median_cpu for name in peers},
        "parity": {name: dataclasses.asdict(compare(results[OURS], results[name])) for name in peers},
        "floor": dataclasses.asdict(floor),
        "gemm_rate": square,
        "rates": {name: (program_shapes(problem, beams)[name], rate) for name, rate in rates.items()},
        "floor_seconds": floor.total / square,
        "floor_share": floor.total / square / mine.median,
        "own_shapes_seconds": time_at_own_shapes(problem, beams, rates, square),
    }
