"""A model on the devices of one process, for work that each process does on its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
from flax import nnx
from jax.sharding import NamedSharding

from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.sharding import host_copy, mesh_of, own_mesh


@contextlib.contextmanager
def on_own_devices(model: Decoder) -> Iterator[Decoder]:
    """The model on a mesh of this process's devices, which is ambient inside; unchanged if it already lies there.

    All processes have to enter it, because each has a part of the weights. The host holds one parameter at a time.
    """
    mesh = mesh_of(model.embedding[...])
    own = own_mesh(mesh)
    if own is None or own is mesh:
        yield model
        return
    graphdef, weights = nnx.split(model)
    there = jax.tree.map(lambda leaf: jax.device_put(host_copy(leaf), NamedSharding(own, leaf.sharding.spec)), weights)
    with jax.set_mesh(own):
        yield nnx.merge(graphdef, there)
