"""Adapters: a fresh one changes nothing; merged it is the same model in search and in an export."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models.reference import tiny_tokens
from tests.models.test_sid_outputs import forward
from tsrec_jax.models.adapter import make_adapter
from tsrec_jax.models.hf import load_hf, save_hf
from tsrec_jax.models.inference import InferenceModel, logits_of, prefill
from tsrec_jax.models.settings import AdapterSettings

ADAPTER = AdapterSettings(rank=3, alpha=2.0)


@pytest.fixture(scope="module")
def drawn():
    """Fills the factors of an adapter, so that it changes something."""

    def fill(adapter):
        rng = np.random.default_rng(5)
        for name, factor in vars(adapter).items():
            if isinstance(factor, nnx.Param):
                setattr(adapter, name, nnx.Param(jnp.asarray(rng.normal(0.0, 0.3, factor[...].shape), jnp.float32)))
        return adapter

    return fill


def test_an_adapter_changes_nothing_at_first_and_merged_it_is_the_same_model(make_model, drawn, tmp_path):
    model, tokens_BT = make_model("qwen2_tied"), tiny_tokens(seed=8)
    plain_BTV = forward(model, tokens_BT)
    model.adapter = nnx.data(make_adapter(model.config, ADAPTER, seed=0))
    np.testing.assert_array_equal(forward(model, tokens_BT), plain_BTV)

    model.adapter = nnx.data(drawn(model.adapter))
    wanted_BTV = forward(model, tokens_BT)
    assert np.abs(wanted_BTV - plain_BTV).max() > 0.1

    save_hf(model, tmp_path / "merged")
    loaded = load_hf(tmp_path / "merged")
    assert loaded.adapter is None
    np.testing.assert_allclose(forward(loaded, tokens_BT), wanted_BTV, rtol=1e-5, atol=1e-5)

    search, (batch, length) = InferenceModel.of(model), tokens_BT.shape
    x_DB, _ = jax.jit(prefill)(search, jnp.asarray(tokens_BT), jnp.full(batch, length))
    logits_BE = logits_of(search, jnp.arange(40), x_DB[..., None])[:, 0]
    np.testing.assert_allclose(logits_BE, wanted_BTV[:, -1], rtol=1e-5, atol=1e-5)
