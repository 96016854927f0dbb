"""The inputs of an objective: the candidates of each prompt, their log-probabilities and their rewards.

Axis letters: B prompts, W candidates, of which number 0 is the target, C levels, K children of a prefix, G beams,
M items of the teacher.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from tsrec_jax.rl.settings import RlSettings


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Candidates:
    """The distinct SIDs compared for each prompt.

    Attributes:
      codes_BWC: int32; a candidate that is not valid has the target's codes.
      valid_BW: bool, whether a candidate takes part: only the first of equal SIDs, and no dead beams.
      group_BW: bool, the candidates that count as proposed by the model: its beams and the target, which replaces the
        last beam if the model did not propose it.
      gain_BW: float32, mean over the items of the SID of the discounts of their places in the teacher's ranking, the
        first of which is 1; 0: the teacher has ranked none of them.
      hit_B: bool, whether the model proposed the target.
      random_BW: float32 in [0, 1), drawn again in every step.
      likeness_BW: float32, mean over the items of the SID of the cosines between their vectors and that of the target's
        SID; 0 if there are no vectors.
    """

    codes_BWC: jax.Array
    valid_BW: jax.Array
    group_BW: jax.Array
    gain_BW: jax.Array
    hit_B: jax.Array
    random_BW: jax.Array
    likeness_BW: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Level:
    """Log-probabilities of the children of the prefixes that the candidates pass through on one level.

    Attributes:
      log_p_BWK: float32 in nats; 0 where there is no child. W is 1 on the first level, whose prefix all share.
      allowed_BWK: bool, whether there is a child.
      reach_BW: float32, log-probability of the prefix itself.
      slot_BW: int32, which prefix it is.
    """

    log_p_BWK: jax.Array
    allowed_BWK: jax.Array
    reach_BW: jax.Array
    slot_BW: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scored:
    """A model's view of the candidates.

    Attributes:
      log_p_BW: float32 log P(SID | prompt) among the SIDs of the catalogue, in nats.
      levels: those of each level.
    """

    log_p_BW: jax.Array
    levels: tuple[Level, ...]


@dataclasses.dataclass(frozen=True)
class Terms:
    """The inputs of an objective.

    Attributes:
      log_p_BW: log-probabilities under the model that learns; gradients flow through them.
      reference_BW: those under the starting model; None if it is not kept.
      reward_BW: float32, no gradient.
      candidates: the candidates.
      settings: the weights.
    """

    log_p_BW: jax.Array
    reference_BW: jax.Array | None
    reward_BW: jax.Array
    candidates: Candidates
    settings: RlSettings


ObjectiveFunction = Callable[[Terms], jax.Array]  # float32 loss_B
# From candidates, their rank_BW among the group in the model's order (from 1), the items_B that share the target's SID,
# and settings.
RewardFunction = Callable[[Candidates, jax.Array, jax.Array, RlSettings], jax.Array]


def ranks(log_p_BW: jax.Array, among_BW: jax.Array) -> jax.Array:
    """int32 rank_BW, from 1, of every candidate among some of them; equal scores share the best rank."""
    above_BWW = (log_p_BW[:, None, :] > log_p_BW[:, :, None]) & among_BW[:, None, :]
    return 1 + jnp.sum(above_BWW, axis=-1)


def shared_levels(codes_BWC: jax.Array) -> jax.Array:
    """int32 (B, W): the number of leading codes that a candidate shares with the target."""
    same_BWC = codes_BWC == codes_BWC[:, :1]
    return jnp.sum(jnp.cumprod(same_BWC.astype(jnp.int32), axis=-1), axis=-1)


def divergence(model: Scored, reference: Scored, valid_BW: jax.Array) -> jax.Array:
    """float32 (B): KL(reference | model) over the children of every prefix that a candidate goes through.

    Each prefix counts once, weighted by the probability with which the reference reaches it. Over all prefixes of a
    catalogue the sum is the divergence between the distributions of SIDs, and over some of them never more than that.
    """
    total_B = jnp.zeros(valid_BW.shape[0])
    for own, other in zip(model.levels, reference.levels, strict=True):
        share_BW = _once(other, valid_BW) * jnp.exp(other.reach_BW)
        kl_BW = jnp.sum(jnp.exp(other.log_p_BWK) * (other.log_p_BWK - own.log_p_BWK), axis=-1, where=own.allowed_BWK)
        total_B += jnp.sum(share_BW * kl_BW, axis=-1)
    return total_B


def entropies(model: Scored, valid_BW: jax.Array) -> list[jax.Array]:
    """For each level float32 (B): entropy of the next code in nats, visited prefixes weighted by probability."""
    found = []
    for level in model.levels:
        share_BW = _once(level, valid_BW) * jnp.exp(level.reach_BW)
        own_BW = -jnp.sum(jnp.exp(level.log_p_BWK) * level.log_p_BWK, axis=-1, where=level.allowed_BWK)
        found.append(jnp.sum(share_BW * own_BW, axis=-1) / jnp.maximum(jnp.sum(share_BW, axis=-1), 1e-30))
    return found


def _once(level: Level, valid_BW: jax.Array) -> jax.Array:
    """float32 (B, W) weights that sum to 1 over the valid candidates of each prefix."""
    if level.slot_BW.shape[1] == 1:
        return jnp.ones_like(level.reach_BW)
    same_BWW = (level.slot_BW[:, None] == level.slot_BW[:, :, None]) & valid_BW[:, None]
    return valid_BW / jnp.maximum(jnp.sum(same_BWW, axis=-1), 1)
