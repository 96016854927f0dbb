"""The part `decode`: our search beside Hugging Face's models on torch, at one shape, type, context, batch and width."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from benchmarks.decoding.comparison import OURS
from benchmarks.decoding.floor import fed_beams, floor_of
from benchmarks.decoding.ours import ours
from benchmarks.decoding.parity import compare
from benchmarks.decoding.problem import Lists, Method, Problem
from benchmarks.decoding.timing import Timing, take_turns, timed
from benchmarks.device.shapes import decoding_problem, random_decoder
from benchmarks.device.torch_copy import free_bytes, torch_copy, why_no_torch
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.planning.accounting import parameter_count

EXPERT, GENERATE = "expert HF", "generate"
ROOM = 0.8  # of the free memory that a peer may need by our count of it


def measure(request: Mapping[str, Any]) -> dict[str, Any]:
    """JSON facts of a cell.

    Args:
      request: `shape`, `dtype`, `context`, `batch`, `beams`; `repeats` and `seconds` of each method; `rates`, what
        the part `facts` found or None; `peers`, whether torch is compared with.

    Returns:
      `systems`, {method: first and median seconds and requests a second, or why it did not run}; `floor`; `parity`.
    """
    # float32 products as such, as torch computes them by default.
    with jax.default_matmul_precision("highest" if request["dtype"] == "float32" else "default"):
        return _measure(request)


def _measure(request: Mapping[str, Any]) -> dict[str, Any]:
    model = _model(request["shape"], request["dtype"])
    problem = decoding_problem(request["shape"], model, request["context"], request["batch"])
    beams, batch = request["beams"], request["batch"]
    methods: dict[str, Method] = {OURS: ours(problem, beams)}
    first, _, result = timed(methods[OURS])
    failed = {}
    for name in (EXPERT, GENERATE) if request["peers"] else ():
        try:
            methods[name] = _peer(name, problem, beams, request["dtype"])
        except Exception as error:
            failed[name] = {"why": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    timings, lists = take_turns(methods, request["repeats"], request["seconds"], ready=(OURS, *methods))
    systems = {name: _speed(timing, batch) for name, timing in timings.items()} | failed
    systems[OURS]["first_seconds"] = first
    floor = floor_seconds(problem, beams, request["dtype"], request["rates"])
    return {
        "systems": systems,
        "floor": floor,
        "floor_share": floor["seconds"] / systems[OURS]["seconds"] if floor else None,
        "ratios": {n: systems[n]["seconds"] / systems[OURS]["seconds"] for n in timings if n != OURS},
        "parity": {n: agreement(result, found) for n, found in lists.items() if n != OURS},
    }


@functools.lru_cache(maxsize=1)
def _model(shape: str, dtype: str):
    return random_decoder(shape, dtype, dtype)


@functools.lru_cache(maxsize=1)
def _torch_model(shape: str, dtype: str):
    return torch_copy(_model(shape, dtype), dtype)


def _peer(name: str, problem: Problem, beams: int, dtype: str) -> Method:
    """A method on torch that has run once.

    Raises:
      MemoryError: it would not fit, by its keys and values alone.
    """
    why = why_no_torch()
    if why:
        raise RuntimeError(why)
    from benchmarks.decoding.torch_peers import as_shipped, expert

    peer = _torch_model(problem.name, dtype)
    needed, free = cache_bytes(problem, beams, dtype), free_bytes()
    if needed > ROOM * free:
        raise MemoryError(f"keys and values of all beams take {needed / 2**30:.0f} GiB of {free / 2**30:.0f} free")
    method = {EXPERT: expert, GENERATE: as_shipped}[name](problem, peer, beams)
    method()
    return method


def cache_bytes(problem: Problem, beams: int, dtype: str) -> int:
    """Keys and values that a search holds which repeats the prompts for the beams, as both peers do."""
    config = problem.model.config
    tokens = sum(map(len, problem.prompts)) * beams
    return tokens * kv_bytes(config, dtype)


def kv_bytes(config: ModelConfig, dtype: str) -> int:
    """Keys and values of one token in all layers."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * _size(dtype)


def _size(dtype: str) -> int:
    return {"float32": 4, "bfloat16": 2}[dtype]


def _speed(timing: Timing, batch: int) -> dict[str, float]:
    seconds = timing.median
    return {"seconds": seconds, "requests_per_second": batch / seconds, "runs": len(timing.wall)}


def floor_seconds(problem: Problem, beams: int, dtype: str, rates: Mapping[str, Any] | None) -> dict[str, float] | None:
    """The time below which no exact search comes on this device: that of its operations or of its bytes, the larger.

    Bytes: every pass over the model (the prompt and all steps but the last token's) reads its weights, the table of
    the scores among them; each request's keys and values are written once and read in each step. None without `rates`.
    """
    if rates is None:
        return None
    config, passes = problem.model.config, problem.num_levels
    weights = passes * parameter_count(config) * _size(dtype)
    caches = sum(map(len, problem.prompts)) * kv_bytes(config, dtype) * (1 + len(fed_beams(problem, beams)))
    operations = floor_of(problem, beams).total / rates["product_rates"][dtype]
    moved = (weights + caches) / rates["copy_bandwidth"]
    return {"seconds": max(operations, moved), "operations_seconds": operations, "bytes_seconds": moved}


def agreement(mine: Lists, theirs: Lists) -> dict[str, float]:
    """`Parity`, and the share of the SIDs of their lists that ours hold too (`overlap`)."""
    shares = []
    for codes_WC, scores_W, wanted_WC, wanted_W in zip(
        mine.codes_BWC, mine.scores_BW, theirs.codes_BWC, theirs.scores_BW, strict=True
    ):
        found = set(map(tuple, codes_WC[np.isfinite(scores_W)].tolist()))
        wanted = set(map(tuple, wanted_WC[np.isfinite(wanted_W)].tolist()))
        shares.append(len(found & wanted) / max(1, len(wanted)))
    return {**dataclasses.asdict(compare(mine, theirs)), "overlap": float(np.mean(shares))}
