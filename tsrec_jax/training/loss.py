"""The combined loss of TS-Rec: weighted SFT terms plus lambda x TS-Align, in one forward pass over a packed batch.

SID tokens can be learned among their siblings in the catalogue instead of among all tokens. The loss is then that of
the constrained search, which only ever chooses among siblings, and costs a product with the SID rows only.

Axes: A accumulation, B rows, T tokens, G groups of rows, P loss slots per group, D model, V vocabulary, n SID tokens,
K SID tokens that may be right in one place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from tsrec_jax.data.sid_paths import SidPaths
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.layers import NO_DROPOUT, Dropout
from tsrec_jax.models.sharding import constrain
from tsrec_jax.training.cross_entropy import weighted_loss
from tsrec_jax.training.settings import TrainSettings
from tsrec_jax.training.step import Batch


def slot_weights(tasks: Any, weights: Sequence[float], normalisation: str = "token") -> tuple[Any, jax.Array]:
    """Weight of every loss slot, such that the loss of the whole (accumulated) batch is sum(weight x nll).

    Args:
      tasks: int32 of any shape, the task of each slot, -1 for an empty slot; or a tree of such arrays.
      weights: the weight of each task, indexed by task id; TS-Align's is its lambda.
      normalisation: `token` divides the weighted sum by the number of loss tokens of all tasks with a positive weight
        (with weights 1 this is the reference's mean over tokens); `task` sums the weighted means of the tasks, so that
        a task's share does not depend on the length of its completions.

    Returns:
      float32 weights of the same shapes (0 for empty slots) and the float32 token count of each task.
    """
    weight_of_task = jnp.asarray(weights, jnp.float32)
    members = jax.tree.map(lambda task: task[..., None] == jnp.arange(len(weights)), tasks)
    counts = sum(
        member.sum(tuple(range(member.ndim - 1)), dtype=jnp.float32) for member in jax.tree_util.tree_leaves(members)
    )
    if normalisation == "token":
        per_task = weight_of_task / jnp.maximum(jnp.sum(counts * (weight_of_task > 0)), 1.0)
    else:
        per_task = weight_of_task / jnp.maximum(counts, 1.0)
    return jax.tree.map(lambda member: jnp.sum(member * per_task, axis=-1), members), counts


def loss_tasks(batch: Batch) -> dict[str, jax.Array]:
    """The task of every loss slot of a batch, and of every position (if any) at which a SID token is learned."""
    return {name: batch[name] for name in ("loss_task_GP", "sid_task_BT") if name in batch}


def hidden_states(model: Decoder, batch: Batch, dropout: float = 0.0) -> jax.Array:
    """x_BTD of a packed batch after the final norm, in the compute dtype; dropout needs `dropout_key` in the batch."""
    drop = Dropout(dropout, batch["dropout_key"]) if dropout else NO_DROPOUT
    return model.hidden(batch["tokens_BT"], batch["positions_BT"], batch["segment_ids_BT"], drop)


def batch_loss(
    model: Decoder,
    x_BTD: jax.Array,
    batch: Batch,
    weights: Mapping[str, jax.Array],
    chunk: int = 0,
    paths: SidPaths | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """sum(weight x nll) over packed rows, to be differentiated, and the nll of what is learned.

    Args:
      model: the decoder.
      x_BTD: its `hidden_states` of the batch.
      batch: `loss_index_GP` and `loss_target_GP` (see `data.input`).
      weights: the weight of each loss slot, keyed as in `loss_tasks`; see `slot_weights`.
      chunk: slots per group whose logits exist at one time; 0 means all of them.
      paths: the SID paths that the batch was made with.

    Returns:
      The loss, and the float32 nll, keyed as in `loss_tasks`. No gradient flows through the nll, and empty slots hold a
      meaningless value.
    """
    index_GP, target_GP, table_VD = batch["loss_index_GP"], batch["loss_target_GP"], model.output_table()
    x_GSD = x_BTD.reshape(index_GP.shape[0], -1, x_BTD.shape[-1])
    x_GPD = constrain(jnp.take_along_axis(x_GSD, index_GP[..., None], axis=1), "batch", None, None)
    total, nll_GP = weighted_loss(
        x_GPD,
        table_VD,
        target_GP,
        weights["loss_task_GP"],
        num_tokens=model.num_tokens,
        chunk=chunk,
        frozen_rows=model.frozen_rows,
    )
    if paths is None:
        return total, {"loss_task_GP": nll_GP}
    nll_BT = catalogue_nll(x_BTD, table_VD, batch, paths)
    total += jnp.sum(nll_BT * weights["sid_task_BT"])
    return total, {"loss_task_GP": nll_GP, "sid_task_BT": jax.lax.stop_gradient(nll_BT)}


def batch_nll(model: Decoder, batch: Batch, chunk: int = 0, paths: SidPaths | None = None) -> dict[str, jax.Array]:
    """The nll of `batch_loss` alone."""
    weightless = {name: jnp.zeros(task.shape) for name, task in loss_tasks(batch).items()}
    return batch_loss(model, hidden_states(model, batch), batch, weightless, chunk, paths)[1]


def catalogue_nll(x_BTD: jax.Array, table_VD: jax.Array, batch: Batch, paths: SidPaths) -> jax.Array:
    """Negative log-likelihood of SID tokens among the children of their node, at every position.

    If several tokens share a place, their mean weighted by share: a cross-entropy with soft targets.

    Args:
      x_BTD: hidden states after the final norm, in the compute dtype.
      table_VD: output table, whose rows from `paths.first_id` on belong to the SID tokens.
      batch: `sid_node_BT`, `sid_target_BTK` and `sid_target_probs_BTK`.
      paths: the SID paths of the catalogue.

    Returns:
      float32 nll_BT; meaningless where no SID token is learned.
    """
    first, size = paths.first_id, len(paths.levels_n)
    rows_nD = constrain(table_VD[first : first + size].astype(x_BTD.dtype), None, None)
    allowed_Nn = jnp.asarray(paths.allowed_Nn)

    @jax.checkpoint
    def nll(x_BTD, rows_nD):
        logits_BTn = jnp.einsum("btd,nd->btn", x_BTD, rows_nD, preferred_element_type=jnp.float32)
        allowed_BTn = jnp.take(allowed_Nn, batch["sid_node_BT"], axis=0)
        picked_BTK = jnp.take_along_axis(logits_BTn, batch["sid_target_BTK"], axis=-1)
        right_BT = jnp.sum(picked_BTK * batch["sid_target_probs_BTK"], axis=-1)
        return jax.nn.logsumexp(logits_BTn, axis=-1, where=allowed_BTn) - right_BT

    return nll(x_BTD, rows_nD)


def task_sums(nll: Any, tasks: Any, num_tasks: int) -> jax.Array:
    """Sum of nll over the slots of each task, for arrays or trees of arrays: float32 of shape (num_tasks,)."""

    def of_leaf(nll: jax.Array, task: jax.Array) -> jax.Array:
        member = task[..., None] == jnp.arange(num_tasks)
        return jnp.sum(jnp.where(member, nll[..., None], 0.0), axis=tuple(range(nll.ndim)))

    return sum(jax.tree_util.tree_leaves(jax.tree.map(of_leaf, nll, tasks)), jnp.zeros(num_tasks))


@dataclasses.dataclass(frozen=True)
class SftLoss:
    """The combined loss as a training step takes it (`step.Loss`).

    Attributes:
      weights: the weight of each task, in the order of the task ids.
      settings: the settings; only `loss_normalisation` and `loss_chunk` are read.
      paths: the SID paths that the batches were made with, if SID tokens are learned among their siblings.
    """

    weights: Mapping[str, float]
    settings: TrainSettings
    paths: SidPaths | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """The tasks."""
        return tuple(self.weights)

    def weigh(self, batch: Batch) -> tuple[Batch, jax.Array]:
        """Adds the `weights` of every loss slot, keyed as in `loss_tasks`, and counts the loss tokens of each task."""
        weights, counts = slot_weights(
            loss_tasks(batch), tuple(self.weights.values()), self.settings.loss_normalisation
        )
        return {**batch, "weights": weights}, counts

    def at_states(self, model: Decoder, x_BTD: jax.Array, micro: Batch) -> tuple[jax.Array, jax.Array]:
        """sum(weight x nll), and the sum of nll of each task, from the hidden states of the batch."""
        total, nll = batch_loss(model, x_BTD, micro, micro["weights"], self.settings.loss_chunk, self.paths)
        return total, task_sums(nll, loss_tasks(micro), len(self.weights))

    def __call__(self, model: Decoder, micro: Batch) -> tuple[jax.Array, jax.Array]:
        """As `at_states`, after computing the hidden states."""
        return self.at_states(model, hidden_states(model, micro, self.settings.dropout), micro)
