"""SASRec (Kang and McAuley, 2018, arXiv 1808.09781), with a softmax over all items and, if wanted, item texts.

A causal transformer reads the items of a history; the cosine of its state at the newest item with an item's embedding,
over a temperature, is the item's score. (With plain products, popular items grow long, and the model overfits sooner.)
With texts an item's embedding is its own row plus a projection of its text features. An item that
never occurs in train has its text alone; so that this is learned too, training sometimes drops the own rows of known
items (as DropoutNet does, Volkovs et al., 2017), and never pushes unknown items down as wrong answers.

Axis letters: B rows, T slots, S slots attended to, D width, N heads, H head width, I items, K text features.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

# Scale of the initial values of items and positions. Larger ones are noise in the logits, which rare items keep.
START_SCALE = 0.02


@dataclasses.dataclass(frozen=True)
class Shape:
    """The shape of the model.

    Attributes:
      width: D.
      blocks: layers.
      heads: N.
      mlp: width inside a block's feed-forward part.
      dropout: share of the states that are zeroed while training, after the embedding, in attention and in each part.
      id_dropout: with texts, share of the items whose own rows are zeroed in a step of training.
      temperature: what the cosines are divided by to be logits.
    """

    width: int = 128
    blocks: int = 2
    heads: int = 2
    mlp: int = 256
    dropout: float = 0.5
    id_dropout: float = 0.5
    temperature: float = 0.07


class Constant(nnx.Variable):
    """What the model holds and does not learn."""


class Block(nnx.Module):
    """Norm, attention within the chain and backwards, norm, feed-forward; both added to the states."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs) -> None:
        self.heads = shape.heads
        self.norm_attention = nnx.LayerNorm(shape.width, rngs=rngs)
        self.qkv = nnx.Linear(shape.width, 3 * shape.width, rngs=rngs)
        self.out = nnx.Linear(shape.width, shape.width, rngs=rngs)
        self.norm_mlp = nnx.LayerNorm(shape.width, rngs=rngs)
        self.up = nnx.Linear(shape.width, shape.mlp, rngs=rngs)
        self.down = nnx.Linear(shape.mlp, shape.width, rngs=rngs)
        self.dropout = nnx.Dropout(shape.dropout)

    def __call__(self, x_BTD: jax.Array, mask_BTS: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        """float32 (B, T, D); dropout where `rngs` is given."""
        x_BTD = x_BTD + self._drop(self.out(self._attend(self.norm_attention(x_BTD), mask_BTS, rngs)), rngs)
        return x_BTD + self._drop(self.down(jax.nn.gelu(self.up(self.norm_mlp(x_BTD)))), rngs)

    def _attend(self, x_BTD: jax.Array, mask_BTS: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        batch, slots, width = x_BTD.shape
        q, k, v = jnp.split(self.qkv(x_BTD).reshape(batch, slots, 3 * self.heads, -1), 3, axis=2)
        scores_BNTS = jnp.einsum("BTNH,BSNH->BNTS", q, k) / np.sqrt(width // self.heads)
        shares_BNTS = jax.nn.softmax(jnp.where(mask_BTS[:, None], scores_BNTS, -jnp.inf))
        return jnp.einsum("BNTS,BSNH->BTNH", self._drop(shares_BNTS, rngs), v).reshape(batch, slots, width)

    def _drop(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        return self.dropout(x, deterministic=rngs is None, rngs=rngs)


class SasRec(nnx.Module):
    """The model.

    Args:
      known_I: bool, the items that occur in train.
      context: longest history.
      shape: see `Shape`.
      features_IK: float32 text features; None: ids alone.
      rngs: of the weights.
    """

    def __init__(
        self, known_I: np.ndarray, context: int, shape: Shape, features_IK: np.ndarray | None, rngs: nnx.Rngs
    ) -> None:
        def draw(*size: int, scale: float = START_SCALE) -> nnx.Param:
            return nnx.Param(scale * jax.random.normal(rngs.params(), size))

        self.item_ID = draw(len(known_I), shape.width)
        self.position_TD = draw(context, shape.width)
        self.norm_embedding = nnx.LayerNorm(shape.width, rngs=rngs)
        self.blocks = nnx.List([Block(shape, rngs) for _ in range(shape.blocks)])
        self.norm = nnx.LayerNorm(shape.width, rngs=rngs)
        self.dropout = nnx.Dropout(shape.dropout)
        self.temperature = shape.temperature
        self.has_text = features_IK is not None
        if features_IK is not None:
            self.features_IK = Constant(jnp.asarray(features_IK))
            self.known_I = Constant(jnp.asarray(known_I))
            self.id_dropout = nnx.Dropout(shape.id_dropout, broadcast_dims=(1,))
            self.project_KD = draw(features_IK.shape[1], shape.width, scale=shape.width**-0.5)

    def items(self, rngs: nnx.Rngs | None = None) -> jax.Array:
        """float32 table_ID of the items' embeddings, of length 1; with dropout of own rows where `rngs` is given."""
        if not self.has_text:
            return _unit(self.item_ID[...])
        own_ID = self.id_dropout(self.item_ID[...], deterministic=rngs is None, rngs=rngs)
        known_ID = jnp.where(self.known_I[...][:, None], own_ID, 0)
        return _unit(known_ID + self.features_IK[...] @ self.project_KD[...])

    def answers(self, logits_BTI: jax.Array) -> jax.Array:
        """The logits that training takes the softmax of: with texts, -inf for items that never occur in train."""
        return jnp.where(self.known_I[...], logits_BTI, -jnp.inf) if self.has_text else logits_BTI

    def __call__(
        self,
        table_ID: jax.Array,
        items_BT: jax.Array,
        positions_BT: jax.Array,
        segments_BT: jax.Array,
        rngs: nnx.Rngs | None = None,
    ) -> jax.Array:
        """float32 states_BTD of length 1 / temperature: what comes after a slot, from its chain's slots up to itself.

        Args:
          table_ID: what `items` gives.
          items_BT, positions_BT, segments_BT: as in `packed_chains.Packed`.
          rngs: of dropout while training; None: no dropout.
        """
        x_BTD = self.norm_embedding(
            table_ID[items_BT] * np.sqrt(table_ID.shape[1]) + self.position_TD[...][positions_BT]
        )
        x_BTD = self.dropout(x_BTD, deterministic=rngs is None, rngs=rngs)
        slots = jnp.arange(items_BT.shape[1])
        same_BTS = segments_BT[:, :, None] == segments_BT[:, None, :]
        mask_BTS = same_BTS & (slots[:, None] >= slots[None, :])
        for block in self.blocks:
            x_BTD = block(x_BTD, mask_BTS, rngs)
        return _unit(self.norm(x_BTD)) / self.temperature


def _unit(x: jax.Array) -> jax.Array:
    """Vectors along the last axis scaled to length 1; one of zeros, as of an unknown item without a text, stays so."""
    return x * jax.lax.rsqrt(jnp.square(x).sum(axis=-1, keepdims=True) + 1e-12)
