"""RQ-VAE: its gradient, its start, its revival, and which state it returns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.said import said
from tsrec_jax.sid.quantisers import rq_vae as module
from tsrec_jax.sid.quantisers.rq_vae import RqVae, loss
from tsrec_jax.sid.settings import IndexSettings

SMALL = IndexSettings(sizes=(8, 8), hidden=(24,), latent=6, epochs=60, batch_size=64)
LINEAR = dataclasses.replace(SMALL, hidden=())


@pytest.fixture(scope="module")
def x_ID():
    rng = np.random.default_rng(0)
    x_ID = rng.normal(size=(40, 10))[rng.integers(40, size=256)] + 0.05 * rng.normal(size=(256, 10))
    return (x_ID / np.linalg.norm(x_ID, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def trained(x_ID):
    with said() as lines:
        return RqVae.fit(x_ID, SMALL, 0)[0], lines


def start(x_ID, settings=SMALL):
    parameters = module._initial(x_ID.shape[1], settings, jax.random.key(0))
    return parameters | module._initial_codebooks(parameters, jnp.asarray(x_ID), settings.sizes, jax.random.key(1))


def test_it_learns_what_the_codes_can_say(trained, x_ID):
    vae, lines = trained
    error = np.square(x_ID - vae.decode(vae.encode(x_ID))).sum() / np.square(x_ID - x_ID.mean(axis=0)).sum()
    assert error < 0.6
    assert len(lines) == 60 / module.CHECK_EVERY
    assert "collision rate" in lines[0]


def test_gradients_are_those_of_the_formula(x_ID):
    """Linear encoder and decoder, so that every gradient can be written down.

    Reconstruction reaches the encoder as if the codes were not there, commitment pulls it towards each level's code,
    and only the codebook term moves a code.
    """
    weight = 0.3
    p = {name: np.asarray(value, np.float64) for name, value in start(x_ID, LINEAR).items()}
    found = jax.grad(loss)({name: jnp.asarray(value, jnp.float32) for name, value in p.items()}, x_ID, weight)
    left_BH = x_ID @ p["encoder/0/w"] + p["encoder/0/b"]
    total_BH, towards_codes_BH = np.zeros_like(left_BH), np.zeros_like(left_BH)
    for level in range(2):
        codebook_EH = p[f"codebook/{level}"]
        codes_B = np.square(left_BH[:, None] - codebook_EH).sum(axis=2).argmin(axis=1)
        gap_BH = left_BH - codebook_EH[codes_B]
        moved_EH = np.zeros_like(codebook_EH)
        np.add.at(moved_EH, codes_B, -2 * gap_BH / gap_BH.size)
        assert np.allclose(found[f"codebook/{level}"], moved_EH, atol=1e-6)
        towards_codes_BH += 2 * weight * gap_BH / gap_BH.size
        total_BH += codebook_EH[codes_B]
        left_BH = gap_BH
    error_BD = total_BH @ p["decoder/0/w"] + p["decoder/0/b"] - x_ID
    out_BD = 2 * error_BD / len(x_ID)  # squared error summed over the features, averaged over the items
    latent_BH = out_BD @ p["decoder/0/w"].T + towards_codes_BH
    assert np.allclose(found["decoder/0/w"], total_BH.T @ out_BD, atol=1e-5)
    assert np.allclose(found["encoder/0/w"], x_ID.T @ latent_BH, atol=1e-5)
    assert np.allclose(found["encoder/0/b"], latent_BH.sum(axis=0), atol=1e-5)


def test_each_epoch_sees_the_items_in_another_order_and_the_last_small_batch_is_left_out(x_ID):
    settings = dataclasses.replace(SMALL, batch_size=200)  # one step of 256 items: 56 stay out
    before = start(x_ID, settings)
    moments = module.OPTIMISER.init(before)

    def epoch(key):
        copies = jax.tree.map(jnp.copy, (before, moments))
        return module._epoch(*copies, jnp.asarray(x_ID), jax.random.key(key), settings.batch_size)

    one, other = epoch(0), epoch(1)
    assert int(one[1][0].count) == 1
    assert not np.array_equal(one[0]["encoder/0/w"], other[0]["encoder/0/w"])


def test_codebooks_start_at_centres_of_the_residuals(x_ID):
    parameters = start(x_ID)
    random = parameters | {
        name: 0.1 * jax.random.normal(jax.random.key(2), value.shape)
        for name, value in parameters.items()
        if name.startswith("codebook")
    }
    assert float(loss(parameters, jnp.asarray(x_ID), 1.0)) < float(loss(random, jnp.asarray(x_ID), 1.0))


def test_a_code_that_nobody_takes_moves_to_an_items_residual(x_ID):
    parameters = start(x_ID)
    parameters["codebook/0"] = parameters["codebook/0"].at[3].set(1e3)
    revived = module._revived(parameters, jnp.asarray(x_ID), jax.random.key(0))
    latents_IH = module._mlp(parameters, "encoder", jnp.asarray(x_ID))
    distance_I = jnp.abs(latents_IH - revived["codebook/0"][3]).max(axis=1)
    assert float(distance_I.min()) == pytest.approx(0.0, abs=1e-6)
    taken = [code for code in range(8) if code != 3]
    assert np.array_equal(revived["codebook/0"][np.array(taken)], parameters["codebook/0"][np.array(taken)])


def test_the_state_with_the_fewest_collisions_is_returned(x_ID, monkeypatch):
    seen = []
    rates = iter([(0.5, 0.1), (0.2, 0.3), (0.2, 0.2), (0.4, 0.1)])

    def quality(parameters, _x):
        seen.append({name: np.asarray(value) for name, value in parameters.items()})
        return (*next(rates), [8, 8])

    monkeypatch.setattr(module, "_quality", quality)
    monkeypatch.setattr(module, "CHECK_EVERY", 1)
    vae, _ = RqVae.fit(x_ID, dataclasses.replace(SMALL, epochs=4), 0)
    assert all(np.array_equal(vae.parameters[name], value) for name, value in seen[2].items())
    assert not np.array_equal(vae.parameters["encoder/0/w"], seen[3]["encoder/0/w"])


def test_the_same_seed_gives_the_same_codes_and_an_epoch_compiles_once(trained, x_ID):
    before = module._epoch._cache_size()
    again, _ = RqVae.fit(x_ID, SMALL, 0)
    assert np.array_equal(again.encode(x_ID), trained[0].encode(x_ID))
    assert module._epoch._cache_size() == before


def test_any_number_of_levels_and_arrays_that_bring_it_back(x_ID):
    settings = dataclasses.replace(SMALL, sizes=(4, 8, 3), epochs=1)
    vae, fitted_IC = RqVae.fit(x_ID, settings, 0)
    assert vae.sizes == (4, 8, 3)
    codes_IC = vae.encode(x_ID)
    assert np.array_equal(fitted_IC, codes_IC)
    assert (codes_IC.shape, codes_IC.dtype) == ((256, 3), np.int32)
    assert np.array_equal(RqVae.from_arrays(vae.arrays()).encode(x_ID), codes_IC)
    assert np.array_equal(vae.last_level_costs(x_ID, codes_IC).argmin(axis=1), codes_IC[:, -1])
    assert vae.decode(codes_IC[:, :1]).shape == x_ID.shape
