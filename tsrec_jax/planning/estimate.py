"""What a training takes, in words: printed before it begins, and likewise by the verb `plan`."""

from __future__ import annotations

import dataclasses

from tsrec_jax.models.settings import AdapterSettings, ModelSettings, SidInitSettings
from tsrec_jax.planning.accounting import (
    DenseShape,
    StepShape,
    parameter_count,
    step_flops,
    trained_count,
)
from tsrec_jax.planning.chips import GIB
from tsrec_jax.planning.feasibility import Setup
from tsrec_jax.planning.second_stage import SecondStageShape
from tsrec_jax.training.settings import TrainSettings

ADAPTER_RANK = 16  # the rank to plan with if the settings have none
FLOP_UNITS = (("P", 1e15), ("T", 1e12), ("G", 1e9))


def step_shape(
    settings: TrainSettings,
    model: ModelSettings,
    sid_init: SidInitSettings,
    loss_slots: int,
    new_rows: int,
    sid_tokens: int,
    attention: str = "xla",
    dense: DenseShape | None = None,
) -> StepShape:
    """An optimiser step of these settings; the other arguments as in `StepShape`."""
    return StepShape(
        rows=settings.rows_per_microbatch,
        sequence_length=settings.sequence_length,
        loss_slots=loss_slots,
        accumulation=settings.accumulation,
        loss_chunk=settings.loss_chunk,
        freeze=settings.freeze,
        adapter=settings.adapter,
        moments=settings.moments,
        new_rows=new_rows,
        dtype=model.dtype,
        remat=model.remat,
        rows_per_group=settings.rows_per_group,
        sid_tokens=sid_tokens,
        attention=attention,
        dense=dense,
        scaled=sid_init.head == "scaled",
    )


def estimate_lines(model_path: str, setup: Setup) -> list[str]:
    """What a training consists of, in lines for people."""
    model, step, mesh, memory = setup.model, setup.step, setup.mesh, setup.memory()
    more = 0 if step.dense is None else step.dense.parameters(model.d_model)
    total, trained = parameter_count(model) + more, trained_count(model, step) + more
    flops = step_flops(model, step)
    held = ", ".join(
        f"{name} {_bytes(value)}" for name, value in dataclasses.asdict(memory).items() if value >= memory.total / 200
    )
    return [
        f"{model_path or 'the embedded model'}, {model.num_layers} layers, {model.vocab_rows:,} table rows, "
        f"{step.dtype}: {total:,} parameters, {'all' if step.freeze == 'none' else f'{trained:,}'} trained",
        f"mesh data {mesh.data} x fsdp {mesh.fsdp} x tensor {mesh.tensor} = {mesh.devices} device(s)",
        f"a step: {step.token_slots:,} token slots ({step.accumulation} x {step.rows} rows of {step.sequence_length}), "
        f"{step.accumulation * step.groups * step.loss_slots:,} loss slots, "
        f"{_flops(flops.model)}, and {_flops(flops.recomputed)} computed twice",
        f"memory of a device: {_bytes(memory.total)} ({held})",
    ]


def memory_by_trained(setup: Setup) -> list[tuple[str, str, str]]:
    """A header and a line for each choice of what trains: its name, its parameters, and the memory that a device needs.

    An adapter has the rank of the setup or, if that has none, ADAPTER_RANK.
    """
    step, rank = setup.step, setup.step.adapter.rank or ADAPTER_RANK
    adapter = dataclasses.replace(step.adapter, rank=rank)
    rows = [("what trains", "parameters", "memory of a device")]
    for name, changes in (
        ("all", {"freeze": "none"}),
        ("all, moments in bfloat16", {"freeze": "none", "moments": "bfloat16"}),
        ("SID rows", {"freeze": "trunk"}),
        (f"SID rows, adapters of rank {rank}", {"freeze": "trunk", "adapter": adapter}),
    ):
        plain = dataclasses.replace(step, adapter=AdapterSettings(), moments="float32")
        other = dataclasses.replace(setup, step=dataclasses.replace(plain, **changes))
        rows.append((name, f"{trained_count(setup.model, other.step):,}", _bytes(other.memory().total)))
    return rows


def second_stage_line(setup: Setup, stage: SecondStageShape) -> str:
    """What a step of the second stage computes, and what a device then holds, in a line for people."""
    wanted, model = stage.settings, setup.model
    return (
        f"the second stage: a step of {wanted.prompts} prompts of at most {stage.length} tokens with "
        f"{wanted.candidates} candidates each, {_flops(stage.flops(model))}; memory of a device: "
        f"{_bytes(stage.memory(model, setup.mesh))}, of it the starting model "
        f"{_bytes(stage.reference_bytes(model, setup.mesh))}"
    )


def _flops(value: float) -> str:
    return next(f"{value / unit:.3g} {name}FLOP" for name, unit in FLOP_UNITS if value >= unit or unit == 1e9)


def _bytes(value: float) -> str:
    return f"{value / GIB:.2f} GiB" if value >= 0.1 * GIB else f"{value / 2**20:.1f} MiB"
