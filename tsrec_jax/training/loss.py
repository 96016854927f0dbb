"""The combined loss of TS-Rec: weighted SFT terms plus lambda x TS-Align, in one forward pass over a packed batch.

Axes: A accumulation, B rows, T tokens, G groups of rows, P loss slots of a group, D model, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp

from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.sharding import constrain
from tsrec_jax.training.cross_entropy import token_nll, weighted_loss

NORMALISATIONS = ("token", "task")


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """How the terms of the loss are weighed.

    Attributes:
      task_weights: weight of each task id, in task order; TS-Align's entry is its lambda.
      normalisation: `token` divides the weighted sum by the number of loss tokens of all tasks with a positive weight
        (with weights 1 this is the reference's mean over tokens); `task` sums the weighted means of the tasks, so that
        a task's share does not depend on the length of its completions.
      chunk: loss slots of a group whose logits exist at one time; 0 means all of them.
    """

    task_weights: tuple[float, ...]
    normalisation: Literal["token", "task"] = "token"
    chunk: int = 0

    def __post_init__(self):
        if self.normalisation not in NORMALISATIONS:
            raise ValueError(f"normalisation {self.normalisation!r} is not one of {NORMALISATIONS}")


def slot_weights(loss_task: jax.Array, settings: LossSettings) -> tuple[jax.Array, jax.Array]:
    """Weight of every loss slot, such that the loss of the whole (accumulated) batch is sum(weight x nll).

    Args:
      loss_task: int32 of any shape, the task of each slot, -1 for an empty slot.
      settings: weights and normalisation.

    Returns:
      float32 weights of the same shape (0 for empty slots) and the float32 token count of each task.
    """
    weights = jnp.asarray(settings.task_weights, jnp.float32)
    member = loss_task[..., None] == jnp.arange(weights.shape[0])
    counts = member.sum(tuple(range(loss_task.ndim)), dtype=jnp.float32)
    if settings.normalisation == "token":
        per_task = weights / jnp.maximum(jnp.sum(counts * (weights > 0)), 1.0)
    else:
        per_task = weights / jnp.maximum(counts, 1.0)
    return jnp.sum(member * per_task, axis=-1), counts


def batch_nll(model: Decoder, batch: Mapping[str, jax.Array], chunk: int = 0) -> jax.Array:
    """Runs the model over packed rows and returns nll_GP at the loss slots only, without a gradient.

    Args:
      model: the decoder.
      batch: `tokens_BT`, `positions_BT`, `segment_ids_BT`, `loss_index_GP`, `loss_target_GP` (see `data.input`).
      chunk: slots of a group whose logits exist at one time; 0 means all of them.

    Returns:
      float32; empty slots hold a meaningless value.
    """
    x_GPD = _hidden_at_slots(model, batch)
    table_VD = model.output_table()
    return token_nll(x_GPD, table_VD, batch["loss_target_GP"], num_tokens=model.num_tokens, chunk=chunk)


def batch_loss(
    model: Decoder, batch: Mapping[str, jax.Array], weight_GP: jax.Array, chunk: int = 0
) -> tuple[jax.Array, jax.Array]:
    """sum(weight x nll) of packed rows, to be differentiated, and nll_GP without a gradient.

    Args:
      model, batch, chunk: as in `batch_nll`.
      weight_GP: of each loss slot, see `slot_weights`.
    """
    x_GPD = _hidden_at_slots(model, batch)
    table_VD, target_GP = model.output_table(), batch["loss_target_GP"]
    return weighted_loss(x_GPD, table_VD, target_GP, weight_GP, num_tokens=model.num_tokens, chunk=chunk)


def _hidden_at_slots(model: Decoder, batch: Mapping[str, jax.Array]) -> jax.Array:
    """x_GPD: the hidden state from which each loss slot's target is predicted."""
    x_BTD = model.hidden(batch["tokens_BT"], batch["positions_BT"], batch["segment_ids_BT"])
    index_GP = batch["loss_index_GP"]
    x_GSD = x_BTD.reshape(index_GP.shape[0], -1, x_BTD.shape[-1])
    return constrain(jnp.take_along_axis(x_GSD, index_GP[..., None], axis=1), "batch", None, None)


def task_sums(nll: jax.Array, loss_task: jax.Array, num_tasks: int) -> jax.Array:
    """Sum of nll over the slots of each task: float32 of shape (num_tasks,)."""
    member = loss_task[..., None] == jnp.arange(num_tasks)
    return jnp.sum(jnp.where(member, nll[..., None], 0.0), axis=tuple(range(nll.ndim)))
