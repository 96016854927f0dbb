"""Direct preference of the target over several rivals (S-DPO, arXiv 2406.09215)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tsrec_jax.rl.terms import Terms, shared_levels


def dpo(terms: Terms) -> jax.Array:
    """softplus(log sum over rivals of exp(beta x (log-ratio of the rival - log-ratio of the target))), and the nll.

    Log-ratios are those of the probabilities of the model and of the starting model. A target without rivals has only
    its nll.
    """
    assert terms.reference_BW is not None
    rivals_BW = chosen_rivals(terms)
    ratio_BW = terms.log_p_BW - terms.reference_BW
    margin_BW = terms.settings.beta * (ratio_BW - ratio_BW[:, :1])
    some_B = jnp.any(rivals_BW, axis=-1)
    sum_B = jax.nn.logsumexp(margin_BW, axis=-1, where=rivals_BW | ~some_B[:, None])
    return jnp.where(some_B, jax.nn.softplus(sum_B), 0.0) - terms.settings.nll * terms.log_p_BW[:, 0]


def chosen_rivals(terms: Terms) -> jax.Array:
    """bool (B, W): `negatives` of the group, drawn again in every step; never SIDs that the teacher ranks, nor those
    that share all codes but the last with the target."""
    candidates = terms.candidates
    levels = candidates.codes_BWC.shape[-1]
    allowed_BW = candidates.group_BW & (candidates.gain_BW == 0) & (shared_levels(candidates.codes_BWC) < levels - 1)
    order_BW = jnp.where(allowed_BW, candidates.random_BW, -1.0)
    above_BWW = order_BW[:, None, :] > order_BW[:, :, None]
    return allowed_BW & (jnp.sum(above_BWW, axis=-1) < terms.settings.negatives)
