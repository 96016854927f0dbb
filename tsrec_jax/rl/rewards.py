"""What a candidate is worth: functions of the kind `terms.RewardFunction`, float32 reward_BW.

A SID is worth the mean of what its items are worth, since any of them may be the one that is shown. The target's SID
has 1 over the number of its items, whatever the others of them are worth.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tsrec_jax.rl.settings import RlSettings
from tsrec_jax.rl.terms import Candidates, shared_levels


def rule(candidates: Candidates, _rank_BW: jax.Array, items_B: jax.Array, _settings: RlSettings) -> jax.Array:
    """The target's worth for the target, 0 for others."""
    return _is_target(candidates) / items_B[:, None]


def ranking(candidates: Candidates, rank_BW: jax.Array, items_B: jax.Array, settings: RlSettings) -> jax.Array:
    """As `rule`, and the others in the group share a penalty of 1; the higher they are ranked, the larger their share.

    MiniOneRec (arXiv 2510.24431), without its condition that the group has a hit, since every group has the target.
    Ranks are within the group.
    """
    others_BW = candidates.group_BW & ~_is_target(candidates)
    discount_BW = jnp.where(others_BW, 1 / jnp.log2(1.0 + rank_BW), 0.0)
    sum_B1 = jnp.maximum(jnp.sum(discount_BW, axis=-1, keepdims=True), 1e-30)
    return rule(candidates, rank_BW, items_B, settings) - discount_BW / sum_B1


def prefix(candidates: Candidates, _rank_BW: jax.Array, items_B: jax.Array, _settings: RlSettings) -> jax.Array:
    """The target's worth, which is over the items of its SID, halved with every last code that differs; nothing where
    the first one does."""
    levels = candidates.codes_BWC.shape[-1]
    shared_BW = shared_levels(candidates.codes_BWC)
    return jnp.where(shared_BW > 0, 0.5 ** (levels - shared_BW), 0.0) / items_B[:, None]


def teacher(candidates: Candidates, _rank_BW: jax.Array, items_B: jax.Array, settings: RlSettings) -> jax.Array:
    """The target's worth for the target; for others `teacher_weight` times the gain by the teacher's ranking."""
    return jnp.where(_is_target(candidates), 1 / items_B[:, None], settings.teacher_weight * candidates.gain_BW)


def likeness(candidates: Candidates, _rank_BW: jax.Array, items_B: jax.Array, settings: RlSettings) -> jax.Array:
    """The target's worth for the target; for others `teacher_weight` times the likeness of their vectors, if any."""
    others_BW = settings.teacher_weight * jnp.maximum(candidates.likeness_BW, 0.0)
    return jnp.where(_is_target(candidates), 1 / items_B[:, None], others_BW)


def random(candidates: Candidates, _rank_BW: jax.Array, _items_B: jax.Array, _settings: RlSettings) -> jax.Array:
    """Noise, which must not help."""
    return candidates.random_BW


def _is_target(candidates: Candidates) -> jax.Array:
    return jnp.broadcast_to(jnp.arange(candidates.valid_BW.shape[1]) == 0, candidates.valid_BW.shape)
