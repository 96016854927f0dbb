"""The part `train`: steps of our training, or of transformers' on torch, at one shape in bfloat16."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks.device.mix import Mix, training_mix
from benchmarks.device.shapes import SHAPES, random_decoder
from benchmarks.device.torch_copy import torch_copy, torch_device, why_no_torch
from benchmarks.training.problem import CLIP_NORM, HORIZON, LEARNING_RATE, WARMUP
from tsrec_jax.data.input import choose_loss_slots, train_batches
from tsrec_jax.data.tasks.task import Example
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.planning.accounting import MeshShape, StepShape, flops_utilisation, step_flops, step_memory
from tsrec_jax.planning.chips import GIB, chip_of
from tsrec_jax.training.host_memory import forget_peak, peak_bytes
from tsrec_jax.training.loop import put_batch
from tsrec_jax.training.loss import SftLoss
from tsrec_jax.training.meter import peak_memory
from tsrec_jax.training.settings import TrainSettings
from tsrec_jax.training.step import first_step_and_state

OURS, PEER = "ours", "transformers"
ROOM = 0.85  # of the device's memory that the planner's estimate may fill
WARM = 2  # steps that are not counted
SEED = 42


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Token slots of a packed row, rows that share their loss slots, loss slots whose logits exist at one time."""

    length: int = 512
    group: int = 4
    chunk: int = 128


TINY_SIZES = Sizes(64, 1, 8)


def measure(request: Mapping[str, Any]) -> dict[str, Any]:
    """JSON facts of a cell, in a process that has trained nothing yet: the device counts one peak.

    Args:
      request: `shape`; `system`, OURS or PEER; `examples` of a step, 0 for a large one (`choose_step`); `seconds` of
        timed steps; `data`, a dataset folder or empty; `kept`, as in `training_mix`; `tiny`.
    """
    words, _ = SHAPES[request["shape"]]
    mix = training_mix(request["data"], words, request["tiny"], pathlib.Path(request["kept"]))
    facts = (_ours if request["system"] == OURS else _peer)(request, mix)
    return {"mix": mix.source, "seed": SEED, **facts}


def _ours(request: Mapping[str, Any], mix: Mix) -> dict[str, Any]:
    sizes = TINY_SIZES if request["tiny"] else Sizes()
    words, config = SHAPES[request["shape"]]
    rates = dict.fromkeys(mix.examples, 1.0)
    slots = choose_loss_slots(mix.examples, rates, sizes.length, sizes.group)
    step = choose_step(config, sizes, slots, mix.examples, request["examples"], memory_bytes())
    model = random_decoder(request["shape"], "bfloat16", "float32", remat=step.remat)
    step = dataclasses.replace(step, attention=model.attention)  # a kernel keeps no scores, which the estimate knows
    settings = TrainSettings(
        learning_rate=LEARNING_RATE,
        warmup_steps=WARMUP,
        max_steps=HORIZON,
        clip_norm=CLIP_NORM,
        loss_chunk=step.loss_chunk,
    )
    loss = SftLoss(dict.fromkeys(rates, 1.0), settings)
    train_step, state = first_step_and_state(model, loss, settings, words)
    del model
    batches = train_batches(
        mix.examples,
        rates=rates,
        sequence_length=sizes.length,
        rows=step.rows,
        loss_slots=slots,
        accumulation=1,
        seed=SEED,
        group=sizes.group,
    )
    with contextlib.closing(batches.from_step(0)) as iterator:
        batch = put_batch(next(iterator), None)
        started = time.perf_counter()
        compiled = train_step.update.lower(state, batch).compile()
        compile_seconds = time.perf_counter() - started
        forget_peak()
        seen: list[dict[str, float]] = []
        began = 0.0
        while len(seen) < WARM + 3 or time.perf_counter() - began < request["seconds"]:
            if len(seen) == WARM:
                began = time.perf_counter()
            started = time.perf_counter()
            state, metrics = compiled(state, batch)
            batch = put_batch(next(iterator), None)  # while the device works
            values = {name: float(metrics[name]) for name in ("loss", "tokens", "examples", "padding_share")}
            seen.append({**values, "seconds": time.perf_counter() - started})
    counted = seen[WARM:]
    seconds = statistics.median(row["seconds"] for row in counted)
    chip = chip_of(jax.devices()[0].device_kind)
    flops = step_flops(config, step)
    device_peak = peak_memory()
    return {
        **_speed(counted),
        "step": dataclasses.asdict(step),
        "compile_seconds": compile_seconds,
        "model_flops": flops.model,
        "hardware_flops": flops.hardware,
        "mfu": None if chip is None else flops_utilisation(flops.model, seconds, 1, chip.tflops),
        "peak_bytes": peak_bytes() if device_peak is None else device_peak,
        "peak_of": "process" if device_peak is None else "device",
        "estimated_bytes": step_memory(config, step).total,
        "first_loss": seen[0]["loss"],
        "last_loss": seen[-1]["loss"],
    }


