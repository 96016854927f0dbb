"""Small decoders and tries for the decoding tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tsrec_jax.decoding.trie import Trie
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.decoder import Decoder

BASE = 32  # ordinary tokens; SID tokens come behind them


@pytest.fixture
def make_model():
    """Random decoders of 128 rows, of which `num_tokens` are in use; rows are large enough to spread the scores."""

    def make(family="llama", tied=True, mesh=None, num_tokens=96, seed=0):
        facts = {
            "model_type": family,
            "vocab_size": 128,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16 if family == "qwen3" else 8,
            "rope_theta": 500.0,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": tied,
        }
        model = Decoder(ModelConfig.from_hf(facts), rngs=nnx.Rngs(seed), mesh=mesh)
        graphdef, state = nnx.split(model)
        state = jax.tree.map(lambda x: 10 * x if x.ndim > 1 and x.shape[-1] > 1 else x, state)
        model = nnx.merge(graphdef, state)
        model.num_tokens = num_tokens
        return model

    return make


@pytest.fixture
def make_trie():
    """A random trie of about `items` SIDs; level c has sizes[c] codes, whose ids follow one another from BASE."""

    def make(sizes=(6, 5, 7), items=40, seed=0):
        rng = np.random.default_rng(seed)
        codes_IC = np.stack([rng.integers(0, size, items) for size in sizes], axis=1)
        ends = BASE + np.cumsum(sizes)
        ids = [np.arange(end - size, end, dtype=np.int32) for end, size in zip(ends, sizes, strict=True)]
        return Trie.from_codes(codes_IC, sizes, ids)

    return make


@pytest.fixture
def prompts():
    """Five prompts of 3 to 20 ordinary tokens."""
    rng = np.random.default_rng(1)
    return [rng.integers(1, BASE, length).tolist() for length in (7, 3, 20, 12, 16)]


@pytest.fixture
def padded(prompts):
    """(tokens_BS, lengths_B) of the prompts, padded to 24."""
    tokens_BS = np.zeros((len(prompts), 24), np.int32)
    for row, prompt in enumerate(prompts):
        tokens_BS[row, : len(prompt)] = prompt
    return jnp.asarray(tokens_BS), jnp.asarray([len(prompt) for prompt in prompts], jnp.int32)
