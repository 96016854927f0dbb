"""Small models and packed batches for the training tests."""

import numpy as np
import pytest
from flax import nnx

from tsrec_jax.data.tasks.task import Example
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.decoder import Decoder

VOCABULARY = 64


def tiny_config(tied=True, layers=2):
    return ModelConfig.from_hf(
        {
            "model_type": "llama",
            "vocab_size": VOCABULARY,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": tied,
            "max_position_embeddings": 128,
        }
    )


@pytest.fixture
def make_model():
    def make(tied=True, mesh=None, remat=False, seed=0, dtype="float32"):
        return Decoder(tiny_config(tied), dtype=dtype, param_dtype=dtype, rngs=nnx.Rngs(seed), mesh=mesh, remat=remat)

    return make


def make_examples():
    """Forty examples of two tasks with lengths from 6 to 20."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(40):
        length = int(rng.integers(6, 21))
        rows.append(
            Example(
                task="ab"[index % 2],
                tokens=rng.integers(1, VOCABULARY, length).astype(np.int32),
                prompt_length=int(rng.integers(1, length - 1)),
                key=f"row/{index}",
            )
        )
    return rows


@pytest.fixture
def examples():
    return make_examples()
