"""Latency against beams and against catalogue size, on the body of the tiny case."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.decoding.builds import generated_codes
from benchmarks.decoding.cases import generated_problem, qwen2_config
from benchmarks.decoding.comparison import OURS, TORCH, methods_of
from benchmarks.decoding.constraint import HOST_LIMIT
from benchmarks.decoding.constraints import SparseTransitions
from benchmarks.decoding.ours import ours
from benchmarks.decoding.pluggable_search import HostTrie, search_on_host, search_under
from benchmarks.decoding.problem import Problem
from benchmarks.decoding.timing import take_turns

BEAMS = (10, 20, 50, 100, 200, 512)
ITEMS = (1_000, 10_000, 100_000, 1_000_000, 20_000_000)
SIZES = (256, 256, 256, 256)
CACHE_LIMIT = 4e9  # bytes that a peer's repeated cache may take
SHIPPED_BEAMS = 50  # above, `generate` as shipped takes minutes a batch
CATALOGUE_BEAMS = 20


def repeated_cache_bytes(problem: Problem, beams: int) -> float:
    """float32 keys and values of every beam's own copy of the prompt, and the copy that a reordering makes."""
    config = problem.model.config
    slots = sum(len(prompt) + problem.num_levels for prompt in problem.prompts)
    return 2.0 * 4 * 2 * config.num_layers * config.num_kv_heads * config.head_dim * slots * beams


def over_beams(
    problem: Problem, beams: int, *, repeats: int, seconds: float, progress: Callable[[str], None]
) -> dict[str, Any]:
    """{beams, medians: {method: seconds}}; peers whose cache would not fit are left out."""
    if repeated_cache_bytes(problem, beams) > CACHE_LIMIT:
        timings, _ = take_turns({OURS: ours(problem, beams)}, repeats, seconds, progress)
    else:
        with methods_of(problem, beams, slowest=beams <= SHIPPED_BEAMS) as methods:
            timings, _ = take_turns(methods, repeats, seconds, progress, ready=TORCH)
    return {"beams": beams, "medians": {name: timing.median for name, timing in timings.items()}}


def over_items(items: int, *, repeats: int, seconds: float, progress: Callable[[str], None]) -> dict[str, Any]:
    """{items, medians: {method: seconds}} of one search over a catalogue of four levels."""
    config = qwen2_config(20000 + sum(SIZES), 256, 688, 4, 4, 2)
    body = generated_problem(
        f"{items} items",
        config,
        first_id=20000,
        level_sizes=SIZES[:2],
        items=2,
        batch=8,
        length=150,
        shared=0,
        num_tokens=config.vocab_rows,
    )
    codes_NC = generated_codes(items, SIZES)
    problem = dataclasses.replace(body, codes_NC=codes_NC, level_sizes=SIZES)
    matrix = SparseTransitions.build(codes_NC, SIZES)
    methods = {OURS: ours(problem, CATALOGUE_BEAMS), "STATIC": search_under(problem, matrix, CATALOGUE_BEAMS)}
    if items <= HOST_LIMIT:
        methods["host trie"] = search_on_host(problem, HostTrie(codes_NC, SIZES), CATALOGUE_BEAMS)
    timings, results = take_turns(methods, repeats, seconds, progress)
    same = all(np.array_equal(results[OURS].codes_BWC, found.codes_BWC) for found in results.values())
    if not same:
        progress(f"{items} items: the methods' lists differ somewhere (near ties may)")
    return {"items": items, "medians": {name: timing.median for name, timing in timings.items()}, "same": same}


def named(values: list[dict[str, Any]]) -> list[str]:
    """Every method that some point has, in the order of their first appearance."""
    return list(dict.fromkeys(itertools.chain.from_iterable(value["medians"] for value in values)))
