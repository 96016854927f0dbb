"""Adam with its moments in float32, or in half the memory."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax


def adam(moments: str, second_decay: float = 0.999) -> optax.GradientTransformation:
    """Adam (arXiv 1412.6980) that keeps its moments in a chosen data type; it computes in float32.

    bfloat16 moments are rounded up or down at random, which preserves their mean (stochastic rounding, arXiv
    2010.06192). Rounded to the nearest value, a second moment would stand still: a step changes it by less than half of
    its last bit. The random bits depend only on the step, so a resumed run draws the same ones.

    Args:
      moments: `float32` or `bfloat16`.
      second_decay: decay of the second moment per step.
    """
    exact = optax.scale_by_adam(b2=second_decay, mu_dtype=jnp.float32)
    if moments == "float32":
        return exact

    def init(params: optax.Params) -> optax.ScaleByAdamState:
        state = exact.init(params)
        mu, nu = (jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree) for tree in (state.mu, state.nu))
        return state._replace(mu=mu, nu=nu)

    def update(
        updates: optax.Updates, state: optax.ScaleByAdamState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        mu, nu = (jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree) for tree in (state.mu, state.nu))
        updates, state = exact.update(updates, state._replace(mu=mu, nu=nu), params)
        first, second = jax.random.split(jax.random.fold_in(jax.random.key(0), state.count))
        return updates, state._replace(mu=_rounded(state.mu, first), nu=_rounded(state.nu, second))

    return optax.GradientTransformation(init, update)


def _rounded(tree: Any, key: jax.Array) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    keys = [jax.random.fold_in(key, number) for number in range(len(leaves))]
    return jax.tree.unflatten(structure, list(map(rounded_at_random, leaves, keys)))


def rounded_at_random(x: jax.Array, key: jax.Array) -> jax.Array:
    """A float32 array as bfloat16, each value rounded up or down with the probabilities that preserve its mean."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    # bfloat16 is the upper half of float32: a random lower half carries over as often as the part cut off is large.
    bits += jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    return jax.lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)
