"""Items and users as vectors of one space, in the model that also writes SIDs: scores all items at once.

An item's vector is made from its SID and its text, a user's from the model's state at the end of the prompt and the
recent items of the history. Both are scaled to length 1, and the score is their cosine over a temperature (LIGER, arXiv
2411.18814; BARGE, arXiv 2607.21028). Items in a history have kernels of their own: with those of the items, "b follows
a" would also mean that a follows b, and nothing would follow an item as well as itself. They begin equal to those of
the items, so that a head begins as a recommender by text alone, which compares the history's items, the newest weighted
a little more, with all items.

Training knows the items of a history by their SIDs, which several items may share. So an item of a history counts as
the mean of all items that share its SID, in training and later.

Axes: I items, U different SIDs, C SID levels, D model, F features of a text, R places of a history that are
distinguished, B requests, H items of a history, V vocabulary, n SID tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from tsrec_jax.models.sharding import constrain, named_sharding

RECENT = 32  # R: older items weigh as much as the last of these
NEWEST = 0.1  # how much less an item weighs at the start, in log units, than the one after it
SMALL = 0.1  # weight of the user's state and the items' SID rows at the start, relative to the texts
EPSILON = 1e-12
PARTS = ("item_vectors_ID", "history_vectors_ID", "state_DD", "recency_R", "history_gain")


class Given(nnx.Variable):
    """What a head is given and does not learn."""


def unit(x: jax.Array) -> jax.Array:
    """float32 vectors of length 1 along the last axis; a zero vector stays zero."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + EPSILON)


def user_vectors(state: jax.Array, history_mean: jax.Array, state_DD: jax.Array, history_gain: jax.Array) -> jax.Array:
    """float32 vectors of users, of length 1.

    Args:
      state: hidden states after the final norm, (..., D), where the next SID begins.
      history_mean: weighted means of the vectors of the histories' items, (..., D); 0 if there is none.
      state_DD: kernel for the states.
      history_gain: scalar, weight of the history relative to the state.
    """
    state = state.astype(jnp.float32)
    state = state * jax.lax.rsqrt(jnp.mean(jnp.square(state), axis=-1, keepdims=True) + EPSILON)
    return unit(state @ state_DD + history_gain * history_mean)


