"""Moments in bfloat16: they are half as large, keep their mean, and train as well."""

import jax
import jax.numpy as jnp
import numpy as np

from tsrec_jax.training.moments import adam, rounded_at_random


def test_rounding_goes_to_either_neighbour_and_keeps_the_mean():
    values = jnp.repeat(jnp.array([1 + 2**-9, -(1 + 3 * 2**-9), 1.0, 0.0], jnp.float32), 4000)
    rounded = np.asarray(rounded_at_random(values, jax.random.key(0)).astype(jnp.float32)).reshape(4, -1)
    assert [set(row.tolist()) for row in rounded] == [{1.0, 1 + 2**-7}, {-1.0, -1 - 2**-7}, {1.0}, {0.0}]
    np.testing.assert_allclose(rounded.mean(axis=1), np.asarray(values)[::4000], atol=4e-4)


def test_moments_in_bfloat16_follow_those_in_float32():
    params = jnp.zeros(2000)
    exact, small = adam("float32"), adam("bfloat16")
    states = [exact.init(params), small.init(params)]
    assert states[1].mu.dtype == states[1].nu.dtype == jnp.bfloat16

    @jax.jit
    def step(gradient, states):
        return [kind.update(gradient, state) for kind, state in zip((exact, small), states, strict=True)]

    for gradient in (1.0, *[0.1] * 200):  # rounded to the nearest, the second moment would stay at its first value
        (wanted, found), states = zip(*step(jnp.full(2000, gradient), states), strict=True)
    np.testing.assert_allclose(float(jnp.mean(states[1].nu.astype(jnp.float32))), float(states[0].nu[0]), rtol=0.01)
    np.testing.assert_allclose(float(found.mean()), float(wanted[0]), rtol=0.01)
