"""The shapes that are measured, with random weights that are drawn where they are used."""

from __future__ import annotations

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.decoding.problem import Problem
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.layers import parameter_shapes
from tsrec_jax.models.vocabulary import LANES

CODES = (256, 256, 256)  # of the three levels
ITEMS = 100_000
TINY_CODES, TINY_ITEMS = (8, 8, 8), 90
TINY = "tiny"


def _tied(family: str, words: int, codes: int, **sizes: int) -> tuple[int, ModelConfig]:
    """(first SID token, shape) of a tied model whose table holds `words` ids and SID tokens behind them."""
    rows = words + codes
    facts = {"rope_theta": 1e6, "rms_eps": 1e-6, "tied": True, "max_positions": 32768, **sizes}
    if family == "llama":
        facts |= {"rope_theta": 1e5, "rms_eps": 1e-5, "max_positions": 8192}
    switches = {"qkv_bias": family == "qwen2", "qk_norm": family == "qwen3"}
    return words, ModelConfig(family=family, vocab_rows=rows + -rows % LANES, **facts, **switches)


# {name: (words of the tokenizer, shape)}
SHAPES = {
    "SmolLM2-135M": _tied(
        "llama", 49152, sum(CODES), d_model=576, d_mlp=1536, num_layers=30, num_heads=9, num_kv_heads=3, head_dim=64
    ),
    "Qwen2.5-0.5B": _tied(
        "qwen2", 151665, sum(CODES), d_model=896, d_mlp=4864, num_layers=24, num_heads=14, num_kv_heads=2, head_dim=64
    ),
    "Qwen2.5-1.5B": _tied(
        "qwen2", 151665, sum(CODES), d_model=1536, d_mlp=8960, num_layers=28, num_heads=12, num_kv_heads=2, head_dim=128
    ),
    "Qwen3-1.7B": _tied(
        "qwen3", 151669, sum(CODES), d_model=2048, d_mlp=6144, num_layers=28, num_heads=16, num_kv_heads=8, head_dim=128
    ),
    TINY: _tied(
        "qwen2", 64, sum(TINY_CODES), d_model=32, d_mlp=48, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8
    ),
}


def random_decoder(name: str, dtype: str, param_dtype: str, *, remat: bool = False) -> Decoder:
    """A decoder of that shape, its weights drawn on the device; the embeddings spread the scores as training would.

    Args:
      name: of the shape.
      dtype: compute type.
      param_dtype: of the stored parameters.
      remat: as in `Decoder`.
    """
    words, config = SHAPES[name]
    weights = _random_weights(jax.random.key(zlib.crc32(name.encode())), config, param_dtype)
    codes = TINY_CODES if name == TINY else CODES
    return Decoder(config, dtype=dtype, remat=remat, weights=weights, num_tokens=words + sum(codes))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _random_weights(key: jax.Array, config: ModelConfig, param_dtype: str) -> dict[str, jax.Array]:
    weights = {}
    for number, (name, (shape, _)) in enumerate(parameter_shapes(config).items()):
        if name.endswith("norm"):
            weights[name] = jnp.ones(shape, param_dtype)
            continue
        spread = jnp.asarray(0.1 if name == "embedding" else 0.02, param_dtype)
        weights[name] = spread * jax.random.normal(jax.random.fold_in(key, number), shape, param_dtype)
    return weights


def decoding_problem(name: str, model: Decoder, context: int, batch: int) -> Problem:
    """Random distinct items and random prompts of `context` tokens, of which none is kept from an earlier request."""
    rng = np.random.default_rng([context, batch])
    words, _ = SHAPES[name]
    codes, items = (TINY_CODES, TINY_ITEMS) if name == TINY else (CODES, ITEMS)
    keys = rng.choice(int(np.prod(codes)), items, replace=False)
    codes_NC = np.stack(np.unravel_index(keys, codes), axis=1).astype(np.int32)
    prompts = rng.integers(1, words, (batch, context)).tolist()
    return Problem(name, model, codes_NC, codes, words, prompts)
