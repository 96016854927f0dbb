"""Small decoders and tries for the decoding tests; most share one shape, so that most searches share one compile."""

import jax
import numpy as np
import pytest

from tsrec_jax.decoding.trie import Trie
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.layers import parameter_shapes
from tsrec_jax.models.sharding import named_sharding

BASE = 32  # ordinary tokens; SID tokens come behind them
NUM_TOKENS = 96


@pytest.fixture(scope="session")
def make_model():
    """Random decoders of 128 rows, of which 96 are in use; weights are large enough to spread the scores."""

    def make(family="llama", tied=False, mesh=None, seed=0, layers=2):
        facts = {
            "model_type": family,
            "vocab_size": 128,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_theta": 500.0,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": tied,
        }
        config = ModelConfig.from_hf(facts | ({"head_dim": 16} if family == "qwen3" else {}))
        rng = np.random.default_rng(seed)
        weights = {
            name: jax.device_put(rng.normal(0.0, 0.2, shape).astype(np.float32), named_sharding(mesh, *axes))
            for name, (shape, axes) in parameter_shapes(config).items()
        }
        return Decoder(config, weights=weights, num_tokens=NUM_TOKENS)

    return make


@pytest.fixture(scope="session")
def make_trie():
    """A random trie of at most `items` SIDs; level c has sizes[c] codes, whose ids follow one another from BASE."""

    def make(sizes=(6, 5, 7), items=90):
        rng = np.random.default_rng(0)
        codes_IC = np.stack([rng.integers(0, size, items) for size in sizes], axis=1)
        ends = BASE + np.cumsum(sizes)
        ids = [np.arange(end - size, end, dtype=np.int32) for end, size in zip(ends, sizes, strict=True)]
        return Trie.from_codes(codes_IC, sizes, ids)

    return make


@pytest.fixture
def prompts():
    """Five prompts of 3 to 20 ordinary tokens, none of them 31."""
    rng = np.random.default_rng(1)
    return [rng.integers(1, BASE - 1, length).tolist() for length in (7, 3, 20, 12, 16)]


@pytest.fixture
def padded(prompts):
    """(tokens_BS, lengths_B) of the prompts, padded to 24."""
    tokens_BS = np.zeros((len(prompts), 24), np.int32)
    for row, prompt in enumerate(prompts):
        tokens_BS[row, : len(prompt)] = prompt
    return tokens_BS, np.array([len(prompt) for prompt in prompts], np.int32)
