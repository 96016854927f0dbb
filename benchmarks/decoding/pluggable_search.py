"""One beam search with the constraint taken in and out, and the same search asking a trie on the host.

All share the model's work and the selection of beams, so that a difference of their times is the constraint's.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.decoding.constraints import Constraint
from benchmarks.decoding.problem import Lists, Method, Problem
from tsrec_jax.models.inference import InferenceModel, SuffixCache, extend, log_normaliser, logits_of, prefill


def search_under(problem: Problem, constraint: Constraint, beams: int) -> Method:
    """The search in one jit."""
    model = InferenceModel.of(problem.model)
    tokens_BS, lengths_B = problem.padded_behind()
    ids = tuple(jnp.asarray(ids_E) for ids_E in problem.token_ids)

    def search() -> Lists:
        codes_BWC, scores_BW = _search(model, constraint, ids, tokens_BS, lengths_B, beams)
        return Lists(np.asarray(codes_BWC), np.asarray(scores_BW))

    return search


@functools.partial(jax.jit, static_argnums=5)
def _search(
    model: InferenceModel,
    constraint: Constraint,
    ids: tuple[jax.Array, ...],
    tokens_BS: jax.Array,
    lengths_B: jax.Array,
    beams: int,
) -> tuple[jax.Array, jax.Array]:
    batch = tokens_BS.shape[0]
    x_DB, prompt = prefill(model, tokens_BS, lengths_B)
    x_DBW, suffix = x_DB[..., None], SuffixCache()
    scores_BW = jnp.zeros((batch, 1), jnp.float32)
    states_BW = jnp.zeros((batch, 1), jnp.int32)
    path_BWC = jnp.zeros((batch, 1, 0), jnp.int32)
    for level, ids_E in enumerate(ids):
        found = constraint.candidates(level, _log_probs(model, x_DBW, ids_E), states_BW)
        scores_BW, parents_BW, places_BW = _best(scores_BW, found.log_probs_BWM, beams)
        at_BW = (jnp.arange(batch)[:, None], parents_BW, places_BW)
        codes_BW = places_BW if found.codes_BWM is None else found.codes_BWM[at_BW]
        states_BW = jnp.zeros_like(codes_BW) if found.next_BWM is None else found.next_BWM[at_BW]
        path_BWC = jnp.concatenate([path_BWC[at_BW[:2]], codes_BW[..., None]], axis=-1)
        if level < len(ids) - 1:
            x_DBW, suffix = extend(model, ids_E[codes_BW], prompt, suffix.reorder(parents_BW))
    return path_BWC, scores_BW


def _log_probs(model: InferenceModel, x_DBW: jax.Array, ids_E: jax.Array) -> jax.Array:
    """Log-probabilities of one level's codes, normalised over the vocabulary."""
    return logits_of(model, ids_E, x_DBW) - log_normaliser(model, x_DBW)[..., None]


def _best(scores_BW: jax.Array, log_probs_BWM: jax.Array, beams: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(scores, parents, places) of the best candidates."""
    size = log_probs_BWM.shape[-1]
    flat = (scores_BW[..., None] + log_probs_BWM).reshape(scores_BW.shape[0], -1)
    scores_BW, index_BW = jax.lax.top_k(flat, min(beams, flat.shape[1]))
    return scores_BW, index_BW // size, index_BW % size


class HostTrie:
    """A dictionary from prefix to the codes that may follow, on the host, as prefix constraints usually are."""

    def __init__(self, codes_NC: np.ndarray, level_sizes: Sequence[int]):
        self.following: dict[tuple[int, ...], np.ndarray] = {}
        prefixes_NC = np.asarray(codes_NC)
        for _ in level_sizes:
            order = np.lexsort(prefixes_NC[:, ::-1].T)
            prefixes_NC = prefixes_NC[order]
            fresh_N = np.append(True, (prefixes_NC[1:] != prefixes_NC[:-1]).any(axis=1))
            prefixes_NC = prefixes_NC[fresh_N]
            codes_N, prefixes_NC = np.ascontiguousarray(prefixes_NC[:, -1]), prefixes_NC[:, :-1]
            starts = np.flatnonzero(np.append(True, (prefixes_NC[1:] != prefixes_NC[:-1]).any(axis=1)))
            ends = np.append(starts[1:], len(prefixes_NC))
            for prefix, start, end in zip(prefixes_NC[starts].tolist(), starts, ends, strict=True):
                self.following[tuple(prefix)] = codes_N[start:end]

    def mask(self, path_BWC: np.ndarray, size: int) -> np.ndarray:
        """float32 (B, W, E): 0 where a code may follow, -inf elsewhere."""
        mask_BWE = np.full((*path_BWC.shape[:2], size), -np.inf, np.float32)
        for request, beams in enumerate(path_BWC.tolist()):
            for beam, prefix in enumerate(beams):
                mask_BWE[request, beam, self.following.get(tuple(prefix), ())] = 0.0
        return mask_BWE


def search_on_host(problem: Problem, trie: HostTrie, beams: int) -> Method:
    """The search as a Python loop: between two steps the paths come to the host and a mask goes back."""
    model = InferenceModel.of(problem.model)
    tokens_BS, lengths_B = problem.padded_behind()
    ids = tuple(jnp.asarray(ids_E) for ids_E in problem.token_ids)

    def search() -> Lists:
        x_DBW, prompt = _start(model, tokens_BS, lengths_B)
        suffix = SuffixCache()
        scores_BW = jnp.zeros((len(tokens_BS), 1), jnp.float32)
        path_BWC = jnp.zeros((len(tokens_BS), 1, 0), jnp.int32)
        for level, ids_E in enumerate(ids):
            mask_BWE = trie.mask(np.asarray(path_BWC), len(ids_E))
            scores_BW, path_BWC, parents_BW = _select(model, ids_E, x_DBW, mask_BWE, scores_BW, path_BWC, beams)
            if level < len(ids) - 1:
                x_DBW, suffix = _extend(model, ids_E, path_BWC, prompt, suffix, parents_BW)
        return Lists(np.asarray(path_BWC), np.asarray(scores_BW))

    return search


@jax.jit
def _start(model: InferenceModel, tokens_BS: jax.Array, lengths_B: jax.Array):
    x_DB, prompt = prefill(model, tokens_BS, lengths_B)
    return x_DB[..., None], prompt


@functools.partial(jax.jit, static_argnums=6)
def _select(model: InferenceModel, ids_E, x_DBW, mask_BWE, scores_BW, path_BWC, beams):
    log_probs_BWE = _log_probs(model, x_DBW, ids_E)
    scores_BW, parents_BW, codes_BW = _best(scores_BW, log_probs_BWE + mask_BWE, beams)
    before = jnp.take_along_axis(path_BWC, parents_BW[..., None], axis=1)
    return scores_BW, jnp.concatenate([before, codes_BW[..., None]], axis=-1), parents_BW


@jax.jit
def _extend(model: InferenceModel, ids_E, path_BWC, prompt, suffix, parents_BW):
    return extend(model, ids_E[path_BWC[..., -1]], prompt, suffix.reorder(parents_BW))
