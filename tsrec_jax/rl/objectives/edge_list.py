"""The target's loss, weighted less the further the target is below the first ten, and pairs with top rivals."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tsrec_jax.rl.terms import Terms, ranks

EDGE = 10  # K, places that count
FLOOR = 0.5  # c, weight of a row whose target is far below the edge
SCALE = 1.0  # t, nats


def edge_list(terms: Terms) -> jax.Array:
    """w x -log P(target) + rivals x sum over rivals of |difference of discounts| x softplus(score - target's score).

    w = FLOOR + (1 - FLOOR) x sigmoid((target's score - score of the EDGE-th rival) / SCALE). Rivals are the candidates
    whose rank lies within EDGE of it, which are the first 2 x EDGE; the pairs are those of SL@K (arXiv 2508.05673).
    Ranks and w have no gradient.
    """
    valid_BW, log_p_BW = terms.candidates.valid_BW, terms.log_p_BW
    fixed_BW = jax.lax.stop_gradient(log_p_BW)
    others_BW = valid_BW & (jnp.arange(valid_BW.shape[1]) > 0)
    rank_BW = ranks(fixed_BW, valid_BW)
    scores_BW = jnp.where(others_BW, fixed_BW, -jnp.inf)
    edge_B = (
        jax.lax.top_k(scores_BW, EDGE)[0][:, -1] if scores_BW.shape[1] >= EDGE else jnp.full(len(scores_BW), -jnp.inf)
    )
    weight_B = FLOOR + (1 - FLOOR) * jax.nn.sigmoid((fixed_BW[:, 0] - edge_B) / SCALE)
    discount_BW = 1 / jnp.log2(1.0 + rank_BW)
    near_BW = others_BW & (jnp.abs(rank_BW - EDGE) <= EDGE)
    pairs_BW = jnp.abs(discount_BW - discount_BW[:, :1]) * jax.nn.softplus((log_p_BW - log_p_BW[:, :1]) / SCALE)
    return -weight_B * log_p_BW[:, 0] + terms.settings.rivals * jnp.sum(pairs_BW, axis=-1, where=near_BW)
