"""What the constraint costs a decoding step, in catalogues of ten thousand to twenty million items.

The same search runs with and without the constraint on a body so small that the difference is not lost in the model's
time; it is then set against one step of SmolLM2's shape. Runs alternate, and the figure is the median of the paired
differences of processor time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.decoding.builds import generated_codes, measure_apart
from benchmarks.decoding.cases import qwen2_config, random_model
from benchmarks.decoding.constraints import SparseTransitions, Unconstrained
from benchmarks.decoding.ours import model_step, search_pair
from benchmarks.decoding.pluggable_search import HostTrie, search_on_host, search_under
from benchmarks.decoding.problem import Problem
from benchmarks.decoding.timing import paired_difference, timed
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.vocabulary import LANES

ITEMS = (10_000, 100_000, 1_000_000, 20_000_000)
SHAPES = ((256, 256, 256), (2048, 2048, 2048), (256, 256, 256, 256))
HOST_LIMIT = 1_000_000  # items; a dictionary of more prefixes takes minutes and gigabytes
BATCH, BEAMS, ORDINARY = 8, 20, 64
SMOLLM2 = ModelConfig(
    family="llama",
    vocab_rows=49792,
    d_model=576,
    d_mlp=1536,
    num_layers=30,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    rope_theta=1e5,
    rms_eps=1e-5,
    tied=True,
)


def fits(items: int, level_sizes: Sequence[int]) -> bool:
    """Whether that many items can have SIDs of their own, with room to spare."""
    return items * 2 <= np.prod(np.asarray(level_sizes, np.int64))


def small_problem(codes_NC: np.ndarray, level_sizes: Sequence[int]) -> Problem:
    """One narrow layer and short prompts over a catalogue."""
    rng = np.random.default_rng(0)
    config = qwen2_config(ORDINARY + sum(level_sizes), 32, 64, 1, 2, 1)
    prompts = rng.integers(1, ORDINARY, (BATCH, 8)).tolist()
    return Problem(
        "small body", random_model(config, config.vocab_rows), codes_NC, tuple(level_sizes), ORDINARY, prompts
    )


def step_seconds(repeats: int, config: ModelConfig = SMOLLM2) -> float:
    """Median processor time of one step of this shape at BATCH x BEAMS after prompts of 100 tokens."""
    rng = np.random.default_rng(0)
    sizes, used = (48, 256, 256), config.vocab_rows - LANES
    prompts = rng.integers(1, used, (BATCH, 100)).tolist()
    problem = Problem("step", random_model(config, used), np.zeros((1, 3), np.int32), sizes, used - sum(sizes), prompts)
    step = model_step(problem, BEAMS)
    step()
    return float(np.median([timed(step)[1] for _ in range(repeats)]))


def measure_constraint(items: int, level_sizes: Sequence[int], repeats: int) -> dict[str, Any]:
    """Seconds that each constraint adds to a step, with 95 % intervals.

    Returns:
      {items, level_sizes, baseline: seconds a step without constraint, added: {method: {seconds, low, high}}}
    """
    codes_NC = generated_codes(items, level_sizes)
    problem = small_problem(codes_NC, level_sizes)
    free = search_under(problem, Unconstrained(), BEAMS)
    pairs = {
        "ours": lambda: search_pair(problem, BEAMS),
        "STATIC": lambda: (search_under(problem, SparseTransitions.build(codes_NC, level_sizes), BEAMS), free),
    }
    if items <= HOST_LIMIT:
        pairs["host trie"] = lambda: (search_on_host(problem, HostTrie(codes_NC, level_sizes), BEAMS), free)
    added = {}
    steps = len(level_sizes)
    baseline = {}
    for name, make in pairs.items():
        bound, unbound = make()
        difference, (low, high), without = paired_difference(bound, unbound, repeats)
        added[name] = {"seconds": difference / steps, "low": low / steps, "high": high / steps}
        baseline[name] = without / steps
    return {"items": items, "level_sizes": list(level_sizes), "baseline": baseline, "added": added}


@dataclasses.dataclass(frozen=True)
class Grid:
    """What the part measures."""

    items: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    repeats: int

    def cells(self) -> list[tuple[int, tuple[int, ...]]]:
        """(items, level sizes) that fit together."""
        return [(items, sizes) for sizes in self.shapes for items in self.items if fits(items, sizes)]


def measure_builds(grid: Grid, progress: Callable[[str], None]) -> list[dict[str, Any]]:
    """Build times and memory of every index at every size."""
    found = []
    for items, sizes in grid.cells():
        for method in ("ours", "STATIC", "host"):
            if method == "host" and items > HOST_LIMIT:
                continue
            facts = measure_apart(method, items, sizes)
            progress(f"index of {items} items, {sizes}, {method}: {facts['seconds']:.2f} s, {facts['final_mb']:.0f} MB")
            found.append({"method": method, "items": items, "level_sizes": list(sizes), **facts})
    return found
