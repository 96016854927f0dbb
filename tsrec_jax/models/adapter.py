"""Low-rank adapters of a decoder's kernels (LoRA, arXiv 2106.09685).

A kernel W, which stays as it is, acts as W + alpha / rank x A B. Only the factors A (in, R) and B (R, out) are trained,
in float32. B begins at zero, so a fresh adapter changes nothing.

R is the rank; the other letters are the decoder's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.layers import INPUT_AXES, layer_shapes
from tsrec_jax.models.settings import AdapterSettings
from tsrec_jax.models.sharding import named_sharding


class Adapter(nnx.Module):
    """The factors of all layers, each with a leading axis L.

    Args:
      weights: by the names of `adapter_shapes`, float32.
      rank, alpha: as in `AdapterSettings`.
    """

    def __init__(self, weights: Mapping[str, jax.Array], rank: int, alpha: float):
        self.rank, self.alpha = rank, alpha
        for name, value in weights.items():
            setattr(self, name, nnx.Param(value))

    def factors(self) -> dict[str, jax.Array]:
        """{name: (L, ...)} of both factors, the second multiplied by alpha / rank."""
        scale = self.alpha / self.rank
        arrays = {name: param[...] for name, param in vars(self).items() if isinstance(param, nnx.Param)}
        return {name: array * scale if name.endswith("_b") else array for name, array in arrays.items()}


def adapter_shapes(
    config: ModelConfig, settings: AdapterSettings
) -> dict[str, tuple[tuple[int, ...], tuple[str | None, ...]]]:
    """Shape and logical axes of the factors: of a kernel NAME, `NAME_a` (L, in, R) and `NAME_b` (L, R, out).

    The inputs and outputs are axes as in `layer_shapes`, so a factor lies on the mesh as its kernel does.
    """
    shapes: dict[str, tuple[tuple[int, ...], tuple[str | None, ...]]] = {}
    for name in settings.targets if settings.rank else ():
        shape, logical = layer_shapes(config)[name]
        split = 1 + INPUT_AXES.get(name, 1)
        shapes[f"{name}_a"] = (*shape[:split], settings.rank), (*logical[:split], None)
        shapes[f"{name}_b"] = (shape[0], settings.rank, *shape[split:]), (None, None, *logical[split:])
    return shapes


def make_adapter(config: ModelConfig, settings: AdapterSettings, seed: int, mesh: Mesh | None = None) -> Adapter:
    """A fresh adapter: A uniform within 1 / sqrt(in) of zero, as the library PEFT draws it, and B zero.

    Args:
      config: shape of the decoder.
      settings: with a rank above 0.
      seed: seed of the draws.
      mesh: the factors are laid out on it.
    """
    weights = {}
    for number, (name, (shape, logical)) in enumerate(adapter_shapes(config, settings).items()):
        value = jnp.zeros(shape)
        if name.endswith("_a"):
            bound = math.prod(shape[1:-1]) ** -0.5
            key = jax.random.fold_in(jax.random.key(seed), number)
            value = jax.random.uniform(key, shape, minval=-bound, maxval=bound)
        weights[name] = jax.device_put(value, named_sharding(mesh, *logical))
    return Adapter(weights, settings.rank, settings.alpha)


def merged(name: str, stacked: Mapping[str, jax.Array], layer: int | jax.Array) -> jax.Array:
    """A parameter of one layer; for a kernel that has an adapter, W + A B.

    Args:
      name: as in `layer_shapes`.
      stacked: what `Decoder.layers` returns.
      layer: number of the layer.
    """
    if f"{name}_a" not in stacked:
        return stacked[name][layer]
    a, b = stacked[f"{name}_a"][layer], stacked[f"{name}_b"][layer]
    return stacked[name][layer] + jnp.tensordot(a, b, 1, precision="highest")


def merged_layers(name: str, stacked: Mapping[str, jax.Array]) -> jax.Array:
    """A parameter of all layers (L, ...), as `merged` gives it for one."""
    if f"{name}_a" not in stacked:
        return stacked[name]
    return _all_merged(*(stacked[key] for key in (name, f"{name}_a", f"{name}_b")))


@jax.jit
def _all_merged(kernel: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """W + A B of each layer."""
    return kernel + jax.vmap(lambda a, b: jnp.tensordot(a, b, 1, precision="highest"))(a, b)
