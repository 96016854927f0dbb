"""The log-probabilities of candidates in the form that training uses: differentiable, one prompt pass for all.

They are those of the search with the normaliser `constrained`, which runs the other form of the model, to within the
rounding of the compute type.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tsrec_jax.decoding.beam_search import allowed_children
from tsrec_jax.decoding.trie import LevelArrays, TrieArrays
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.sharding import constrain
from tsrec_jax.rl.terms import Level, Scored


def score_candidates(
    model: Decoder, trie: TrieArrays, tokens_BS: jax.Array, lengths_B: jax.Array, codes_BWC: jax.Array
) -> Scored:
    """Log-probabilities of SIDs, and of all children of the prefixes on their paths.

    Args:
      model: the decoder.
      trie: the valid SIDs.
      tokens_BS: int32 prompts, padded at the end.
      lengths_B: int32 prompt lengths.
      codes_BWC: int32, W SIDs of the trie for each prompt.
    """
    suffixes_BWP = jnp.stack(
        [level.token_ids_E[codes_BWC[..., number]] for number, level in enumerate(trie.levels[:-1])] or [], axis=-1
    )
    x_BD, x_BWPD = model.hidden_suffixes(tokens_BS, lengths_B, suffixes_BWP)
    table_VD = model.output_table()
    total_BW, slots_BW = jnp.zeros((len(tokens_BS), 1)), jnp.zeros((len(tokens_BS), 1), jnp.int32)
    everything = jnp.zeros(len(tokens_BS), jnp.int32), None
    levels = []
    for number, level in enumerate(trie.levels):
        x_BWD = x_BD[:, None] if number == 0 else x_BWPD[:, :, number - 1]
        rows_ED = constrain(table_VD[level.token_ids_E].astype(x_BWD.dtype), None, None)
        logits_BWE = jnp.einsum("bwd,ed->bwe", x_BWD, rows_ED, preferred_element_type=jnp.float32)
        first_BW, allowed_BWK, codes_BWK = allowed_children(level, slots_BW, everything)
        logits_BWK = logits_BWE if codes_BWK is None else jnp.take_along_axis(logits_BWE, codes_BWK, axis=-1)
        log_sum_BW1 = jax.nn.logsumexp(logits_BWK, axis=-1, where=allowed_BWK, keepdims=True)
        log_p_BWK = jnp.where(allowed_BWK, logits_BWK - log_sum_BW1, 0.0)
        levels.append(Level(log_p_BWK, allowed_BWK, total_BW, slots_BW))
        place_BW = _places(level, codes_BWK, codes_BWC[..., number])
        wide_BWK = jnp.broadcast_to(log_p_BWK, (*place_BW.shape, log_p_BWK.shape[-1]))
        total_BW = total_BW + jnp.take_along_axis(wide_BWK, place_BW[..., None], axis=-1)[..., 0]
        slots_BW = first_BW + place_BW
    return Scored(total_BW, tuple(levels))


def leaf_slots(trie: TrieArrays, codes_BWC: jax.Array) -> jax.Array:
    """int32 (B, W): the slot of each SID on the last level (`Trie.slots`)."""
    slots_BW = jnp.zeros((len(codes_BWC), 1), jnp.int32)
    for number, level in enumerate(trie.levels):
        first_BW, _, codes_BWK = allowed_children(level, slots_BW, (jnp.zeros(len(codes_BWC), jnp.int32), None))
        slots_BW = first_BW + _places(level, codes_BWK, codes_BWC[..., number])
    return slots_BW


def _places(level: LevelArrays, codes_BWK: jax.Array | None, codes_BW: jax.Array) -> jax.Array:
    """Where codes stand among the children of their prefixes."""
    if codes_BWK is None:
        return codes_BW
    return jnp.argmax(codes_BWK == codes_BW[..., None], axis=-1).astype(jnp.int32)
