"""Constrained beam search in one jit: static shapes, the prompt computed once, -inf outside the catalogue.

Scores are sums of log-probabilities over the whole vocabulary in use, as Hugging Face's beam search with a prefix
constraint and length penalty 0 computes them; the constraint masks, it does not renormalise.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from tsrec_jax.decoding.trie import Trie
from tsrec_jax.models.decoder import Decoder


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BeamResult:
    """Beams of every request, best first.

    Attributes:
      codes_BWC: int32 codes that the beam generated, one a level; meaningless in a dead beam.
      scores_BW: float32 log-probability of the SID, in nats; -inf for a dead beam (there are fewer SIDs than beams),
        +inf where a score was NaN.
      leaf_BW: int32 number of the SID in `Trie.sid_codes_NC`, -1 for a dead beam.
    """

    codes_BWC: jax.Array
    scores_BW: jax.Array
    leaf_BW: jax.Array


def beam_search(model: Decoder, trie: Trie, tokens_BS: jax.Array, lengths_B: jax.Array, beams: int) -> BeamResult:
    """The `beams` best SIDs that the search finds for each prompt.

    Every live beam is a SID of the trie, and min(W, SIDs) beams are alive. Equal scores are ordered by the parent's
    rank, then by code. The search is exact where `beams` is at least the number of valid prefixes of every level but
    the last.

    Args:
      model: the decoder; `num_tokens` bounds the vocabulary.
      trie: the valid SIDs.
      tokens_BS: int32 prompts, padded at the end.
      lengths_B: int32 prompt lengths.
      beams: W, at least 1; may exceed the number of nodes.
    """
    graphdef, weights = nnx.split(model)
    return _search(graphdef, weights, trie, tokens_BS, lengths_B, beams)


@functools.partial(jax.jit, static_argnums=(0, 5))
def _search(
    graphdef: nnx.GraphDef,
    weights: nnx.State,
    trie: Trie,
    tokens_BS: jax.Array,
    lengths_B: jax.Array,
    beams: int,
) -> BeamResult:
    model = nnx.merge(graphdef, weights)
    batch = tokens_BS.shape[0]
    x_BD, prompt = model.prefill(tokens_BS, lengths_B)
    suffix = model.init_suffix(batch, beams, trie.num_levels - 1) if trie.num_levels > 1 else None
    # One beam at the root: the first level fans it out.
    x_BWD = x_BD[:, None]
    scores_BW = jnp.zeros((batch, 1), jnp.float32)
    nodes_BW = jnp.zeros((batch, 1), jnp.int32)
    path_BWC = jnp.zeros((batch, 1, 0), jnp.int32)
    rows_B1 = jnp.arange(batch)[:, None]
    for level in range(trie.num_levels):
        totals_BWK, children_BWK = _candidates(model, trie, level, x_BWD, scores_BW, nodes_BW)
        scores_BW, parents_BW, codes_BW = _best(totals_BWK, beams)
        nodes_BW = jnp.where(jnp.isneginf(scores_BW), -1, children_BWK[rows_B1, parents_BW, codes_BW])
        path_BWC = jnp.concatenate([path_BWC[rows_B1, parents_BW], codes_BW[..., None]], axis=-1)
        if level == trie.num_levels - 1:
            break
        tokens_BW = trie.token_ids[level][codes_BW]
        if level > 0:
            suffix = suffix.reorder(parents_BW)
        x_BWD, suffix = model.extend(tokens_BW, level, prompt, suffix)
    return BeamResult(path_BWC, scores_BW, nodes_BW)


def _candidates(
    model: Decoder, trie: Trie, level: int, x_BWD: jax.Array, scores_BW: jax.Array, nodes_BW: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Total score of every continuation of every beam, -inf where the trie has none, and the children's numbers.

    A NaN becomes +inf: where `top_k` ranks NaN depends on its sign and on the backend, +inf always comes first, and the
    host refuses it.
    """
    logits_BWV = model.logits(x_BWD)
    normaliser_BW = jax.nn.logsumexp(logits_BWV, axis=-1)
    log_probs_BWK = logits_BWV[..., trie.token_ids[level]] - normaliser_BW[..., None]
    children_BWK = trie.children[level][jnp.maximum(nodes_BW, 0)]
    alive_BWK = (children_BWK >= 0) & (nodes_BW >= 0)[..., None]
    totals_BWK = scores_BW[..., None] + log_probs_BWK
    totals_BWK = jnp.where(jnp.isnan(totals_BWK), jnp.inf, totals_BWK)
    return jnp.where(alive_BWK, totals_BWK, -jnp.inf), children_BWK


def _best(totals_BWK: jax.Array, beams: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scores, parents and codes of the best continuations; filled up with dead ones where there are too few."""
    batch, width, size = totals_BWK.shape
    flat = totals_BWK.reshape(batch, width * size)
    flat = jnp.pad(flat, ((0, 0), (0, max(0, beams - width * size))), constant_values=-jnp.inf)
    scores_BW, index_BW = jax.lax.top_k(flat, beams)
    index_BW = jnp.minimum(index_BW, width * size - 1)
    return scores_BW, index_BW // size, index_BW % size
