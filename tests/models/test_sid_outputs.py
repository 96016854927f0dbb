"""Other outputs for the SID tokens: what they score, that only they change, and that transformers scores the same."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models.reference import tiny_tokens, torch_logits
from tsrec_jax.models.hf import load_hf, save_hf
from tsrec_jax.models.inference import InferenceModel, log_normaliser, logits_of, prefill
from tsrec_jax.models.sid_outputs import give_outputs, scale_outputs
from tsrec_jax.models.vocabulary import extend_vocabulary

LEVELS = (3, 2)  # SID tokens of each level, which are the ids 40 to 44
SCALES = np.array([0.25, 3.0], np.float32)


@pytest.fixture
def extended(make_model):
    def make(case):
        rows = np.random.default_rng(1).normal(size=(sum(LEVELS), 16)).astype(np.float32)
        outputs = None if make_model(case).head is None else 2 * rows
        return extend_vocabulary(make_model(case), base_vocab_size=40, input_rows_nD=rows, output_rows_nD=outputs)

    return make


def forward(model, tokens_BT):
    graphdef, state = nnx.split(model)
    return np.asarray(jax.jit(lambda state: nnx.merge(graphdef, state)(tokens_BT))(state))


@pytest.mark.parametrize(
    ("case", "head"), [("llama_tied", "scaled"), ("llama_tied", "own"), ("qwen2_untied", "scaled")]
)
def test_scaled_logits_are_the_same_in_training_search_and_transformers(case, head, extended, tmp_path):
    plain, tokens_BT = extended(case), tiny_tokens(seed=8)
    given = give_outputs(plain, head, LEVELS)
    wanted_BTV = forward(plain, tokens_BT)
    np.testing.assert_array_equal(forward(given, tokens_BT), wanted_BTV)

    scaled = scale_outputs(given, SCALES, LEVELS)
    factor_V = np.ones(wanted_BTV.shape[-1])
    factor_V[40:43], factor_V[43:45] = SCALES
    wanted_BTV = wanted_BTV * factor_V
    np.testing.assert_allclose(forward(scaled, tokens_BT), wanted_BTV, rtol=1e-5, atol=1e-5)

    search = InferenceModel.of(scaled)
    batch, length = tokens_BT.shape
    x_DB, _ = jax.jit(prefill)(search, jnp.asarray(tokens_BT), jnp.full(batch, length))
    logits_BE = logits_of(search, jnp.arange(38, 45), x_DB[..., None])[:, 0]
    np.testing.assert_allclose(logits_BE, wanted_BTV[:, -1, 38:45], rtol=1e-5, atol=1e-5)
    norm_B = jax.nn.logsumexp(wanted_BTV[:, -1, :45], axis=-1)
    np.testing.assert_allclose(log_normaliser(search, x_DB[..., None])[:, 0], norm_B, rtol=1e-5, atol=1e-5)

    save_hf(scaled, tmp_path / "export")
    assert json.loads((tmp_path / "export" / "config.json").read_text())["tie_word_embeddings"] is False
    np.testing.assert_allclose(
        forward(load_hf(tmp_path / "export"), tokens_BT), wanted_BTV[..., :45], rtol=1e-5, atol=1e-5
    )
    torch = pytest.importorskip("torch", reason="parity with transformers needs torch")
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "export", dtype=torch.float32).eval()
    np.testing.assert_allclose(torch_logits(theirs, tokens_BT), wanted_BTV[..., :45], rtol=1e-5, atol=1e-5)


def test_a_plain_head_is_the_model_itself(extended):
    tied, untied = extended("llama_tied"), extended("qwen2_untied")
    assert give_outputs(tied, "plain", LEVELS) is tied
    assert give_outputs(untied, "own", LEVELS) is untied


def test_own_rows_are_learned_apart_from_those_of_the_input(extended):
    model = give_outputs(extended("llama_tied"), "own", LEVELS)
    model.head[...] = model.head[...].at[41].set(0.0)
    assert not forward(model, np.array([[41, 3]]))[..., 41].any()
    assert model.embedding[...][41].any()
