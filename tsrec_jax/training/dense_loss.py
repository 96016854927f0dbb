"""The loss of the dense head, added to that of the SIDs and computed from the same hidden states: a softmax over items.

Every place of a packed row at which a next item is learned has its own user: the state before the item's SID, and the
items that precede it in the same example.

The scores of all items exist for one piece of the slots at a time, and only for pieces in which an item is learned.

Axes: A accumulation, B rows, T tokens, S item slots per row, G groups of rows, Q item slots per group, c per piece,
I items, U different SIDs, K items that share one, D model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.dense_head import DenseHead, history_weights, user_vectors
from tsrec_jax.models.sharding import constrain
from tsrec_jax.training.loss import SftLoss, hidden_states
from tsrec_jax.training.step import Batch


def place_users(
    head: DenseHead, embedding_VD: jax.Array, x_BTD: jax.Array, batch: Batch
) -> tuple[jax.Array, jax.Array]:
    """The users of a packed batch, one before each of its items, and the items of the catalogue.

    Args:
      head: the dense head.
      embedding_VD: the model's input table.
      x_BTD: its hidden states of the batch.
      batch: with the keys of `data.item_places`.

    Returns:
      float32 u_BSD and v_ID, both of length 1; the values of empty slots are arbitrary.
    """
    sid_BS, segment_BS = batch["item_sid_BS"], batch["item_segment_BS"]
    v_ID, h_UD = head.vectors(embedding_VD)
    slot_S = jnp.arange(sid_BS.shape[1])
    age_SS = slot_S[:, None] - slot_S - 1
    seen_BSS = (segment_BS[:, :, None] == segment_BS[:, None]) & (sid_BS[:, None] >= 0) & (age_SS >= 0)
    weight_BSS = history_weights(head.recency_R[...], age_SS, seen_BSS)
    mean_BSD = jnp.einsum("bst,btd->bsd", weight_BSS, h_UD[jnp.maximum(sid_BS, 0)])
    state_BSD = jnp.take_along_axis(x_BTD, batch["item_place_BS"][..., None], axis=1)
    u_BSD = user_vectors(state_BSD, mean_BSD, head.state_DD[...], head.history_gain[...])
    return constrain(u_BSD, "batch", None, None), v_ID


def item_nll(head: DenseHead, logits_BSI: jax.Array, sid_BS: jax.Array, among_I: np.ndarray) -> jax.Array:
    """float32 nll_BS of the items that have each slot's SID, taken together.

    Args:
      head: the dense head.
      logits_BSI: logits from `item_logits`.
      sid_BS: the numbers of the SIDs.
      among_I: bool, the items that the softmax runs over. It contains all items of a SID or none of them; for a SID
        with none, the nll is finite but meaningless.
    """
    members_BSK = head.members_UK[...][jnp.maximum(sid_BS, 0)]
    own_BSK = jnp.take_along_axis(logits_BSI, jnp.maximum(members_BSK, 0), axis=-1)
    own_BS = jax.nn.logsumexp(own_BSK, axis=-1, where=members_BSK >= 0)
    return jax.nn.logsumexp(logits_BSI, axis=-1, where=among_I) - own_BS


def items_above(head: DenseHead, logits_BSI: jax.Array, sid_BS: jax.Array) -> jax.Array:
    """int32 (B, S): how many items score above the best of those that have the slot's SID."""
    members_BSK = head.members_UK[...][jnp.maximum(sid_BS, 0)]
    own_BSK = jnp.take_along_axis(logits_BSI, jnp.maximum(members_BSK, 0), axis=-1)
    best_BS1 = jnp.max(jnp.where(members_BSK >= 0, own_BSK, -jnp.inf), axis=-1, keepdims=True)
    return jnp.sum(logits_BSI > best_BS1, axis=-1)


def item_logits(head: DenseHead, u_BSD: jax.Array, v_ID: jax.Array) -> jax.Array:
    """float32 logits_BSI of all items."""
    return jnp.einsum("bsd,id->bsi", u_BSD, v_ID) / head.temperature


Slots = Mapping[str, jax.Array]  # arrays of item slots: `sid`, `learned` and whatever else a sum needs