def choose_step(
    config: ModelConfig,
    sizes: Sizes,
    slots: int,
    examples: Mapping[str, Sequence[Example]],
    wanted: int,
    memory: float,
) -> StepShape:
    """The step that holds about `wanted` examples, or for 0 the largest one, by the planner's estimate.

    Layers are recomputed only where it does not fit otherwise, of the large ones where not even 16 rows do.
    """
    mean = mean_tokens(examples)

    def shape(rows: int, remat: bool) -> StepShape:
        return StepShape(
            rows=rows,
            sequence_length=sizes.length,
            loss_slots=slots,
            loss_chunk=min(sizes.chunk, slots),
            dtype="bfloat16",
            remat=remat,
            rows_per_group=sizes.group,
        )

    if wanted:
        rows = max(1, round(wanted * mean / (0.98 * sizes.length * sizes.group))) * sizes.group
        candidates = [shape(rows, False), shape(rows, True)]
    else:
        candidates = [shape(rows, False) for rows in (64, 32, 16)] + [shape(rows, True) for rows in (64, 32, 16, 8, 4)]
    fitting = [each for each in candidates if step_memory(config, each, MeshShape()).total <= ROOM * memory]
    return fitting[0] if fitting else candidates[-1]


def mean_tokens(examples: Mapping[str, Sequence[Example]]) -> float:
    """Of an example."""
    return float(np.mean([len(row.tokens) for part in examples.values() for row in part]))


def memory_bytes() -> float:
    """Of the device; of a CPU a chip's."""
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    return float(limit or 79 * GIB)


def _peer(request: Mapping[str, Any], mix: Mix) -> dict[str, Any]:
    """transformers with the requested examples per step, halved until the device can hold them."""
    why = why_no_torch()
    if why:
        raise RuntimeError(why)
    import torch

    from benchmarks.training import torch_peer

    # Made on JAX's side, and let go of there before torch trains.
    model = torch_copy(random_decoder(request["shape"], "bfloat16", "bfloat16"), "bfloat16").train()
    jax.clear_caches()
    rows = request["examples"]
    on_gpu = torch_device() == "cuda"
    while True:
        try:
            if on_gpu:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            forget_peak()
            step = torch_peer.make_step(mix.examples, model, rows, by_length=True)
            counted = _timed_steps(step, request["seconds"], mean_tokens(mix.examples))
            break
        except torch.OutOfMemoryError:
            model.zero_grad(set_to_none=True)
            step = None
            if rows == 1:
                raise
            rows //= 2
    return {
        **_speed(counted),
        "asked_examples": request["examples"],
        "examples": rows,
        "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else peak_bytes(),
        "peak_of": "device" if on_gpu else "process",
    }


def _timed_steps(step: Any, seconds: float, tokens: float) -> list[dict[str, float]]:
    """Steps of the peer, whose rows have so many useful tokens on average."""
    seen: list[dict[str, float]] = []
    began = 0.0
    while len(seen) < WARM + 3 or time.perf_counter() - began < seconds:
        if len(seen) == WARM:
            began = time.perf_counter()
        started = time.perf_counter()
        _, examples, _ = step()
        seen.append({"examples": examples, "tokens": examples * tokens, "seconds": time.perf_counter() - started})
    return seen[WARM:]


def _speed(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Rows and useful tokens a second over all counted steps, and the median step."""
    total = sum(step["seconds"] for step in steps)
    return {
        "step_seconds": statistics.median(step["seconds"] for step in steps),
        "rows_per_second": sum(step["examples"] for step in steps) / total,
        "tokens_per_second": sum(step["tokens"] for step in steps) / total,
        "steps": len(steps),
    }
