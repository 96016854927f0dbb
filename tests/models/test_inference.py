import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.reference import forward, tiny_tokens
from tsrec_jax.models.config import FAMILIES as FAMILY_TABLE
from tsrec_jax.models.config import Family, ModelConfig
from tsrec_jax.models.inference import InferenceModel, SuffixCache, extend, logits_of, prefill
from tsrec_jax.models.layers import parameter_shapes

FAMILIES = ("gemma3_tied", "llama_tied", "qwen2_untied", "qwen3_untied")


def forced(model, prompts_BS, lengths_B, suffix_BWC, parents_BW=None):
    """Logits after the prompt, then after each given token of each beam; beams are reordered after the first token."""
    every_E = jnp.arange(model.config.vocab_rows)

    @jax.jit
    def run(model, prompts_BS, lengths_B, suffix_BWC):
        x_DB, prompt = prefill(model, prompts_BS, lengths_B)
        suffix = SuffixCache()
        logits = []
        for step in range(suffix_BWC.shape[2]):
            x_DBW, suffix = extend(model, suffix_BWC[:, :, step], prompt, suffix)
            logits.append(logits_of(model, every_E, x_DBW))
            if step == 0 and parents_BW is not None:
                suffix = suffix.reorder(parents_BW)
        return logits_of(model, every_E, x_DB[..., None])[:, 0], jnp.stack(logits, axis=2)

    return jax.tree.map(np.asarray, run(InferenceModel.of(model), prompts_BS, lengths_B, suffix_BWC))


@pytest.mark.parametrize("case", FAMILIES)
def test_prefill_and_extend_give_the_logits_of_the_whole_sequence(case, make_model):
    model = make_model(case)
    lengths_B, beams, levels = np.array([5, 9]), 3, 3
    rng = np.random.default_rng(0)
    prompts_BS = rng.integers(0, 40, (2, 9))
    suffix_BWC = rng.integers(0, 40, (2, beams, levels))
    first_BV, later_BWCV = forced(model, prompts_BS, lengths_B, suffix_BWC)

    whole = np.zeros((2 * beams, 9 + levels), np.int32)
    for row, (b, w) in enumerate(np.ndindex(2, beams)):
        tokens = [*prompts_BS[b, : lengths_B[b]], *suffix_BWC[b, w]]
        whole[row, : len(tokens)] = tokens
    wanted = forward(model, whole).reshape(2, beams, 9 + levels, 40)
    for b, w in np.ndindex(2, beams):
        last = lengths_B[b] - 1
        got = np.concatenate([first_BV[b][None], later_BWCV[b, w]])
        np.testing.assert_allclose(got, wanted[b, w, last : last + levels + 1], atol=2e-5, rtol=1e-5)


def test_a_family_is_one_row_of_the_table_in_every_form(make_model, monkeypatch):
    monkeypatch.setitem(FAMILY_TABLE, "toy", Family("ToyForCausalLM", qkv_bias=True, qk_norm=True, head_dim=6))
    model = make_model("llama_tied", model_type="toy", head_dim=None, attention_bias=True)
    assert model.config.head_dim == 6
    assert {"blocks/q_bias", "blocks/k_norm"} <= set(parameter_shapes(model.config))
    tokens_BT = tiny_tokens(2, 9)
    wanted_BTV = forward(model, tokens_BT)
    first_BV, later_BWCV = forced(model, tokens_BT[:, :6], np.array([6, 6]), tokens_BT[:, None, 6:])
    got_BTV = np.concatenate([first_BV[:, None], later_BWCV[:, 0]], axis=1)
    np.testing.assert_allclose(got_BTV, wanted_BTV[:, 5:], atol=2e-5, rtol=1e-5)
    again = ModelConfig.from_hf(model.config.to_hf())
    assert again == dataclasses.replace(model.config, special_ids=again.special_ids)


def test_reordered_beams_go_on_from_their_parents(make_model):
    model = make_model()
    prompts, lengths_B = tiny_tokens(2, 6), np.array([6, 4])
    parents_BW = np.array([[2, 0, 0], [1, 1, 2]])
    suffix_BWC = np.stack([tiny_tokens(2, 3, seed=1), tiny_tokens(2, 3, seed=2)], axis=2)
    inherited_BWC = suffix_BWC.copy()
    inherited_BWC[:, :, 0] = np.take_along_axis(suffix_BWC[:, :, 0], parents_BW, axis=1)
    _, moved = forced(model, prompts, lengths_B, suffix_BWC, jnp.asarray(parents_BW))
    _, wanted = forced(model, prompts, lengths_B, inherited_BWC)
    np.testing.assert_allclose(moved[:, :, 1], wanted[:, :, 1], atol=1e-5)


def test_what_pads_a_prompt_does_not_matter(make_model):
    model = make_model()
    tokens_BS = tiny_tokens(1, 8)
    other_BS = tokens_BS.copy()
    other_BS[:, 5:] = 39 - other_BS[:, 5:]
    suffix_BWC = tiny_tokens(1, 6).reshape(1, 2, 3)
    results = [forced(model, tokens, np.array([5]), suffix_BWC) for tokens in (tokens_BS, other_BS)]
    jax.tree.map(np.testing.assert_array_equal, *results)
