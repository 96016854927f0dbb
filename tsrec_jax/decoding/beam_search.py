"""Constrained beam search in one jit: static shapes, the prompt computed once, -inf outside the catalogue.

With the normaliser `vocabulary`, scores are sums of log-probabilities over all ids in use, as Hugging Face's beam
search with a prefix constraint and length penalty 0 computes them: the constraint masks, it does not renormalise.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from tsrec_jax.decoding.prior import Prior, prefix_values, values_of
from tsrec_jax.decoding.sampled_beams import noisy_scores
from tsrec_jax.decoding.trie import WORD, LevelArrays, TrieArrays
from tsrec_jax.models.inference import InferenceModel, Prefix, SuffixCache, extend, log_normaliser, logits_of, prefill

Array = jax.Array | np.ndarray  # as an argument of a compiled function
NORMALISERS = ("vocabulary", "level", "constrained")


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """What is searched for; each combination is compiled once.

    Attributes:
      beams: W, at least 1; may exceed the number of nodes.
      normaliser: what a step's log-probability is normalised over: `vocabulary`, all ids in use; `constrained`,
        the codes that the trie and the filters allow here; `level`, all codes of the level, which only older exports
        ask for.
    """

    beams: int = 20
    normaliser: str = "vocabulary"

    def __post_init__(self):
        if self.beams < 1:
            raise ValueError(f"beams={self.beams}: must be at least 1")
        if self.normaliser not in NORMALISERS:
            raise ValueError(f"normaliser={self.normaliser!r} is not one of {', '.join(NORMALISERS)}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Filters:
    """What individual requests leave out; made by `filters.make_filters`.

    Attributes:
      row_B: int32, the row of `LevelArrays.alive_RM` that applies to each request; 0 is the catalogue.
      excluded: for each level int32 slots (B, X) that each request leaves out, -1 for none.
    """

    row_B: Array
    excluded: tuple[Array, ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BeamResult:
    """Beams of every request, best first.

    Attributes:
      codes_BWC: int32 codes that the beam generated, one per level; meaningless in a dead beam.
      scores_BW: float32 log-probability of the SID, in nats, plus its prior; -inf for a dead beam (there are fewer SIDs
        than beams), +inf if a score was NaN.
      totals_BWC: float32 log-probability of the beam's first 1, 2, ... C codes, without the prior.
      dropped_B: float32, the best score that the search dropped on any level; -inf if it dropped nothing. No SID
        outside the beams scores more, so the first k are exact if scores_BW[:, k - 1] is above it.
    """

    codes_BWC: jax.Array
    scores_BW: jax.Array
    totals_BWC: jax.Array
    dropped_B: jax.Array


@functools.partial(jax.jit, static_argnames="settings")
def beam_search(
    model: InferenceModel,
    trie: TrieArrays,
    tokens_BS: jax.Array,
    lengths_B: jax.Array,
    settings: SearchSettings,
    prefix: Prefix | None = None,
    filters: Filters | None = None,
    prior: Prior | None = None,
    noise: jax.Array | None = None,
) -> BeamResult:
    """The best SIDs that the search finds for each prompt.

    Every live beam is a SID of the trie, and min(W, SIDs) beams are alive. Equal scores are ordered by the parent's
    rank, then by code. The search is exact if `beams` is at least the number of valid prefixes of every level but the
    last; `dropped_B` says whether it was exact for a particular request.

    Args:
      model: the weights.
      trie: the valid SIDs, `Trie.arrays`.
      tokens_BS: int32 prompts without the prefix, padded at the end.
      lengths_B: int32 prompt lengths without the prefix, at least 1.
      settings: width and scores.
      prefix: what stands before every prompt.
      filters: what requests leave out; None: nothing.
      prior: what is added to the scores; None: nothing.
      noise: random key; the beams are then SIDs sampled by their probabilities without replacement, in the order drawn,
        and their scores are noisy. None: the beams are the best.
    """
    batch = tokens_BS.shape[0]
    rows_B1 = jnp.arange(batch)[:, None]
    x_DB, prompt = prefill(model, tokens_BS, lengths_B, prefix)
    values = None if prior is None else prefix_values(prior, x_DB)
    # One beam at the root: the first level fans it out.
    x_DBW, suffix = x_DB[..., None], SuffixCache()
    scores_BW = ranked_BW = jnp.zeros((batch, 1), jnp.float32)
    slots_BW = jnp.zeros((batch, 1), jnp.int32)
    codes_BWC, totals_BWC = jnp.zeros((batch, 1, 0), jnp.int32), jnp.zeros((batch, 1, 0), jnp.float32)
    dropped_B = jnp.full(batch, -jnp.inf)
    for number, level in enumerate(trie.levels):
        if number > 0:
            tokens_BW = trie.levels[number - 1].token_ids_E[codes_BWC[..., -1]]
            x_DBW, suffix = extend(model, tokens_BW, prompt, suffix)
        first_BW, allowed_BWK, codes_BWK = allowed_children(level, slots_BW, _filters_of(filters, number, batch))
        totals_BWK = log_probabilities(model, level, x_DBW, scores_BW, allowed_BWK, codes_BWK, settings.normaliser)
        ranked_BWK = totals_BWK
        if prior is not None and values is not None:
            ranked_BWK = totals_BWK + values_of(prior.items.number[number], values[number], first_BW, level.width)
        if noise is not None:
            ranked_BWK = noisy_scores(ranked_BWK, ranked_BW, jax.random.fold_in(noise, number))
        ranked_BW, parents_BW, place_BW, lost_B = _best(ranked_BWK, settings.beams)
        plain = prior is None and noise is None
        scores_BW = ranked_BW if plain else totals_BWK[rows_B1, parents_BW, place_BW]
        dropped_B = jnp.maximum(dropped_B, lost_B)
        slots_BW = first_BW[rows_B1, parents_BW] + place_BW
        new_BW = place_BW if codes_BWK is None else codes_BWK[rows_B1, parents_BW, place_BW]
        codes_BWC = jnp.concatenate([codes_BWC[rows_B1, parents_BW], new_BW[..., None]], axis=-1)
        totals_BWC = jnp.concatenate([totals_BWC[rows_B1, parents_BW], scores_BW[..., None]], axis=-1)
        suffix = suffix.reorder(parents_BW)
    return BeamResult(codes_BWC, ranked_BW, totals_BWC, dropped_B)


def _filters_of(filters: Filters | None, level: int, batch: int) -> tuple[Array, Array | None]:
    """The row of each request on a level, and the slots that it leaves out."""
    if filters is None:
        return jnp.zeros(batch, jnp.int32), None
    return filters.row_B, filters.excluded[level]


def allowed_children(
    level: LevelArrays, slots_BW: jax.Array, filters: tuple[Array, Array | None]
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """The first child slot of every beam, which of its `width` candidates are allowed, and a sparse level's codes."""
    row_B, excluded_BX = filters
    codes_BWK = None
    if level.starts is None or level.codes is None:
        words = level.stride // WORD
        rows_RPN = level.alive_RM.reshape(level.alive_RM.shape[0], -1, words)
        words_BWN = rows_RPN[row_B[:, None], slots_BW]
        bits_BWNb = words_BWN[..., None] >> jnp.arange(WORD, dtype=jnp.uint32) & 1
        allowed_BWK = bits_BWNb.reshape(*slots_BW.shape, level.stride)[..., : level.width] != 0
        first_BW = slots_BW * level.stride
        count_BW = jnp.full_like(slots_BW, level.width)
    else:
        first_BW = level.starts[slots_BW]
        count_BW = level.starts[slots_BW + 1] - first_BW
        place_K = jnp.arange(level.width)
        slot_BWK = jnp.minimum(first_BW[..., None] + place_K, level.codes.shape[0] - 1)
        codes_BWK = level.codes[slot_BWK].astype(jnp.int32)
        words_BWK = level.alive_RM[row_B[:, None, None], slot_BWK // WORD]
        alive_BWK = words_BWK >> (slot_BWK % WORD).astype(jnp.uint32) & 1 != 0
        allowed_BWK = alive_BWK & (place_K < count_BW[..., None])
    if excluded_BX is not None:
        allowed_BWK = _without(allowed_BWK, first_BW, count_BW, excluded_BX)
    return first_BW, allowed_BWK, codes_BWK


def _without(allowed_BWK: jax.Array, first_BW: jax.Array, count_BW: jax.Array, excluded_BX: Array) -> jax.Array:
    """Takes the excluded slots out. A slot is the child of one node, and so of one beam at most."""
    batch, beams, width = allowed_BWK.shape
    place_BWX = excluded_BX[:, None] - first_BW[..., None]
    here_BWX = (place_BWX >= 0) & (place_BWX < count_BW[..., None])
    beam_BX = jnp.argmax(here_BWX, axis=1)
    place_BX = jnp.take_along_axis(place_BWX, beam_BX[:, None], axis=1)[:, 0]
    flat_BX = jnp.where(here_BWX.any(axis=1), beam_BX * width + place_BX, beams * width)
    flat = allowed_BWK.reshape(batch, -1).at[jnp.arange(batch)[:, None], flat_BX].set(False, mode="drop")
    return flat.reshape(allowed_BWK.shape)


def log_probabilities(
    model: InferenceModel,
    level: LevelArrays,
    x_DBW: jax.Array,
    scores_BW: jax.Array,
    allowed_BWK: jax.Array,
    codes_BWK: jax.Array | None,
    normaliser: str,
) -> jax.Array:
    """Total score of every candidate, -inf where the constraint forbids it or the beam is dead."""
    logits_BWE = logits_of(model, level.token_ids_E, x_DBW)
    logits_BWK = logits_BWE if codes_BWK is None else jnp.take_along_axis(logits_BWE, codes_BWK, axis=-1)
    if normaliser == "vocabulary":
        log_sum_BW = log_normaliser(model, x_DBW)
    elif normaliser == "level":
        log_sum_BW = jax.nn.logsumexp(logits_BWE, axis=-1)
    else:
        log_sum_BW = jax.nn.logsumexp(logits_BWK, axis=-1, where=allowed_BWK)
    totals_BWK = scores_BW[..., None] + (logits_BWK - log_sum_BW[..., None])
    alive_BWK = allowed_BWK & ~jnp.isneginf(scores_BW)[..., None]
    return jnp.where(alive_BWK, _nan_first(totals_BWK), -jnp.inf)


def _nan_first(scores: jax.Array) -> jax.Array:
    """Turns NaN into +inf. Where `top_k` ranks NaN depends on its sign and the backend; +inf comes first, and the host
    refuses it."""
    return jnp.where(jnp.isnan(scores), jnp.inf, scores)


def _best(totals_BWK: jax.Array, beams: int) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Scores, parents and places of the best candidates, and the best score that is not among them.

    There are never more beams than candidates: a narrow first level needs no more.
    """
    batch, width, size = totals_BWK.shape
    flat = totals_BWK.reshape(batch, width * size)
    kept = min(beams, width * size)
    # Without the barrier XLA:CPU sees that one entry is sliced off and sorts all candidates instead of running a top_k.
    found_BW, index_BW = jax.lax.optimization_barrier(jax.lax.top_k(flat, min(kept + 1, width * size)))
    lost_B = found_BW[:, kept] if found_BW.shape[1] > kept else jnp.full(batch, -jnp.inf)
    index_BW = index_BW[:, :kept]
    return found_BW[:, :kept], index_BW // size, index_BW % size, lost_B
