"""The loss of training itself, as the control for all others."""

from __future__ import annotations

import jax

from tsrec_jax.rl.terms import Terms


def sft(terms: Terms) -> jax.Array:
    """-log P(target)."""
    return -terms.log_p_BW[:, 0]
