"""The log-probabilities of given SIDs: what the search would find for them, whatever its width."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from tsrec_jax.decoding.beam_search import SearchSettings, allowed_children, log_probabilities
from tsrec_jax.decoding.trie import TrieArrays
from tsrec_jax.models.inference import InferenceModel, Prefix, SuffixCache, extend, prefill


@functools.partial(jax.jit, static_argnames="settings")
def score_sids(
    model: InferenceModel,
    trie: TrieArrays,
    tokens_BS: jax.Array,
    lengths_B: jax.Array,
    codes_BWC: jax.Array,
    settings: SearchSettings,
    prefix: Prefix | None = None,
) -> jax.Array:
    """float32 (B, W), log P(SID | prompt) in nats; -inf for what is not a SID of the trie.

    The prompt runs through the model once; its SIDs follow it side by side, as the search's beams do.

    Args:
      model, trie, tokens_BS, lengths_B, prefix: as in `beam_search`.
      codes_BWC: int32, W SIDs per prompt.
      settings: says what is normalised over.
    """
    batch, width, _ = codes_BWC.shape
    x_DB, prompt = prefill(model, tokens_BS, lengths_B, prefix)
    x_DBW, suffix = x_DB[..., None], SuffixCache()
    scores_BW = jnp.zeros((batch, 1), jnp.float32)
    slots_BW = jnp.zeros((batch, 1), jnp.int32)
    for number, level in enumerate(trie.levels):
        if number > 0:
            tokens_BW = trie.levels[number - 1].token_ids_E[codes_BWC[..., number - 1]]
            x_DBW, suffix = extend(model, tokens_BW, prompt, suffix)
        first_BW, allowed_BWK, codes_BWK = allowed_children(level, slots_BW, (jnp.zeros(batch, jnp.int32), None))
        totals_BWK = log_probabilities(model, level, x_DBW, scores_BW, allowed_BWK, codes_BWK, settings.normaliser)
        wanted_BW1 = codes_BWC[..., number, None]
        if codes_BWK is None:
            place_BW1, there_BW = wanted_BW1, jnp.ones((batch, width), bool)
        else:
            same_BWK = (codes_BWK == wanted_BW1) & allowed_BWK
            place_BW1, there_BW = jnp.argmax(same_BWK, axis=-1, keepdims=True), same_BWK.any(axis=-1)
        beams = (batch, width, totals_BWK.shape[-1])
        found_BW = jnp.take_along_axis(jnp.broadcast_to(totals_BWK, beams), place_BW1, axis=-1)[..., 0]
        scores_BW = jnp.where(there_BW, found_BW, -jnp.inf)
        slots_BW = first_BW + place_BW1[..., 0]
    return scores_BW
