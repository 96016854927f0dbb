"""The expected reward in its logarithmic form (MaxRL, arXiv 2602.02710), exact where no other SID has a reward."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tsrec_jax.rl.terms import Terms


def utility(terms: Terms) -> jax.Array:
    """-log of the sum of P(candidate) x reward; a reward below 0 counts as 0.

    If only the target has a reward, this is -log P(target): rows of small probability keep their weight. The same holds
    for the reward `ranking`, whose penalties are below 0.
    """
    worth_BW = terms.candidates.valid_BW & (terms.reward_BW > 0)
    log_reward_BW = jnp.log(jnp.where(worth_BW, terms.reward_BW, 1.0))
    return -jax.nn.logsumexp(terms.log_p_BW + log_reward_BW, axis=-1, where=worth_BW)
