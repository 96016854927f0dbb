"""One cell of the table: a model with random weights, a step of packed rows, its compilation, time and memory."""

from __future__ import annotations

import ctypes
import dataclasses
import pathlib
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tsrec_jax.models.adapter import make_adapter
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.layers import parameter_shapes
from tsrec_jax.models.settings import AdapterSettings
from tsrec_jax.planning.accounting import StepShape, flops_utilisation, step_flops, step_memory
from tsrec_jax.planning.chips import chip_of
from tsrec_jax.training.loop import put_batch
from tsrec_jax.training.loss import SftLoss
from tsrec_jax.training.meter import peak_memory
from tsrec_jax.training.settings import TrainSettings
from tsrec_jax.training.step import (
    TrainState,
    Update,
    init_state,
    learning_rate_schedule,
    make_optimiser,
    make_step,
    split_model,
)

EXAMPLE = 64  # tokens of each packed example


@dataclasses.dataclass(frozen=True)
class Cell:
    """A model's shape (as in a `config.json`), the shape of its step, and the steps that are timed."""

    model: dict[str, Any]
    step: StepShape
    repeats: int = 3

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Cell:
        """The cell that `dataclasses.asdict` turned into JSON values."""
        step, adapter = facts["step"], facts["step"]["adapter"]
        adapter = AdapterSettings(**{**adapter, "targets": tuple(adapter["targets"])})
        return cls(facts["model"], StepShape(**{**step, "adapter": adapter}), facts["repeats"])


def abstract_step(config: ModelConfig, step: StepShape) -> tuple[Update, TrainState, dict[str, jax.ShapeDtypeStruct]]:
    """The step function of a shape on one device, and its arguments as shapes: nothing is allocated."""
    transform = make_optimiser(_settings(step))

    def build() -> TrainState:
        kept = step.dtype if step.freeze == "trunk" else "float32"
        weights = {name: jnp.zeros(shape, kept) for name, (shape, _) in parameter_shapes(config).items()}
        model = Decoder(config, dtype=step.dtype, remat=step.remat, weights=weights)
        if step.adapter.rank:
            model.adapter = nnx.data(make_adapter(config, step.adapter, 0))
        graphdef, trained, frozen, first_row = split_model(model, step.freeze, config.vocab_rows - step.new_rows)
        return TrainState(jnp.zeros((), jnp.int32), trained, frozen, transform.init(trained), graphdef, first_row)

    state = jax.tree.map(_on_one_device, jax.eval_shape(build))
    loss, schedule = SftLoss({"text": 1.0}, _settings(step)), learning_rate_schedule(_settings(step))
    batch = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in packed_batch(config, step).items()}
    return make_step(state, loss, transform, schedule).update, state, batch


def _on_one_device(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _settings(step: StepShape) -> TrainSettings:
    return TrainSettings(
        learning_rate=1e-4,
        warmup_steps=2,
        max_steps=100,
        freeze=step.freeze,
        adapter=step.adapter,
        moments=step.moments,
        loss_chunk=step.loss_chunk,
    )


def packed_batch(config: ModelConfig, step: StepShape, seed: int = 0) -> dict[str, np.ndarray]:
    """Full rows of examples of EXAMPLE tokens with random ids and evenly spread loss slots."""
    rng = np.random.default_rng(seed)
    rows = (step.accumulation, step.rows, step.sequence_length)
    slots = (step.accumulation, step.groups, step.loss_slots)
    places = np.arange(step.sequence_length, dtype=np.int32)
    spread = np.linspace(0, step.rows_per_group * step.sequence_length - 1, step.loss_slots)
    return {
        "tokens_BT": rng.integers(0, config.vocab_rows, rows, np.int32),
        "segment_ids_BT": np.broadcast_to(places // EXAMPLE + 1, rows),
        "positions_BT": np.broadcast_to(places % EXAMPLE, rows),
        "loss_index_GP": np.broadcast_to(spread.astype(np.int32), slots),
        "loss_target_GP": rng.integers(0, config.vocab_rows, slots, np.int32),
        "loss_task_GP": np.zeros(slots, np.int32),
    }


def measure(cell: Cell) -> dict[str, float]:
    """Compiles and runs the step in this process, which should do nothing else.

    Returns:
      `compile_seconds` (tracing included), `step_seconds` (median), `tokens_per_second`, `estimated_bytes`,
      `peak_bytes`: on an accelerator the device's own count, else what the process grew by while it trained; and `mfu`
      where the chip is known.
    """
    config, step = ModelConfig.from_hf(cell.model), cell.step
    step_fn, abstract_state, abstract_batch = abstract_step(config, step)
    started = time.perf_counter()
    compiled = step_fn.lower(abstract_state, abstract_batch).compile()
    compile_seconds = time.perf_counter() - started
    before = _fresh_peak()
    model = Decoder(config, dtype=step.dtype, remat=step.remat, rngs=nnx.Rngs(0))
    state = init_state(model, make_optimiser(_settings(step)), step.freeze, config.vocab_rows - step.new_rows)
    state = dataclasses.replace(state, graphdef=abstract_state.graphdef)
    del model
    batch = put_batch(packed_batch(config, step), None)
    seconds = []
    for _ in range(1 + cell.repeats):
        started = time.perf_counter()
        state, metrics = compiled(state, batch)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - started)
    duration = statistics.median(seconds[1:])
    peak = peak_memory()
    facts = {
        "compile_seconds": compile_seconds,
        "step_seconds": duration,
        "tokens_per_second": step.token_slots / duration,
        "estimated_bytes": step_memory(config, step).total,
        "peak_bytes": _status("VmHWM") - before if peak is None else peak,
    }
    chip = chip_of(jax.devices()[0].device_kind)
    if chip is not None:
        facts["mfu"] = flops_utilisation(step_flops(config, step).model, duration, 1, chip.tflops)
    return facts


def _fresh_peak() -> int:
    """Gives back what the compiler held, sets the process's peak to what it holds now, and returns that in bytes."""
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(key: str) -> int:
    """A memory figure of this process in bytes."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) * 1024
