"""What scores the SID tokens if the rows made by SA-Init are not to do it unchanged.

A row that says what a token means is a good input. As an output it is too long: the model becomes sure of tokens it
knows nothing about. So the scores of a level can have a learned scale, or the tokens can have output rows of their own.

A level has a scale but no bias. The constrained search chooses among the tokens of one level, where a bias cancels, and
a Llama or Qwen of `transformers` has no parameter to load it into. Separate output rows can learn a bias as a component
that the rows of a level share.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tsrec_jax.models.decoder import Decoder, scaled_rows
from tsrec_jax.models.sharding import mesh_of, named_sharding

HEADS = ("plain", "scaled", "own")


def give_outputs(model: Decoder, head: str, level_sizes: tuple[int, ...]) -> Decoder:
    """Prepares a decoder to score its SID tokens in another way; its logits stay the same until something is learned.

    Args:
      model: its last ids in use are the SID tokens, level by level.
      head: one of HEADS. `plain`: the output rows as they are; `scaled`: times a scale per level, a parameter; `own`: a
        tied model gets an output table of its own, which begins as the embedding; an untied one already has it.
      level_sizes: SID tokens of each level.

    Returns:
      The model itself, or a new one that shares the other parameters.
    """
    if head == "plain" or (head == "own" and model.head is not None):
        return model
    changed = nnx.merge(*nnx.split(model))
    if head == "own":
        changed.head = nnx.data(nnx.Param(jnp.copy(model.embedding[...])))
        changed.config = dataclasses.replace(model.config, tied=False)
        return changed
    sharding = named_sharding(mesh_of(model.embedding[...]), None)
    changed.sid_scale = nnx.data(nnx.Param(jax.device_put(np.ones(len(level_sizes), np.float32), sharding)))
    changed.level_sizes = level_sizes
    return changed


def scale_outputs(model: Decoder, scales_C: np.ndarray, level_sizes: tuple[int, ...]) -> Decoder:
    """The decoder with the logits of each level's SID tokens multiplied, in its scales or, if it has none, in its head.

    Args:
      model: from `give_outputs`; not a tied one with a `plain` head, whose output rows are the input rows.
      scales_C: float32, of each level.
      level_sizes: SID tokens of each level.
    """
    changed = nnx.merge(*nnx.split(model))
    scales_C = np.asarray(scales_C, np.float32)
    if model.sid_scale is not None:
        changed.sid_scale = nnx.Param(model.sid_scale[...] * scales_C)
        return changed
    assert model.head is not None, "give_outputs comes first"
    rows_VD = model.head[...]
    changed.head = nnx.Param(scaled_rows(rows_VD, scales_C, level_sizes, model.num_tokens or rows_VD.shape[0]))
    return changed
