"""The decoder as decoding runs it: a prompt once, then one token per beam, features before rows.

Two things set this form of the weights apart from the training form in `decoder`. Every layer's weights are arrays of
their own, because XLA:CPU copies a slice of stacked weights before it multiplies with it. And kernels are (out, in)
with activations x_DBW, features first: on a CPU a product of a kernel with a few columns streams the kernel once, while
the product of a few rows with a kernel repacks it.

Axis letters as in `decoder`; P positions of a shared prefix, M rows of a product.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tsrec_jax.models.adapter import merged
from tsrec_jax.models.attention import MASKED, Attend, causal_attention
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.int8 import Int8Rows, Matrix, product, rows_of
from tsrec_jax.models.layers import (
    INPUT_AXES,
    BeamColumns,
    PromptRows,
    Rotation,
    check_window,
    layer_shapes,
    norm,
    rotations,
    scaled_embedding,
)
from tsrec_jax.models.sharding import constrain
from tsrec_jax.programs import Programs

HEAD_ROWS = 160  # rows of x whose logits over the whole vocabulary are held at once
POSITIONS, SUFFIX = 8192, 64  # positions of the rotary table, and how many of them are kept for what is generated
FEW_ROWS = 64  # up to this many rows, logits are computed vocabulary-first
ROWS, COLUMNS = PromptRows(), BeamColumns()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class InferenceModel:
    """A decoder's weights, ready for `prefill` and `extend`; make one with `of`.

    Attributes:
      layers: for each layer {name: array} by the names of `decoder.layer_shapes`; kernels are (out, in). Kernels and
        tables are in the compute dtype, or of eight bits (`int8`).
      embedding_VD: the input table.
      head_VD: the output table, scales of SID tokens included; None if it is the embedding itself.
      final_norm_D: scale of the last norm.
      tables: cosines and sines, float32 (positions, H / 2), of the rotary embedding: for global layers, and for any
        local ones. They are tables because XLA:CPU would compute the cosines again in every layer, for every head.
      config: the shape.
      num_tokens: ids in use; rows beyond have no probability. None: all rows.
      attention: what computes the attention of the prompts, as in the decoder.
    """

    layers: tuple[Mapping[str, Any], ...]
    embedding_VD: Matrix
    head_VD: Matrix | None
    final_norm_D: jax.Array
    tables: tuple[Rotation, ...]
    config: ModelConfig = dataclasses.field(metadata={"static": True})
    num_tokens: int | None = dataclasses.field(metadata={"static": True})
    attention: str = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, model: Decoder, weights: str = "full", programs: Programs | None = None) -> InferenceModel:
        """Copies a decoder's weights, with an adapter merged into its kernels; they stay laid out over its mesh.

        Args:
          model: the decoder.
          weights: one of `int8.WEIGHTS`: `full`, in the compute dtype, or `int8`.
          programs: keeps the compiled program that copies; None: it is not kept.
        """
        head = None if model.shares_table else model.output_table()
        parts = model.layers(), model.embedding[...], head, model.final_norm[...]
        static = {"config": model.config, "dtype": model.dtype, "weights": weights}
        layers, embedding_VD, head_VD, norm_D, tables = (programs or Programs()).call(_unstacked, *parts, static=static)
        facts = model.config, model.num_tokens, model.attention
        return cls(layers, embedding_VD, head_VD, norm_D, tables, *facts)

    @property
    def output_table(self) -> Matrix:
        """The (V, D) table whose rows score the next token."""
        return self.embedding_VD if self.head_VD is None else self.head_VD


@functools.partial(jax.jit, static_argnames=("config", "dtype", "weights"))
def _unstacked(
    stacked: Mapping[str, jax.Array],
    embedding_VD: jax.Array,
    head_VD: jax.Array | None,
    final_norm_D: jax.Array,
    config: ModelConfig,
    dtype: str,
    weights: str,
) -> tuple[tuple[dict[str, Any], ...], Matrix, Matrix | None, jax.Array, tuple[Rotation, ...]]:
    """The arrays of an `InferenceModel`, in their order."""
    axes = {name: logical[1:] for name, (_, logical) in layer_shapes(config).items()}

    def matrix(array: jax.Array) -> Matrix:
        return Int8Rows.of(array) if weights == "int8" else array

    def one(name: str, layer: int) -> Matrix:
        array, logical = merged(name, stacked, layer).astype(dtype), axes[name]
        if array.ndim == 1:
            return array
        if name.endswith("bias"):
            return constrain(array.reshape(-1), logical[0])
        inputs = INPUT_AXES.get(name, 1)
        kernel = array.reshape(math.prod(array.shape[:inputs]), -1).T
        return matrix(constrain(kernel, logical[inputs], logical[0]))

    layers = tuple({name: one(name, layer) for name in axes} for layer in range(config.num_layers))
    head = None if head_VD is None else matrix(head_VD.astype(dtype))
    parts = matrix(embedding_VD.astype(dtype)), head, final_norm_D.astype(dtype)
    return layers, *parts, rotations(config, jnp.arange(POSITIONS))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prefix:
    """Keys and values of tokens that many prompts begin with, computed once.

    Attributes:
      k, v: for each layer an array (K, P, H) in the compute dtype.
    """

    k: tuple[jax.Array, ...]
    v: tuple[jax.Array, ...]

    @property
    def length(self) -> int:
        """Tokens of the prefix (P)."""
        return self.k[0].shape[1]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PromptCache:
    """Keys and values of the prompts, computed once and shared by all beams of a request.

    Attributes:
      k, v: for each layer an array (B, K, S, H) in the compute dtype; positions at and beyond a request's length hold
        padding.
      lengths_B: int32 prompt lengths, the shared prefix included.
    """

    k: tuple[jax.Array, ...]
    v: tuple[jax.Array, ...]
    lengths_B: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SuffixCache:
    """Keys and values of what each beam has generated: the only thing that moves when beams are reordered.

    Attributes:
      k, v: for each generated token and layer an array (K, H, B, W) in the compute dtype.
    """

    k: tuple[tuple[jax.Array, ...], ...] = ()
    v: tuple[tuple[jax.Array, ...], ...] = ()

    def reorder(self, parent_BW: jax.Array) -> SuffixCache:
        """Beam w takes over the suffix of beam parent_BW[:, w] of the same request."""
        return jax.tree.map(lambda array: jnp.take_along_axis(array, parent_BW[None, None], axis=3), self)


def prefill(
    model: InferenceModel, tokens_BS: jax.Array, lengths_B: jax.Array, prefix: Prefix | None = None
) -> tuple[jax.Array, PromptCache]:
    """Runs right-padded prompts once; the last layer runs only as far as the prompt's last token needs it.

    Args:
      model: the weights.
      tokens_BS: int32 ids, padded at the end with any id; without those of the prefix.
      lengths_B: int32 true lengths, at least 1, without the prefix.
      prefix: what stands before every prompt.

    Returns:
      x_DB, the hidden state of each prompt's last token after the final norm, and the cache.
    """
    config = model.config
    batch, length = tokens_BS.shape
    shared = 0 if prefix is None else prefix.length
    x_BSD = constrain(embed(model, tokens_BS), "batch", None, None)
    if shared + length > POSITIONS - SUFFIX:
        raise ValueError(f"prompts of {shared + length} positions: decoding is made for {POSITIONS - SUFFIX}")
    check_window(config, shared + length)
    kinds = jax.tree.map(lambda table_PH: table_PH[None, shared : shared + length, None], model.tables)
    attend = _prompt_attention(model.attention, shared + length, length)
    last_B = lengths_B - 1
    keys, values = [], []
    for number, weights in enumerate(model.layers):
        rotation = kinds[config.is_local(number)]
        normed_BSD = ROWS.norm(x_BSD, weights, "attention_norm", config)
        k_BKSH = jnp.swapaxes(ROWS.heads(normed_BSD, weights, "k", config, rotation), 1, 2)
        v_BKSH = jnp.swapaxes(ROWS.heads(normed_BSD, weights, "v", config), 1, 2)
        if prefix is not None:
            k_BKSH, v_BKSH = (
                jnp.concatenate([jnp.broadcast_to(before[number], (batch, *before[number].shape)), own], axis=2)
                for before, own in ((prefix.k, k_BKSH), (prefix.v, v_BKSH))
            )
        keys.append(k_BKSH)
        values.append(v_BKSH)
        if number == config.num_layers - 1:
            break
        attended_BSM = attend(ROWS.heads(normed_BSD, weights, "q", config, rotation), k_BKSH, v_BKSH)
        x_BSD = constrain(ROWS.after_attention(x_BSD, attended_BSM, weights, config), "batch", None, None)
    cache = PromptCache(tuple(keys), tuple(values), shared + lengths_B)
    x_BD = jnp.take_along_axis(x_BSD, last_B[:, None, None], axis=1)[:, 0]
    x_DB1 = x_BD.T[..., None]
    normed = COLUMNS.norm(x_DB1, weights, "attention_norm", config)
    q = COLUMNS.heads(normed, weights, "q", config, _rotation_columns(model, shared + last_B, number))
    x_DB1 = COLUMNS.after_attention(x_DB1, _attend_columns(q, cache, config.num_layers - 1, (), ()), weights, config)
    return norm(x_DB1, model.final_norm_D, config, COLUMNS.features)[..., 0], cache


def make_prefix(model: InferenceModel, tokens: tuple[int, ...], programs: Programs | None = None) -> Prefix:
    """The cache of the tokens that prompts begin with, at least one.

    Args:
      model: the weights.
      tokens: ids.
      programs: keeps the compiled program; None: none is kept.
    """
    return (programs or Programs()).call(_prefix, model, np.asarray([tokens], np.int32))


@jax.jit
def _prefix(model: InferenceModel, tokens_1P: jax.Array) -> Prefix:
    _, cache = prefill(model, tokens_1P, jnp.array([tokens_1P.shape[1]], jnp.int32))
    return Prefix(tuple(k[0] for k in cache.k), tuple(v[0] for v in cache.v))


def extend(
    model: InferenceModel, tokens_BW: jax.Array, prompt: PromptCache, suffix: SuffixCache
) -> tuple[jax.Array, SuffixCache]:
    """Feeds one token to every beam; the prompt's keys and values are read once for all beams of a request.

    Args:
      model: the weights.
      tokens_BW: int32 ids.
      prompt: cache of the requests.
      suffix: cache of the beams.

    Returns:
      x_DBW after the final norm, and the suffix with the token's keys and values added at the end.
    """
    config = model.config
    x_DBW = jnp.moveaxis(embed(model, tokens_BW), -1, 0)
    check_window(config, prompt.k[0].shape[2] + len(suffix.k) + 1)
    own_k, own_v = [], []
    for number, weights in enumerate(model.layers):
        rotation = _rotation_columns(model, prompt.lengths_B + len(suffix.k), number)
        normed = COLUMNS.norm(x_DBW, weights, "attention_norm", config)
        own_k.append(COLUMNS.heads(normed, weights, "k", config, rotation))
        own_v.append(COLUMNS.heads(normed, weights, "v", config))
        q_NHBW = COLUMNS.heads(normed, weights, "q", config, rotation)
        slots_k = (*(slot[number] for slot in suffix.k), own_k[-1])
        slots_v = (*(slot[number] for slot in suffix.v), own_v[-1])
        attended_MBW = _attend_columns(q_NHBW, prompt, number, slots_k, slots_v)
        x_DBW = COLUMNS.after_attention(x_DBW, attended_MBW, weights, config)
    x_DBW = norm(x_DBW, model.final_norm_D, config, COLUMNS.features)
    return x_DBW, SuffixCache((*suffix.k, tuple(own_k)), (*suffix.v, tuple(own_v)))


def logits_of(model: InferenceModel, ids_E: jax.Array, x_DBW: jax.Array) -> jax.Array:
    """float32 logits_BWE of some tokens: one small product instead of the whole vocabulary."""
    rows_ED = rows_of(model.output_table, ids_E, x_DBW.dtype)
    logits_EBW = jnp.einsum("ed,dbw->ebw", rows_ED, x_DBW, preferred_element_type=jnp.float32)
    return jnp.moveaxis(logits_EBW, 0, -1)


def log_normaliser(model: InferenceModel, x_DBW: jax.Array) -> jax.Array:
    """float32 (B, W): log of the sum of exponentiated logits over all ids in use.

    Only the logits of HEAD_ROWS rows are held at once, so memory does not grow with requests and beams.
    """
    _, batch, beams = x_DBW.shape
    table_VD, x_DBW = model.output_table, constrain(x_DBW, None, "scored", None)
    rows = table_VD.shape[0]
    used_V = None if model.num_tokens in (None, rows) else jnp.arange(rows) < model.num_tokens
    if batch * beams <= FEW_ROWS:
        logits_VBW = product("vd,dbw->vbw", table_VD, x_DBW, 0, jnp.float32)
        return jax.nn.logsumexp(logits_VBW, axis=0, where=None if used_V is None else used_V[:, None, None])

    def of_beams(x_BWD: jax.Array) -> jax.Array:
        logits_BWV = product("bwd,vd->bwv", x_BWD, table_VD, -1, jnp.float32)
        return jax.nn.logsumexp(logits_BWV, axis=-1, where=used_V)

    width = max(1, HEAD_ROWS // batch)
    chunks = -(-beams // width)
    width = -(-beams // chunks)
    x_BWD = jnp.pad(jnp.moveaxis(x_DBW, 0, -1), ((0, 0), (0, chunks * width - beams), (0, 0)))
    if chunks == 1:
        return of_beams(x_BWD)
    parts = jnp.moveaxis(x_BWD.reshape(batch, chunks, width, -1), 1, 0)
    found = jax.lax.map(of_beams, parts)
    return jnp.moveaxis(found, 0, 1).reshape(batch, chunks * width)[:, :beams]


def embed(model: InferenceModel, tokens: jax.Array) -> jax.Array:
    """Rows of the input table as the first layer takes them, (..., D)."""
    return scaled_embedding(rows_of(model.embedding_VD, tokens, model.final_norm_D.dtype), model.config)


def _rotation_columns(model: InferenceModel, positions_B: jax.Array, layer: int) -> Rotation:
    """Cosines and sines of a layer, float32 (H / 2, B, 1), at one position per request."""
    cos_PH, sin_PH = model.tables[model.config.is_local(layer)]
    return cos_PH[positions_B].T[..., None], sin_PH[positions_B].T[..., None]


def _prompt_attention(backend: str, keys: int, queries: int) -> Attend:
    """A function of q_BTNH, k_BKSH and v_BKSH that gives the attention of prompt positions, (B, T, N x H)."""
    if backend == "xla":
        visible_TS = jnp.arange(queries)[:, None] >= jnp.arange(queries)[None]
        visible_TS = jnp.pad(visible_TS, ((0, 0), (keys - queries, 0)), constant_values=True)
        return functools.partial(_attend_rows, visible_TS=visible_TS)
    attend = causal_attention(backend, keys, queries)

    def of_rows(q_BTNH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array) -> jax.Array:
        out_BTNH = attend(q_BTNH, jnp.swapaxes(k_BKSH, 1, 2), jnp.swapaxes(v_BKSH, 1, 2))
        return out_BTNH.reshape(*out_BTNH.shape[:2], -1)

    return of_rows


def _attend_rows(q_BTNH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, visible_TS: jax.Array) -> jax.Array:
    """Attention of prompt positions, (B, T, N x H); softmax in float32.

    Plain batched products, with the division by the sums after the second: XLA:CPU runs other axis orders slowly.
    """
    batch, length, _, head_dim = q_BTNH.shape
    kv_heads, size = k_BKSH.shape[1:3]
    q_BTKGH = q_BTNH.reshape(batch, length, kv_heads, -1, head_dim) * head_dim**-0.5
    q_BKMH = jnp.moveaxis(q_BTKGH, 1, 3).reshape(batch, kv_heads, -1, head_dim)
    scores = jnp.einsum("bkmh,bksh->bkms", q_BKMH, k_BKSH, preferred_element_type=jnp.float32)
    scores = jnp.where(visible_TS, scores.reshape(batch, kv_heads, -1, length, size), MASKED)
    shares = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True)).reshape(batch, kv_heads, -1, size)
    out_BKMH = jnp.einsum("bkms,bksh->bkmh", shares.astype(q_BTNH.dtype), v_BKSH, preferred_element_type=jnp.float32)
    out_BKMH = (out_BKMH / jnp.sum(shares, axis=-1, keepdims=True)).astype(q_BTNH.dtype)
    out_BKGTH = out_BKMH.reshape(batch, kv_heads, -1, length, head_dim)
    return jnp.moveaxis(out_BKGTH, 3, 1).reshape(batch, length, -1)


def _attend_columns(
    q_NHBW: jax.Array,
    prompt: PromptCache,
    layer: int,
    slots_k: tuple[jax.Array, ...],
    slots_v: tuple[jax.Array, ...],
) -> jax.Array:
    """Attention of every beam over its request's prompt and its own slots, (N x H, B, W); softmax in float32.

    Prompt and slots are normalised together without being joined: only their sums of exponentials are combined.
    """
    k_BKSH, v_BKSH = prompt.k[layer], prompt.v[layer]
    kind, head_dim = q_NHBW.dtype, q_NHBW.shape[1]
    q_KGHBW = q_NHBW.reshape(k_BKSH.shape[1], -1, *q_NHBW.shape[1:]) * head_dim**-0.5
    seen_BS = jnp.arange(k_BKSH.shape[2])[None] < prompt.lengths_B[:, None]
    groups, (batch, beams) = q_KGHBW.shape[1], q_KGHBW.shape[3:]
    q_BKMH = jnp.transpose(q_KGHBW, (3, 0, 1, 4, 2)).reshape(batch, -1, groups * beams, head_dim)
    scores = jnp.einsum("bkmh,bksh->bkms", q_BKMH, k_BKSH, preferred_element_type=jnp.float32)
    scores = jnp.where(seen_BS[:, None, None], scores, MASKED).reshape(batch, -1, groups, beams, k_BKSH.shape[2])
    own = [jnp.sum((q_KGHBW * k_KHBW[:, None]).astype(jnp.float32), axis=2) for k_KHBW in slots_k]  # (K, G, B, W) each
    top_KGBW = jnp.moveaxis(jnp.max(scores, axis=-1), 0, 2)
    for part in own:
        top_KGBW = jnp.maximum(top_KGBW, part)
    shares = jnp.exp(scores - jnp.moveaxis(top_KGBW, 2, 0)[..., None])
    sums_KGBW = jnp.moveaxis(jnp.sum(shares, axis=-1), 0, 2)
    shares_BKMS = shares.astype(kind).reshape(batch, -1, groups * beams, k_BKSH.shape[2])
    out_BKMH = jnp.einsum("bkms,bksh->bkmh", shares_BKMS, v_BKSH, preferred_element_type=jnp.float32)
    out_KGHBW = jnp.transpose(out_BKMH.reshape(batch, -1, groups, beams, head_dim), (1, 2, 4, 0, 3))
    for part, v_KHBW in zip(own, slots_v, strict=True):
        share_KGBW = jnp.exp(part - top_KGBW)
        sums_KGBW = sums_KGBW + share_KGBW
        out_KGHBW = out_KGHBW + share_KGBW[:, :, None] * v_KHBW[:, None]
    out_KGHBW = (out_KGHBW / sums_KGBW[:, :, None]).astype(kind)
    return out_KGHBW.reshape(-1, *out_KGHBW.shape[3:])
