"""The combined loss of TS-Rec: weighted SFT terms plus lambda x TS-Align, in one forward pass over a packed batch.

Axes: A accumulation, B rows, T tokens, P loss slots of a row, D model, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp

from tsrec_jax.models.decoder import Decoder

NORMALISATIONS = ("token", "task")


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """How the terms of the loss are weighed.

    Attributes:
      task_weights: weight of each task id, in task order; TS-Align's entry is its lambda.
      normalisation: `token` divides the weighted sum by the number of loss tokens of all tasks with a positive weight
        (with weights 1 this is the reference's mean over tokens); `task` sums the weighted means of the tasks, so that
        a task's share does not depend on the length of its completions.
      chunk: loss slots of a row whose logits exist at one time; 0 means all of them.
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


def token_nll(model: Decoder, x_BPD: jax.Array, target_BP: jax.Array, chunk: int = 0) -> jax.Array:
    """Negative log-likelihood of each target; the logits are recomputed in the backward pass, chunk by chunk.

    Args:
      model: gives the output table and knows which ids are in use.
      x_BPD: hidden states at the loss positions, after the final norm.
      target_BP: int32 target ids.
      chunk: slots of P whose logits are held at once; 0 means all. P is padded up to a multiple of it.

    Returns:
      float32 nll_BP.
    """

    def chunk_nll(x_BcD, target_Bc):
        logits_BcV = model.logits(x_BcD)
        picked_Bc = jnp.take_along_axis(logits_BcV, target_Bc[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits_BcV, axis=-1) - picked_Bc

    slots = target_BP.shape[1]
    if chunk <= 0 or chunk >= slots:
        return chunk_nll(x_BPD, target_BP)
    short = -slots % chunk
    x_BPD = jnp.pad(x_BPD, ((0, 0), (0, short), (0, 0)))
    target_BP = jnp.pad(target_BP, ((0, 0), (0, short)))
    pieces = (slots + short) // chunk
    x_nBcD = x_BPD.reshape(x_BPD.shape[0], pieces, chunk, -1).swapaxes(0, 1)
    target_nBc = target_BP.reshape(target_BP.shape[0], pieces, chunk).swapaxes(0, 1)
    nll_nBc = jax.lax.map(lambda piece: jax.checkpoint(chunk_nll)(*piece), (x_nBcD, target_nBc))
    return nll_nBc.swapaxes(0, 1).reshape(target_BP.shape)[:, :slots]


def batch_nll(model: Decoder, batch: Mapping[str, jax.Array], chunk: int = 0) -> jax.Array:
    """Runs the model over packed rows and returns nll_BP at the loss slots only (empty slots hold a meaningless value).

    Args:
      model: the decoder.
      batch: `tokens_BT`, `positions_BT`, `segment_ids_BT`, `loss_index_BP`, `loss_target_BP` (see `data.input`).
      chunk: as in `token_nll`.
    """
    x_BTD = model.hidden(batch["tokens_BT"], batch["positions_BT"], batch["segment_ids_BT"])
    x_BPD = jnp.take_along_axis(x_BTD, batch["loss_index_BP"][..., None], axis=1)
    return token_nll(model, x_BPD, batch["loss_target_BP"], chunk)


def task_sums(nll: jax.Array, loss_task: jax.Array, num_tasks: int) -> jax.Array:
    """Sum of nll over the slots of each task: float32 of shape (num_tasks,)."""
    member = loss_task[..., None] == jnp.arange(num_tasks)
    return jnp.sum(jnp.where(member, nll[..., None], 0.0), axis=tuple(range(nll.ndim)))
