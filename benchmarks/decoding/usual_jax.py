"""The search as JAX code for language models usually does it, on the same weights.

One buffer of keys and values for prompt and generated tokens, layers stacked and scanned, prompts padded at the start
so that all rows write to one slot; after the prompt the buffer is repeated for the beams, and every step gathers it by
parent. Log-softmax over the whole vocabulary, the constraint from dense child tables.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.decoding.problem import Lists, Method, Problem, dense_tables
from tsrec_jax.models.attention import attention
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.layers import rms_norm, rope_frequencies, rotate

Weights = Mapping[str, jax.Array | Mapping[str, jax.Array]]
Cache = tuple[jax.Array, jax.Array]  # k_LRSKH, v_LRSKH; R rows: requests, later requests x beams


def usual_jax(problem: Problem, beams: int) -> Method:
    """The search as a method; the caller's arrays are shared, nothing is copied."""
    model = problem.model
    weights = {
        "embedding": model.embedding[...],
        "head": model.output_table(),
        "final_norm": model.final_norm[...],
        "blocks": model.layers("float32"),
    }
    tables = tuple(jnp.asarray(table) for table in dense_tables(problem.codes_NC, problem.level_sizes))
    tokens_BS, lengths_B = problem.padded_before()
    first_ids = tuple(problem.first_ids)

    def search() -> Lists:
        codes_BWC, scores_BW = _search(
            weights,
            tables,
            tokens_BS,
            lengths_B,
            config=model.config,
            num_tokens=problem.num_tokens,
            first_ids=first_ids,
            beams=beams,
        )
        return Lists(np.asarray(codes_BWC), np.asarray(scores_BW))

    return search


@functools.partial(jax.jit, static_argnames=("config", "num_tokens", "first_ids", "beams"))
def _search(
    weights: Weights,
    tables: tuple[jax.Array, ...],
    tokens_BS: jax.Array,
    lengths_B: jax.Array,
    *,
    config: ModelConfig,
    num_tokens: int,
    first_ids: tuple[int, ...],
    beams: int,
) -> tuple[jax.Array, jax.Array]:
    batch, size = tokens_BS.shape
    levels = len(tables)
    shape = (config.num_layers, batch, size + levels - 1, config.num_kv_heads, config.head_dim)
    pads_B = size - lengths_B
    cache = (jnp.zeros(shape), jnp.zeros(shape))
    x_RTD, cache = _forward(weights, config, tokens_BS, 0, pads_B, cache)
    x_BWD = x_RTD[:, -1:]
    scores_BW = jnp.zeros((batch, 1))
    nodes_BW = jnp.zeros((batch, 1), jnp.int32)
    path_BWC = jnp.zeros((batch, 1, 0), jnp.int32)
    rows_B1 = jnp.arange(batch)[:, None]
    for level, table in enumerate(tables):
        logits_BWV = jnp.einsum("bwd,vd->bwv", x_BWD, weights["head"])
        logits_BWV = jnp.where(jnp.arange(logits_BWV.shape[-1]) < num_tokens, logits_BWV, -jnp.inf)
        log_probs_BWV = jax.nn.log_softmax(logits_BWV, axis=-1)
        before, codes_E = nodes_BW.shape[1], table.shape[1]
        log_probs_BWE = log_probs_BWV[..., first_ids[level] : first_ids[level] + codes_E]
        children_BWE = table[nodes_BW]
        totals_BWE = jnp.where(children_BWE >= 0, scores_BW[..., None] + log_probs_BWE, -jnp.inf)
        flat = totals_BWE.reshape(batch, -1)
        scores_BW, picked_BW = jax.lax.top_k(flat, min(beams, flat.shape[1]))
        parents_BW, codes_BW = picked_BW // codes_E, picked_BW % codes_E
        nodes_BW = jnp.maximum(children_BWE[rows_B1, parents_BW, codes_BW], 0)
        path_BWC = jnp.concatenate([path_BWC[rows_B1, parents_BW], codes_BW[..., None]], axis=-1)
        if level == levels - 1:
            break
        width = codes_BW.shape[1]
        if level == 0:
            cache = (jnp.repeat(cache[0], width, axis=1), jnp.repeat(cache[1], width, axis=1))
        else:
            flat_R = (rows_B1 * before + parents_BW).reshape(-1)
            cache = (cache[0][:, flat_R], cache[1][:, flat_R])
        tokens_R1 = (first_ids[level] + codes_BW).reshape(-1, 1)
        x_RTD, cache = _forward(weights, config, tokens_R1, size + level, jnp.repeat(pads_B, width), cache)
        x_BWD = x_RTD.reshape(batch, width, -1)
    return path_BWC, scores_BW


def _forward(
    weights: Weights, config: ModelConfig, tokens_RT: jax.Array, start: int, pads_R: jax.Array, cache: Cache
) -> tuple[jax.Array, Cache]:
    """All layers over T new tokens a row, whose keys and values go to slots start, start + 1, ... of the buffer."""
    slots_T = start + jnp.arange(tokens_RT.shape[1])
    positions_RT = jnp.maximum(slots_T[None] - pads_R[:, None], 0)
    angles = positions_RT[..., None, None].astype(jnp.float32) * rope_frequencies(config)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    slots_S = jnp.arange(cache[0].shape[2])
    mask_RTS = (slots_S <= slots_T[:, None])[None] & (slots_S >= pads_R[:, None])[:, None]

    def layer(x_RTD: jax.Array, xs: tuple) -> tuple[jax.Array, Cache]:
        block, k_RSKH, v_RSKH = xs
        normed = rms_norm(x_RTD, block["attention_norm"], config.rms_eps)
        q = jnp.einsum("rtd,dnh->rtnh", normed, block["q"])
        k = jnp.einsum("rtd,dkh->rtkh", normed, block["k"])
        v = jnp.einsum("rtd,dkh->rtkh", normed, block["v"])
        if config.qkv_bias:
            q, k, v = q + block["q_bias"], k + block["k_bias"], v + block["v_bias"]
        if config.qk_norm:
            q = rms_norm(q, block["q_norm"], config.rms_eps)
            k = rms_norm(k, block["k_norm"], config.rms_eps)
        k_RSKH = jax.lax.dynamic_update_slice_in_dim(k_RSKH, rotate(k, (cos, sin)), start, axis=1)
        v_RSKH = jax.lax.dynamic_update_slice_in_dim(v_RSKH, v, start, axis=1)
        out_RTNH = attention(rotate(q, (cos, sin)), k_RSKH, v_RSKH, mask_RTS)
        x_RTD = x_RTD + jnp.einsum("rtnh,nhd->rtd", out_RTNH, block["o"])
        normed = rms_norm(x_RTD, block["mlp_norm"], config.rms_eps)
        inner = jax.nn.silu(normed @ block["gate"]) * (normed @ block["up"])
        return x_RTD + inner @ block["down"], (k_RSKH, v_RSKH)

    x_RTD = jnp.take(weights["embedding"], tokens_RT, axis=0)
    x_RTD, cache = jax.lax.scan(layer, x_RTD, (weights["blocks"], *cache))
    return rms_norm(x_RTD, weights["final_norm"], config.rms_eps), cache
