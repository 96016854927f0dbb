"""The fused cross entropy: values and gradients of a plain one, on one device and split by vocabulary on meshes."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsrec_jax.models.sharding import make_mesh, named_sharding
from tsrec_jax.training.cross_entropy import weighted_loss

GROUPS, SLOTS, D, ROWS, USED = 8, 6, 16, 64, 59
MESHES = (None, (8, 1, 1), (2, 2, 2), (1, 2, 4))


def problem():
    rng = np.random.default_rng(0)
    x_GPD = rng.normal(size=(GROUPS, SLOTS, D)).astype(np.float32)
    table_VD = rng.normal(size=(ROWS, D)).astype(np.float32)
    target_GP = rng.integers(0, USED, (GROUPS, SLOTS)).astype(np.int32)
    weight_GP = rng.uniform(0.0, 0.2, (GROUPS, SLOTS)).astype(np.float32) * (rng.random((GROUPS, SLOTS)) > 0.2)
    return x_GPD, table_VD, target_GP, weight_GP


def plain(x_GPD, table_VD, target_GP, weight_GP):
    """Three times the weighted loss, so that what comes from above is not 1, and the nll."""
    logits_GPV = jnp.where(jnp.arange(ROWS) < USED, x_GPD @ table_VD.T, -jnp.inf)
    nll_GP = -jnp.take_along_axis(jax.nn.log_softmax(logits_GPV), target_GP[..., None], axis=-1)[..., 0]
    return 3 * jnp.sum(nll_GP * weight_GP), nll_GP


def fused(x_GPD, table_VD, target_GP, weight_GP, chunk):
    loss, nll_GP = weighted_loss(x_GPD, table_VD, target_GP, weight_GP, num_tokens=USED, chunk=chunk)
    return 3 * loss, nll_GP


@pytest.mark.parametrize("chunk", [0, 4])
@pytest.mark.parametrize("sizes", MESHES, ids=lambda sizes: "x".join(map(str, sizes)) if sizes else "one")
def test_values_and_gradients_are_those_of_the_plain_loss(sizes, chunk):
    x_GPD, table_VD, target_GP, weight_GP = problem()
    compute = functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    with jax.default_matmul_precision("highest"):
        (loss, nll_GP), (dx_GPD, dtable_VD) = jax.jit(compute(plain))(x_GPD, table_VD, target_GP, weight_GP)
        mesh = None if sizes is None else make_mesh(*sizes)
        batch, rows = named_sharding(mesh, "batch"), named_sharding(mesh, "vocabulary", None)
        inputs = jax.device_put((x_GPD, table_VD, target_GP, weight_GP), (batch, rows, batch, batch))
        with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
            found, gradients = jax.jit(compute(functools.partial(fused, chunk=chunk)))(*inputs)
            _, alone_GP = jax.jit(functools.partial(fused, chunk=chunk))(*inputs)  # without a gradient
    np.testing.assert_allclose(found[0], loss, rtol=1e-6)
    for got, wanted in ((found[1], nll_GP), (alone_GP, nll_GP), (gradients[0], dx_GPD), (gradients[1], dtable_VD)):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert not np.asarray(gradients[1])[USED:].any(), "rows that no id uses have no gradient"
    if mesh is not None:
        assert gradients[1].sharding.is_equivalent_to(rows, 2)


def test_products_are_in_the_type_of_the_hidden_states_and_sums_in_float32():
    x_GPD, table_VD, target_GP, weight_GP = problem()
    inputs = (x_GPD.astype(jnp.bfloat16), table_VD, target_GP, weight_GP)
    (loss, nll_GP), (dx_GPD, dtable_VD) = jax.value_and_grad(
        functools.partial(fused, chunk=4), argnums=(0, 1), has_aux=True
    )(*inputs)
    assert (loss.dtype, nll_GP.dtype, dx_GPD.dtype, dtable_VD.dtype) == ("float32", "float32", "bfloat16", "float32")
    np.testing.assert_allclose(loss, plain(*problem())[0], rtol=0.02)
