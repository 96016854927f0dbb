"""A model on the devices of one process, for work that each process does by itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
from flax import nnx

from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.layers import parameter_shapes
from tsrec_jax.models.sharding import host_copy, mesh_of, named_sharding, own_mesh


@contextlib.contextmanager
def on_own_devices(model: Decoder) -> Iterator[Decoder]:
    """The model on a mesh of this process's devices, which is the ambient one inside; as it is where it lies there.

    All processes have to enter it, because each of them has a part of the weights. The host holds one parameter at a
    time.
    """
    mesh = mesh_of(model.embedding[...])
    own = own_mesh(mesh)
    if own is mesh:
        yield model
        return
    shapes = parameter_shapes(model.config)
    weights = {}
    for path, value in nnx.to_flat_state(nnx.state(model)):
        name = "/".join(map(str, path))
        weights[name] = jax.device_put(host_copy(value[...]), named_sharding(own, *shapes[name][1]))
    with jax.set_mesh(own):
        yield Decoder(
            model.config,
            dtype=model.dtype,
            remat=model.remat,
            attention=model.attention,
            weights=weights,
            num_tokens=model.num_tokens,
        )
