"""Beams that are drawn, not the best: a sample without replacement, of any size, by one search.

A beam search over scores with Gumbel noise, in which the noise of a prefix is the largest noise below it, gives the
SIDs of the largest noisy scores: a sample without replacement in the order of the draws (Kool et al., arXiv
1903.06059).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def noisy_scores(totals_BWK: jax.Array, parents_BW: jax.Array, key: jax.Array) -> jax.Array:
    """Noisy scores of children, the largest of which is that of their parent.

    Args:
      totals_BWK: float32 log-probability of each prefix, -inf for what is not allowed.
      parents_BW: float32 noisy score of the parent.
      key: random key of this level's noise.

    Returns:
      float32 (B, W, K); -inf where `totals_BWK` is.
    """
    allowed_BWK = totals_BWK > -jnp.inf
    drawn_BWK = jnp.where(allowed_BWK, totals_BWK + jax.random.gumbel(key, totals_BWK.shape), -jnp.inf)
    most_BW1 = jnp.max(drawn_BWK, axis=-1, keepdims=True)
    most_BW1 = jnp.where(jnp.isfinite(most_BW1), most_BW1, 0.0)
    parents_BW1 = jnp.where(jnp.isfinite(parents_BW), parents_BW, 0.0)[..., None]
    # Appendix B.3 of the paper: a form of -log(exp(-parent) - exp(-most) + exp(-drawn)) that does not overflow.
    gap_BWK = parents_BW1 - jnp.where(allowed_BWK, drawn_BWK, 0.0) + _log1mexp(most_BW1 - drawn_BWK)
    noisy_BWK = parents_BW1 - jnp.maximum(gap_BWK, 0.0) - jnp.log1p(jnp.exp(-jnp.abs(gap_BWK)))
    return jnp.where(allowed_BWK, noisy_BWK, -jnp.inf)


def _log1mexp(x: jax.Array) -> jax.Array:
    """log(1 - exp(-x)) of x >= 0."""
    near = x < 0.6931472
    return jnp.where(near, jnp.log(-jnp.expm1(-jnp.where(near, x, 1.0))), jnp.log1p(-jnp.exp(-jnp.where(near, 1.0, x))))
