"""How far SID embeddings are from their initial rows."""

import contextlib

import jax
import numpy as np
import pytest

from tests.training.test_step import BASE_VOCAB_SIZE, NEW_ROWS, extended
from tsrec_jax.models.sharding import make_mesh
from tsrec_jax.training.drift import Drift


@pytest.mark.parametrize("on_mesh", [False, True], ids=["one device", "mesh"])
def test_drift_is_told_by_level_as_cosine_and_relative_norm(make_model, on_mesh):
    mesh = make_mesh(2, 2, 2) if on_mesh else None
    model = extended(make_model, mesh=mesh)
    levels_n = np.arange(NEW_ROWS) % 3
    with jax.set_mesh(mesh) if on_mesh else contextlib.nullcontext():
        drift = Drift(model, BASE_VOCAB_SIZE, levels_n)
        start = drift(model)
    assert all(value == pytest.approx(1.0, abs=1e-6) for value in start.values())
    scale_n = np.array([2.0, -0.5, 1.0])[levels_n][:, None]
    rows = slice(BASE_VOCAB_SIZE, BASE_VOCAB_SIZE + NEW_ROWS)
    table = np.array(model.embedding[...])
    table[rows] *= scale_n
    table[:BASE_VOCAB_SIZE] += 1.0  # other rows do not count
    model.embedding[...] = jax.device_put(table, model.embedding[...].sharding)
    with jax.set_mesh(mesh) if on_mesh else contextlib.nullcontext():
        moved = drift(model)
    expected = {"cosine_0": 1.0, "norm_0": 2.0, "cosine_1": -1.0, "norm_1": 0.5, "cosine_2": 1.0, "norm_2": 1.0}
    assert {name.removeprefix("drift/"): value for name, value in moved.items()} == pytest.approx(expected, abs=1e-5)
