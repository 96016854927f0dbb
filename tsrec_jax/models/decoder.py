"""One decoder for Llama, Mistral, Qwen2/Qwen2.5, Qwen3 and Gemma 3: layers stacked on a leading axis and scanned.

This is the form that training uses (packed rows, `hidden`); decoding has its own, `inference.InferenceModel`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from tsrec_jax.models.adapter import Adapter
from tsrec_jax.models.attention import Attend, causal_attention, choose, suffix_attention
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.dense_head import DenseHead
from tsrec_jax.models.layers import (
    NO_DROPOUT,
    Dropout,
    Rotation,
    TrainingRows,
    check_window,
    norm,
    parameter_shapes,
    rotations,
    scaled_embedding,
)
from tsrec_jax.models.sharding import constrain, named_sharding

INIT_STD = 0.02
ROWS = TrainingRows()


class Blocks(nnx.Module):
    """The parameters of all layers, each with a leading axis L."""

    def __init__(self, weights: Mapping[str, jax.Array]):
        for name, value in weights.items():
            setattr(self, name, nnx.Param(value))

    def stacked(self) -> dict[str, jax.Array]:
        """{name: (L, ...)}, as the parameters are stored."""
        return {name: param[...] for name, param in vars(self).items() if isinstance(param, nnx.Param)}


class Decoder(nnx.Module):
    """A causal language model.

    Args:
      config: its shape.
      dtype: compute type of activations and matrix products (softmax, norms and logits are float32).
      param_dtype: type of the stored parameters.
      rngs: for random weights (normal, 0.02; norms 1, biases 0); not used when `weights` is given.
      mesh: parameters are laid out on it by `sharding.RULES`; None for one device.
      remat: recompute a layer's activations in the backward pass.
      attention: what should compute attention, a name in `attention.SETTINGS`.
      weights: parameters under the names of `parameter_shapes`, taken as they are.

    Attributes:
      num_tokens: ids in use; logits of the rows beyond are -inf. None before the vocabulary is extended: all rows.
      sid_scale: float32 (C,), what the logits of each level's SID tokens are multiplied by; None: nothing.
      level_sizes: number of SID tokens on each level, the last ids in use, if there is a `sid_scale`.
      dense: the dense head, which scores items in addition to the SIDs; None: there is none. It does not affect the
        logits.
      frozen_rows: number of first rows of the tables that need no gradient, in a training that freezes them.
      new_rows: float32 (n, D), input rows of the n ids after the frozen ones, which look-ups read instead of the
        table's rows; None: they read the table.
      adapter: low-rank changes of the layers' kernels; None: there are none.
      attention: what computes attention here, as `attention.choose` gives it.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        dtype: str = "float32",
        param_dtype: str = "float32",
        rngs: nnx.Rngs | None = None,
        mesh: Mesh | None = None,
        remat: bool = True,
        attention: str = "auto",
        weights: Mapping[str, jax.Array] | None = None,
        num_tokens: int | None = None,
    ):
        self.config = config
        self.dtype = str(jnp.dtype(dtype))
        self.remat = remat
        self.attention = choose(attention, config, self.dtype)
        self.num_tokens = num_tokens
        if weights is None:
            weights = random_weights(config, param_dtype, rngs or nnx.Rngs(0), mesh)
        self.embedding = nnx.Param(weights["embedding"])
        self.final_norm = nnx.Param(weights["final_norm"])
        self.head = None if config.tied else nnx.Param(weights["head"])
        self.sid_scale: nnx.Param | None = None
        self.level_sizes: tuple[int, ...] = ()
        self.dense: DenseHead | None = None
        self.adapter: Adapter | None = None
        self.frozen_rows = 0
        self.new_rows: nnx.Param | None = None
        prefix = "blocks/"
        self.blocks = Blocks({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})

    def __call__(
        self,
        tokens_BT: jax.Array,
        positions_BT: jax.Array | None = None,
        segment_ids_BT: jax.Array | None = None,
    ) -> jax.Array:
        """Logits of the next token at every position: float32 logits_BTV."""
        return self.logits(self.hidden(tokens_BT, positions_BT, segment_ids_BT))

    def hidden(
        self,
        tokens_BT: jax.Array,
        positions_BT: jax.Array | None = None,
        segment_ids_BT: jax.Array | None = None,
        dropout: Dropout = NO_DROPOUT,
    ) -> jax.Array:
        """Hidden states after the final norm.

        Args:
          tokens_BT: int32 ids.
          positions_BT: int32, 0 at the start of each segment; None: 0, 1, 2, ...
          segment_ids_BT: int32; a token sees earlier tokens of its own segment only. None: one segment per row.
          dropout: applied to the embeddings, and to what each attention and each MLP adds to them.

        Returns:
          x_BTD in the compute dtype.
        """
        tokens_BT = jnp.asarray(tokens_BT)
        segment_ids_BT = None if segment_ids_BT is None else jnp.asarray(segment_ids_BT)
        length = tokens_BT.shape[1]
        check_window(self.config, length)
        attend = causal_attention(self.attention, length, length, segment_ids_BT)
        x_BTD = self._run(tokens_BT, positions_BT, attend, dropout)
        return norm(x_BTD, self.final_norm[...].astype(x_BTD.dtype), self.config)

    def hidden_suffixes(
        self, tokens_BS: jax.Array, lengths_B: jax.Array, suffixes_BWP: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Hidden states after the final norm of prompts and of several suffixes of each. Suffixes see the prompt but
        not one another: the prompt is run once, however many there are.

        Args:
          tokens_BS: int32 prompts, padded at the end.
          lengths_B: int32 prompt lengths, at least 1.
          suffixes_BWP: int32, W suffixes of P tokens per prompt.

        Returns:
          x_BD of the prompt's last token, and x_BWPD.
        """
        batch, length = tokens_BS.shape
        width, own = suffixes_BWP.shape[1:]
        check_window(self.config, length + own)
        behind_BWP = jnp.broadcast_to(lengths_B[:, None, None] + jnp.arange(own), suffixes_BWP.shape)
        before_BS = jnp.broadcast_to(jnp.arange(length), (batch, length))
        tokens_BT, positions_BT = (
            jnp.concatenate([first, then.reshape(batch, -1)], axis=1)
            for first, then in ((tokens_BS, suffixes_BWP), (before_BS, behind_BWP))
        )
        attend = suffix_attention(lengths_B, length, width, own)
        x_BTD = self._run(tokens_BT, positions_BT, attend, NO_DROPOUT)
        x_BTD = norm(x_BTD, self.final_norm[...].astype(x_BTD.dtype), self.config)
        x_BD = jnp.take_along_axis(x_BTD, (lengths_B - 1)[:, None, None], axis=1)[:, 0]
        return x_BD, x_BTD[:, length:].reshape(batch, width, own, -1)

    def layers(self, dtype: str | None = None) -> dict[str, jax.Array]:
        """{name: (L, ...)} of all layers as `lax.scan` takes it, including the factors of an adapter.

        They are in `dtype` if one is given, else as they are stored.
        """
        arrays = self.blocks.stacked() | ({} if self.adapter is None else self.adapter.factors())
        return arrays if dtype is None else {name: array.astype(dtype) for name, array in arrays.items()}

    @property
    def shares_table(self) -> bool:
        """Whether the output table is the input table, unchanged."""
        return self.head is None and self.sid_scale is None

    def output_table(self) -> jax.Array:
        """The (V, D) table whose rows score the next token: the head, or the embedding when tied, times the scales."""
        table_VD = self.embedding[...] if self.head is None else self.head[...]
        if self.sid_scale is None:
            return table_VD
        return scaled_rows(table_VD, self.sid_scale[...], self.level_sizes, self.num_tokens or table_VD.shape[0])

    def logits(self, x: jax.Array) -> jax.Array:
        """float32 logits (..., V) of hidden states (..., D); -inf for ids that are not in use."""
        table_VD = self.output_table().astype(x.dtype)
        logits = jnp.einsum("...d,vd->...v", x, table_VD, preferred_element_type=jnp.float32)
        if self.num_tokens is None or self.num_tokens == table_VD.shape[0]:
            return logits
        return jnp.where(jnp.arange(table_VD.shape[0]) < self.num_tokens, logits, -jnp.inf)

    def _embed(self, tokens: jax.Array) -> jax.Array:
        # On a mesh the table stays where it is: each device takes what lies in its rows, and the results are summed.
        table_VD = self.embedding[...]
        x = jnp.take(table_VD, tokens, axis=0)
        if self.new_rows is not None:  # avoids a gradient as large as the table
            new_nD, place = self.new_rows[...], tokens - self.frozen_rows
            is_new = ((place >= 0) & (place < len(new_nD)))[..., None]
            x = jnp.where(is_new, jnp.take(new_nD, place, axis=0, mode="clip"), jax.lax.stop_gradient(x))
        return scaled_embedding(x.astype(self.dtype), self.config)

    def _run(self, tokens_BT: jax.Array, positions_BT: jax.Array | None, attend: Attend, dropout: Dropout) -> jax.Array:
        """All layers over whole rows."""
        if positions_BT is None:
            positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1])[None], tokens_BT.shape)
        config, kinds = self.config, rotations(self.config, jnp.asarray(positions_BT)[..., None])
        x_BTD = constrain(dropout(self._embed(tokens_BT), config.num_layers), "batch", None, None)

        def layer(x_BTD, stacked):
            weights, number = stacked
            here, rotation = dropout.under(number), _rotation_of(config, kinds, number)
            normed_BTD = ROWS.norm(x_BTD, weights, "attention_norm", config)
            q_BTNH, k_BTKH = (ROWS.heads(normed_BTD, weights, name, config, rotation) for name in "qk")
            out_BTNH = attend(q_BTNH, k_BTKH, ROWS.heads(normed_BTD, weights, "v", config))
            x_BTD = ROWS.after_attention(x_BTD, out_BTNH, weights, config, here)
            return constrain(x_BTD, "batch", None, None), None

        body = jax.checkpoint(layer) if self.remat else layer
        x_BTD, _ = jax.lax.scan(body, x_BTD, (self.layers(self.dtype), jnp.arange(config.num_layers)))
        return x_BTD


def _rotation_of(config: ModelConfig, kinds: tuple[Rotation, ...], number: jax.Array) -> Rotation:
    """The rotation of a layer whose number is known only when it runs."""
    if len(kinds) == 1:
        return kinds[0]
    is_local = jnp.array(config.local_L)[number]
    return jax.tree.map(lambda of_global, of_local: jnp.where(is_local, of_local, of_global), *kinds)


@functools.partial(jax.jit, static_argnums=(2, 3))
def scaled_rows(
    table_VD: jax.Array, scale_C: jax.Array | np.ndarray, level_sizes: tuple[int, ...], num_tokens: int
) -> jax.Array:
    """A table whose SID tokens' rows are multiplied by the scale of their level, so that their logits are too.

    Args:
      table_VD: output rows.
      scale_C: float32, the scale of each level.
      level_sizes: number of SID tokens on each level; together they are the last of the ids in use.
      num_tokens: ids in use.
    """
    count = sum(level_sizes)
    scale_n = jnp.repeat(scale_C, np.array(level_sizes), total_repeat_length=count)
    factor_V = jnp.ones(table_VD.shape[0], jnp.float32).at[num_tokens - count : num_tokens].set(scale_n)
    return constrain(table_VD * factor_V[:, None].astype(table_VD.dtype), "vocabulary", None)


def random_weights(config: ModelConfig, param_dtype: str, rngs: nnx.Rngs, mesh: Mesh | None) -> dict[str, jax.Array]:
    """Fresh parameters by name: normal with deviation 0.02, norms 1, biases 0; laid out on the mesh."""
    weights = {}
    for name, (shape, logical) in parameter_shapes(config).items():
        if name.endswith("norm"):
            value = (jnp.zeros if config.kind.norm_offset else jnp.ones)(shape, param_dtype)
        elif name.endswith("bias"):
            value = jnp.zeros(shape, param_dtype)
        else:
            value = (INIT_STD * jax.random.normal(rngs.params(), shape)).astype(param_dtype)
        weights[name] = jax.device_put(value, named_sharding(mesh, *logical))
    return weights
