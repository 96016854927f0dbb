"""Whitening: equal variances, unit rows, and what it does where the embeddings span little."""

import numpy as np
import pytest

from tsrec_jax.sid.whiten import fit_whitening


@pytest.fixture
def x_ID():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(300, 6)) * [9.0, 4.0, 2.0, 1.0, 0.5, 0.1] @ rng.normal(size=(6, 6)) + 5.0).astype("f4")


def test_components_have_variance_one_and_no_correlation(x_ID):
    whitening = fit_whitening(x_ID, 4)
    y_IK = (x_ID - whitening.mean_D) @ whitening.projection_DK
    assert np.allclose(np.cov(y_IK.T, bias=True), np.eye(4), atol=1e-2)


def test_rows_have_length_one_and_the_mean_stays_zero(x_ID):
    whitening = fit_whitening(x_ID, 4)
    assert np.allclose(np.linalg.norm(whitening(x_ID), axis=1), 1.0, atol=1e-5)
    assert np.array_equal(whitening(whitening.mean_D[None]), np.zeros((1, 4), np.float32))


def test_zero_components_only_centre(x_ID):
    centred_ID = x_ID - x_ID.mean(axis=0)
    expected = centred_ID / np.linalg.norm(centred_ID, axis=1, keepdims=True)
    assert np.allclose(fit_whitening(x_ID, 0)(x_ID), expected, atol=1e-5)


def test_directions_without_variance_are_left_out():
    x_ID = np.random.default_rng(1).normal(size=(50, 2)).astype(np.float32)
    wide_ID = np.concatenate([x_ID, x_ID, np.ones((50, 3), np.float32)], axis=1)
    assert fit_whitening(wide_ID, 7).projection_DK.shape == (7, 2)
    one = fit_whitening(np.ones((4, 3), np.float32), 2)
    assert np.isfinite(one(np.ones((4, 3), np.float32))).all()