def learned_sums(
    summed: Callable[[jax.Array, Slots], Sequence[jax.Array]],
    head: DenseHead,
    users: tuple[jax.Array, jax.Array],
    batch: Batch,
    chunk: int = 0,
    **more_BS: jax.Array,
) -> jax.Array:
    """Sums over the learned items of a packed batch, each of which sees the scores of all items.

    The learned slots of a group are gathered and taken `chunk` at a time, as `weighted_loss` takes loss slots; a piece
    without learned slots costs nothing.

    Args:
      summed: maps float32 logits (G, c, I) and the arrays of these slots (G, c) to scalars, to which slots that are not
        learned must add nothing.
      head: the dense head.
      users: users and items from `place_users`.
      batch: with the keys of `data.item_places`.
      chunk: slots per group whose logits exist at one time; 0 means all.
      more_BS: further arrays of the slots, in addition to `sid` and `learned`.

    Returns:
      The scalars, float32, in one vector.
    """
    u_BSD, v_ID = users
    slots_BS = {"sid": batch["item_sid_BS"], "learned": batch["item_learned_BS"], **more_BS}
    groups = batch["loss_index_GP"].shape[0]

    def grouped(array_BS: jax.Array) -> jax.Array:
        return array_BS.reshape(groups, -1, *array_BS.shape[2:])

    order_GQ = jnp.argsort(~grouped(slots_BS["learned"]), axis=1, stable=True)

    def learned_first(array_BS: jax.Array) -> jax.Array:
        order = order_GQ.reshape(*order_GQ.shape, *(1,) * (array_BS.ndim - 2))
        array_GQ = jnp.take_along_axis(grouped(array_BS), order, axis=1)
        return constrain(array_GQ, "batch", *(None,) * (array_GQ.ndim - 1))

    def piece(v_ID: jax.Array, u_GcD: jax.Array, slots_Gc: Slots) -> jax.Array:
        return jnp.stack(summed(item_logits(head, u_GcD, v_ID), slots_Gc))

    @jax.checkpoint
    def piece_or_nothing(v_ID: jax.Array, u_GcD: jax.Array, slots_Gc: Slots) -> jax.Array:
        def nothing(*of: object) -> jax.Array:
            return jnp.zeros(jax.eval_shape(piece, *of).shape)

        return jax.lax.cond(jnp.any(slots_Gc["learned"]), piece, nothing, v_ID, u_GcD, slots_Gc)

    ordered = jax.tree.map(learned_first, (u_BSD, slots_BS))
    slots = order_GQ.shape[1]
    if chunk <= 0 or chunk >= slots:
        return jax.checkpoint(piece)(v_ID, *ordered)

    def pieces(array_GQ: jax.Array) -> jax.Array:
        padded = jnp.pad(array_GQ, ((0, 0), (0, -slots % chunk)) + ((0, 0),) * (array_GQ.ndim - 2))
        return padded.reshape(groups, -1, chunk, *array_GQ.shape[2:]).swapaxes(0, 1)

    def add(total: jax.Array, taken: tuple[jax.Array, Slots]) -> tuple[jax.Array, None]:
        return total + piece_or_nothing(v_ID, *taken), None

    taken = jax.tree.map(pieces, ordered)
    first = jax.eval_shape(piece, v_ID, *jax.tree.map(lambda array: array[0], taken))
    return jax.lax.scan(add, jnp.zeros(first.shape, first.dtype), taken)[0]


def head_of(model: Decoder) -> DenseHead:
    """The dense head of a model that has one."""
    assert model.dense is not None
    return model.dense


@dataclasses.dataclass(frozen=True)
class DenseLoss:
    """The loss of the SIDs plus that of the dense head, as a training step takes it (`step.Loss`).

    Attributes:
      sids: the loss of the SIDs.
      weight: weight of the dense head's mean over all items to learn.
      known_I: bool, the items whose SIDs occur in train. The softmax leaves out the others: they are never right in
        training, and as wrong answers they would be pushed down whatever their texts say.
    """

    sids: SftLoss
    weight: float
    known_I: np.ndarray

    @property
    def parts(self) -> tuple[str, ...]:
        """The tasks, and the dense head."""
        return (*self.sids.parts, "dense")

    def weigh(self, batch: Batch) -> tuple[Batch, jax.Array]:
        """Adds `item_weight_BS` to what `SftLoss.weigh` adds, and counts the items that the head learns."""
        batch, counts = self.sids.weigh(batch)
        learned = batch["item_learned_BS"].astype(jnp.float32)
        count = jnp.sum(learned)
        return {**batch, "item_weight_BS": self.weight * learned / jnp.maximum(count, 1.0)}, jnp.append(counts, count)

    def __call__(self, model: Decoder, micro: Batch) -> tuple[jax.Array, jax.Array]:
        """The sum of both losses, and the sum of nll of each part."""
        x_BTD = hidden_states(model, micro, self.sids.settings.dropout)
        total, sums = self.sids.at_states(model, x_BTD, micro)
        head = head_of(model)
        # One loss after the other: XLA:CPU may run independent operations at once, and if several emulated devices
        # share few threads, collectives then wait for each other for ever.
        total, x_BTD, embedding_VD = jax.lax.optimization_barrier((total, x_BTD, model.embedding[...]))

        def summed(logits_GcI: jax.Array, slots_Gc: Slots) -> tuple[jax.Array, jax.Array]:
            nll_Gc = jnp.where(slots_Gc["learned"], item_nll(head, logits_GcI, slots_Gc["sid"], self.known_I), 0.0)
            return jnp.sum(nll_Gc * slots_Gc["weight"]), jnp.sum(nll_Gc)

        users = place_users(head, embedding_VD, x_BTD, micro)
        chunk = self.sids.settings.loss_chunk
        loss, nll_sum = learned_sums(summed, head, users, micro, chunk, weight=micro["item_weight_BS"])
        return total + loss, jnp.append(sums, nll_sum)