def history_weights(recency_R: jax.Array, age: jax.Array, seen: jax.Array) -> jax.Array:
    """Weights of a history's items along the last axis, which sum to 1, or to 0 if there are none.

    Args:
      recency_R: log weight by age.
      age: int32, 0 for the newest item.
      seen: bool, whether there is an item.
    """
    weight = jnp.where(seen, jnp.exp(recency_R[jnp.clip(age, 0, recency_R.shape[0] - 1)]), 0.0)
    return weight / jnp.maximum(jnp.sum(weight, axis=-1, keepdims=True), EPSILON)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DenseScorer:
    """A trained head as plain arrays: all that scoring needs besides the model's state. Items are in catalogue order.

    Attributes:
      item_vectors_ID: float32, of length 1.
      history_vectors_ID: float32, what each item counts for in a history.
      state_DD: float32 kernel for the model's state.
      recency_R: float32 log weights of a history's items by age, the newest first.
      history_gain: float32 scalar.
      temperature: that cosines are divided by.
    """

    item_vectors_ID: jax.Array
    history_vectors_ID: jax.Array
    state_DD: jax.Array
    recency_R: jax.Array
    history_gain: jax.Array
    temperature: float = dataclasses.field(metadata={"static": True})

    def user_vectors(self, x_BD: jax.Array, history_BH: jax.Array, lengths_B: jax.Array) -> jax.Array:
        """float32 u_BD, of length 1.

        Args:
          x_BD: hidden state of each prompt's last token after the final norm, as `inference.prefill` gives it (there
            x_DB).
          history_BH: int32 items, oldest first, padded at the end with any item.
          lengths_B: int32 items of each history; 0 is possible.
        """
        age_BH = lengths_B[:, None] - 1 - jnp.arange(history_BH.shape[1])
        weight_BH = history_weights(self.recency_R, age_BH, age_BH >= 0)
        mean_BD = jnp.einsum("bh,bhd->bd", weight_BH, self.history_vectors_ID[history_BH])
        return user_vectors(x_BD, mean_BD, self.state_DD, self.history_gain)

    def scores(self, x_BD: jax.Array, history_BH: jax.Array, lengths_B: jax.Array) -> jax.Array:
        """float32 log P(item) over the whole catalogue, (B, I), in nats; arguments as in `user_vectors`."""
        u_BD = self.user_vectors(x_BD, history_BH, lengths_B)
        return jax.nn.log_softmax(u_BD @ self.item_vectors_ID.T / self.temperature, axis=-1)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name, for a file."""
        parts = {name: np.asarray(getattr(self, name), np.float32) for name in PARTS}
        return parts | {"temperature": np.asarray(self.temperature)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> DenseScorer:
        """The scorer that `to_arrays` described.

        Raises:
          KeyError: an array is missing.
        """
        vectors_ID, history_ID, state_DD, recency_R, history_gain = (jnp.asarray(arrays[name]) for name in PARTS)
        return cls(vectors_ID, history_ID, state_DD, recency_R, history_gain, float(arrays["temperature"]))


class DenseHead(nnx.Module):
    """The head in training, a part of the decoder.

    Args:
      texts_IF: float32 vectors of the items' texts, which are not learned.
      tokens_IC: int32, the tokens of each item's SID as places among the SID tokens.
      first_id: id of the first SID token; the others follow it.
      sids_I: int32, for each item the number of its SID among the different ones.
      d_model: D.
      temperature: that cosines are divided by.
      rngs: draws the kernels.
      mesh: all arrays are copied to its devices; None for one device.

    Attributes:
      members_UK: int32, the items of each SID, filled up with -1 to the most that share one.
    """

    def __init__(
        self,
        texts_IF: np.ndarray,
        tokens_IC: np.ndarray,
        sids_I: np.ndarray,
        *,
        first_id: int,
        d_model: int,
        temperature: float,
        rngs: nnx.Rngs,
        mesh: Mesh | None = None,
    ):
        def placed(array: np.ndarray | jax.Array) -> jax.Array:
            return jax.device_put(array, named_sharding(mesh, *(None,) * np.ndim(array)))

        features = texts_IF.shape[1]
        draw = jax.nn.initializers.normal(SMALL / d_model)
        # Orthonormal rows or columns: the cosines of the texts stay the same, as far as D has room for them.
        spread = jax.nn.initializers.orthogonal()
        self.text_FD = nnx.Param(placed(spread(rngs.params(), (features, d_model))))
        self.sid_DD = nnx.Param(placed(draw(rngs.params(), (d_model, d_model))))
        self.history_text_FD = nnx.Param(placed(np.asarray(self.text_FD[...])))
        self.history_sid_DD = nnx.Param(placed(np.asarray(self.sid_DD[...])))
        self.state_DD = nnx.Param(placed(draw(rngs.params(), (d_model, d_model))))
        self.recency_R = nnx.Param(placed(-NEWEST * np.arange(RECENT, dtype=np.float32)))
        self.history_gain = nnx.Param(placed(np.ones((), np.float32)))
        self.texts_IF = Given(placed(np.asarray(texts_IF, np.float32)))
        self.tokens_IC = Given(placed(np.asarray(tokens_IC, np.int32)))
        self.sids_I = Given(placed(np.asarray(sids_I, np.int32)))
        self.members_UK = Given(placed(_members(np.asarray(sids_I))))
        self.first_id, self.num_tokens = first_id, int(np.max(tokens_IC)) + 1
        self.num_sids = int(np.max(sids_I)) + 1
        self.temperature = temperature

    def vectors(self, embedding_VD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The vectors of the catalogue, computed with the model's input table.

        Returns:
          float32 v_ID of the items, of length 1, and h_UD of the different SIDs in a history, means over the items that
          share a SID of vectors of length 1.
        """
        rows_nD = embedding_VD[self.first_id : self.first_id + self.num_tokens].astype(jnp.float32)
        rows_ID = jnp.mean(constrain(rows_nD, None, None)[self.tokens_IC[...]], axis=1)
        v_ID = unit(self.texts_IF[...] @ self.text_FD[...] + rows_ID @ self.sid_DD[...])
        h_ID = unit(self.texts_IF[...] @ self.history_text_FD[...] + rows_ID @ self.history_sid_DD[...])
        counts_U = jax.ops.segment_sum(jnp.ones(len(h_ID)), self.sids_I[...], self.num_sids)
        return v_ID, jax.ops.segment_sum(h_ID, self.sids_I[...], self.num_sids) / counts_U[:, None]

    def scorer(self, embedding_VD: jax.Array) -> DenseScorer:
        """The head as plain arrays, computed with the model's input table."""
        v_ID, h_UD = self.vectors(embedding_VD)
        learned = self.state_DD[...], self.recency_R[...], self.history_gain[...]
        return DenseScorer(v_ID, h_UD[self.sids_I[...]], *learned, temperature=self.temperature)


def _members(sids_I: np.ndarray) -> np.ndarray:
    """int32 members_UK: the items of each SID, filled up with -1."""
    order_I = np.argsort(sids_I, kind="stable")
    counts_U = np.bincount(sids_I)
    place_I = np.arange(len(sids_I)) - np.repeat(np.cumsum(counts_U) - counts_U, counts_U)
    members_UK = np.full((len(counts_U), counts_U.max()), -1, np.int32)
    members_UK[sids_I[order_I], place_I] = order_I
    return members_UK
