"""Whether a training can run on a mesh of certain chips, and what to change if it cannot."""

from __future__ import annotations

import dataclasses
import math

from jax.sharding import AbstractMesh

from tsrec_jax.errors import UserError
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.layers import parameter_shapes
from tsrec_jax.models.sharding import MESH_AXES, check_fits, parts_of
from tsrec_jax.models.vocabulary import table_rows
from tsrec_jax.planning.accounting import MeshShape, StepMemory, StepShape, step_memory
from tsrec_jax.planning.chips import GIB, Chip
from tsrec_jax.planning.second_stage import SecondStageShape
from tsrec_jax.rl.names import OBJECTIVES

USABLE = 0.9  # of a chip's memory: the estimate may be short, and the runtime keeps some for itself


@dataclasses.dataclass(frozen=True)
class Setup:
    """A model, its step and its mesh.

    Attributes:
      base: shape of the pretrained model.
      num_tokens: number of ids in use, the SID tokens included.
      step: shape of an optimiser step.
      mesh: number of devices along each axis.
    """

    base: ModelConfig
    num_tokens: int
    step: StepShape
    mesh: MeshShape

    @property
    def model(self) -> ModelConfig:
        """The model's shape, with the extended table padded for the mesh."""
        parts = parts_of(self.abstract_mesh, "vocabulary")
        return dataclasses.replace(self.base, vocab_rows=table_rows(self.base.vocab_rows, self.num_tokens, parts))

    @property
    def abstract_mesh(self) -> AbstractMesh:
        """The mesh as a JAX mesh without devices."""
        return AbstractMesh(dataclasses.astuple(self.mesh), MESH_AXES)

    @property
    def row_unit(self) -> int:
        """The rows of a micro-batch must be a multiple of this, to make whole groups on every device."""
        return self.step.rows_per_group * parts_of(self.abstract_mesh, "batch")

    def memory(self) -> StepMemory:
        """The memory of one device."""
        return step_memory(self.model, self.step, self.mesh)

    def fits(self, chip: Chip, stage: SecondStageShape | None = None) -> bool:
        """Whether a device holds a step, and one of the second stage if there is one."""
        second = 0.0 if stage is None else stage.memory(self.model, self.mesh)
        return max(self.memory().total, second) <= USABLE * chip.memory_gib * GIB


def mesh_faults(setup: Setup) -> str:
    """What the mesh does not divide, in words; empty if it divides everything."""
    faults = []
    try:
        check_fits(parameter_shapes(setup.model), setup.abstract_mesh)
    except UserError as error:
        faults.append(str(error).removesuffix("; choose smaller mesh axes"))
    if setup.step.rows % setup.row_unit:
        rows = setup.step.rows_per_group
        parts = f"rows_per_group x data x fsdp = {rows} x {setup.row_unit // rows}"
        faults.append(f"{setup.step.rows} rows of a micro-batch do not divide over {parts}")
    return "; ".join(faults)


def refuse_mesh(setup: Setup) -> None:
    """Refuses a mesh that does not divide the model or the batch.

    Raises:
      UserError: names every axis that does not divide, and the nearest mesh or batch that works.
    """
    faults = mesh_faults(setup)
    if not faults:
        return
    ways = [_in_words(mesh) for mesh in _nearest_meshes(setup)[:1]]
    rows = max(round(setup.step.rows / setup.row_unit), 1) * setup.row_unit
    if not mesh_faults(dataclasses.replace(setup, step=dataclasses.replace(setup.step, rows=rows))):
        tokens = setup.step.accumulation * rows * setup.step.sequence_length
        ways.append(f"config.train.batch_tokens={tokens}")
    if not ways:
        ways = ["fewer devices: no mesh of as many divides this model and batch"]
    raise UserError(f"{faults}; use {' or '.join(ways)}")


def refuse_memory(setup: Setup, chip: Chip, stage: SecondStageShape | None = None) -> None:
    """Refuses what a chip cannot hold: a step of training, or one of the second stage if there is one.

    Raises:
      UserError: says how much memory it would take, and which settings lower it.
    """
    if setup.fits(chip, stage):
        return
    if stage is not None and setup.fits(chip):
        more = stage.settings.kl and not OBJECTIVES[stage.settings.objective].reference
        raise UserError(
            f"a step of the second stage {_too_much(stage.memory(setup.model, setup.mesh), chip)}: more devices along "
            "config.mesh.fsdp, a higher config.rl.accumulation, "
            f"{'config.rl.kl=0, ' if more else ''}or a smaller config.rl.group or config.rl.teacher_items"
        )
    ways = ["more devices along config.mesh.fsdp", "a higher config.train.accumulation"]
    if not setup.step.loss_chunk:
        ways.append("config.train.loss_chunk=32")
    if not setup.step.remat:
        ways.append("config.model.remat=True")
    if setup.step.freeze == "none":
        ways.append("config.train.freeze=trunk with config.train.adapter.rank=16")
    raise UserError(
        f"a step {_too_much(setup.memory().total, chip)}: {', '.join(ways)}, a shorter "
        "config.train.sequence_length, or a smaller model"
    )


def _too_much(needed: float, chip: Chip) -> str:
    return (
        f"needs about {needed / GIB:.1f} GiB on each device, and {USABLE:.0%} of a {chip.name} are "
        f"{USABLE * chip.memory_gib:.1f} GiB; what needs less"
    )


def _nearest_meshes(setup: Setup) -> list[MeshShape]:
    """Meshes of the same number of devices that divide model and batch, those most like the requested one first."""
    devices, wanted = setup.mesh.devices, setup.mesh
    sizes = [size for size in range(1, devices + 1) if devices % size == 0]
    meshes = [
        MeshShape(devices // (fsdp * tensor), fsdp, tensor)
        for tensor in sizes
        for fsdp in sizes
        if devices % (fsdp * tensor) == 0
    ]

    def distance(mesh: MeshShape) -> float:
        pairs = zip(dataclasses.astuple(mesh), dataclasses.astuple(wanted), strict=True)
        return sum(abs(math.log2(ours / theirs)) for ours, theirs in pairs)

    return sorted((m for m in meshes if not mesh_faults(dataclasses.replace(setup, mesh=m))), key=distance)


def _in_words(mesh: MeshShape) -> str:
    return f"config.mesh.data={mesh.data} config.mesh.fsdp={mesh.fsdp} config.mesh.tensor={mesh.tensor}"
