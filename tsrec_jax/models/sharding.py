"""Logical axes of parameters and activations, and the mesh axes that they lie on."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from tsrec_jax.errors import UserError

MESH_AXES = ("data", "fsdp", "tensor")


@dataclasses.dataclass(frozen=True)
class ShardingRules:
    """Mesh axes (or None) of every logical axis. A mesh axis may occur only once in one array's spec."""

    batch: tuple[str, ...] | None = ("data", "fsdp")
    vocabulary: tuple[str, ...] | None = ("fsdp", "tensor")  # rows of the tables, whole: each is looked up in one place
    embed: str | None = "fsdp"  # the model axis of the layers' parameters
    heads: str | None = "tensor"
    mlp: str | None = "tensor"
    scored: tuple[str, ...] | None = ("data",)  # the batch when it meets a table's rows, which lie over fsdp too

    def spec(self, *logical: str | None) -> PartitionSpec:
        """The partition spec of an array whose axes have these logical names (None: not split)."""
        return jax.P(*(None if name is None else getattr(self, name) for name in logical))


RULES = ShardingRules()


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """A (data, fsdp, tensor) mesh over all devices; one size may be -1 and takes what the others leave.

    The axes are of type Auto: the compiler places what the rules leave open.
    """
    sizes = [data, fsdp, tensor]
    if -1 in sizes:
        known = 1
        for size in sizes:
            known *= size if size != -1 else 1
        sizes[sizes.index(-1)] = jax.device_count() // known
    return jax.make_mesh(tuple(sizes), MESH_AXES, axis_types=(AxisType.Auto,) * 3)


@contextlib.contextmanager
def one_device() -> Iterator[None]:
    """What runs inside runs only on the first local device, whatever mesh is set outside.

    For small work whose result must not depend on how many devices there are.
    """
    device = np.array(jax.local_devices()[:1]).reshape(1, 1, 1)
    with jax.set_mesh(Mesh(device, MESH_AXES, axis_types=(AxisType.Auto,) * 3)):
        yield


def constrain(x: jax.Array, *logical: str | None) -> jax.Array:
    """Asks for the sharding of the rules inside jit; does nothing if no mesh is set."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, RULES.spec(*logical))


def mesh_of(tree: Any) -> Mesh | None:
    """The mesh that a tree of arrays lies on; None on one device."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf.sharding, NamedSharding) and isinstance(leaf.sharding.mesh, Mesh):
            return leaf.sharding.mesh
    return None


def named_sharding(mesh: Mesh | None, *logical: str | None) -> NamedSharding | None:
    """The rules' sharding on a mesh; None without one."""
    return None if mesh is None else NamedSharding(mesh, RULES.spec(*logical))


def laid_out(array: np.ndarray, mesh: Mesh | None, *logical: str | None) -> jax.Array:
    """An array that every process has, laid out on the mesh by the rules; on one device without a mesh."""
    sharding = named_sharding(mesh, *logical)
    if sharding is None:
        return jnp.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)


def process_rows(mesh: Mesh | None, rows: int) -> np.ndarray:
    """Numbers of the rows of a batch that this process feeds, those of its devices, in rising order.

    Processes over which the batch is not split (along the tensor axis) feed the same rows.
    """
    if mesh is None:
        return np.arange(rows)
    indices = NamedSharding(mesh, RULES.spec("batch")).addressable_devices_indices_map((rows,)).values()
    return np.concatenate(
        [np.arange(*bounds) for bounds in sorted({index[0].indices(rows)[:2] for index in indices if index})]
    )


def own_mesh(mesh: Mesh | None) -> Mesh | None:
    """A mesh of this process's devices alone, with as much of the tensor and fsdp axes as they have room for."""
    if mesh is None or not mesh.is_multi_process:
        return mesh
    count = jax.local_device_count()
    tensor = math.gcd(mesh.shape["tensor"], count)
    fsdp = math.gcd(mesh.shape["fsdp"], count // tensor)
    return jax.make_mesh(
        (count // tensor // fsdp, fsdp, tensor),
        MESH_AXES,
        axis_types=(AxisType.Auto,) * 3,
        devices=jax.local_devices(),
    )


def host_copy(array: jax.Array) -> np.ndarray:
    """The whole of an array. Parts in other processes are sent, so all processes have to call this."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return multihost_utils.process_allgather(array, tiled=True)


def parts_of(mesh: Mesh | AbstractMesh | None, logical: str) -> int:
    """Into how many parts the rules split a logical axis on a mesh; 1 without one."""
    return 1 if mesh is None else math.prod(mesh.shape[name] for name in _mesh_axes(logical))


def _mesh_axes(logical: str) -> tuple[str, ...]:
    axes = getattr(RULES, logical)
    return (axes,) if isinstance(axes, str) else axes or ()


def rounded_rows(rows: int, mesh: Mesh | None) -> int:
    """Rows of a vocabulary table, rounded up to a multiple of the parts that the mesh splits them into."""
    return rows + -rows % parts_of(mesh, "vocabulary")


def check_fits(
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[str | None, ...]]], mesh: Mesh | AbstractMesh | None
) -> None:
    """Refuses a mesh that does not divide every split axis of the parameters.

    Args:
      shapes: name -> (shape, logical axes), as `decoder.parameter_shapes` gives it.
      mesh: None fits everything.

    Raises:
      UserError: names each axis that does not divide. Inside jit such a constraint would be dropped silently.
    """
    faults = set()
    for name, (shape, logical) in shapes.items():
        for size, axis in zip(shape, logical, strict=True):
            if axis is not None and size % parts_of(mesh, axis):
                names = "x".join(_mesh_axes(axis))
                faults.add(f"{axis} of {name.removeprefix('blocks/')} ({size}) by {names}={parts_of(mesh, axis)}")
    if faults:
        raise UserError(f"the mesh does not divide the model: {'; '.join(sorted(faults))}; choose smaller mesh axes")
