"""Policy gradient over a group (GRPO, arXiv 2402.03300), half of the advantage among the siblings of a prefix."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tsrec_jax.rl.terms import Terms


def grpo(terms: Terms) -> jax.Array:
    """-mean over the group of advantage x log P + nll x -log P(target).

    The advantage is the reward minus its mean, half over the group and half over those that share all codes but the
    last (V-STAR, arXiv 2602.10699); it is not divided by the deviation. One update follows each search, so that the
    ratio of the probabilities is 1 and nothing is clipped.
    """
    group_BW = terms.candidates.group_BW
    advantage_BW = advantages(terms.reward_BW, group_BW, terms.candidates.codes_BWC)
    pull_B = jnp.mean(advantage_BW * terms.log_p_BW, axis=-1, where=group_BW)
    return -pull_B - terms.settings.nll * terms.log_p_BW[:, 0]


def advantages(reward_BW: jax.Array, group_BW: jax.Array, codes_BWC: jax.Array) -> jax.Array:
    """float32 (B, W), 0 outside the group and in a group whose rewards are all the same."""
    parents_BWC = codes_BWC[..., :-1]
    siblings_BWW = jnp.all(parents_BWC[:, None] == parents_BWC[:, :, None], axis=-1) & group_BW[:, None]
    mean_B1 = jnp.mean(reward_BW, axis=-1, where=group_BW, keepdims=True)
    own_BW = jnp.sum(jnp.where(siblings_BWW, reward_BW[:, None], 0.0), axis=-1)
    own_BW = own_BW / jnp.maximum(jnp.sum(siblings_BWW, axis=-1), 1)
    return jnp.where(group_BW, reward_BW - 0.5 * (mean_B1 + own_BW), 0.0)
