"""tsrec_jax's own search as a method, with and without its constraint, and one step of its model alone."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.decoding.problem import Lists, Method, Problem
from tsrec_jax.decoding import beam_search as module
from tsrec_jax.decoding.beam_search import SearchSettings, beam_search
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.models.inference import (
    InferenceModel,
    SuffixCache,
    extend,
    log_normaliser,
    logits_of,
    make_prefix,
    prefill,
)


def ours(problem: Problem, beams: int) -> Method:
    """The library's search; the keys and values of the shared start are made once, here."""
    model = InferenceModel.of(problem.model)
    trie = Trie.from_codes(problem.codes_NC, problem.level_sizes, problem.token_ids).arrays
    prefix = make_prefix(model, tuple(problem.prompts[0][: problem.shared])) if problem.shared else None
    tokens_BS, lengths_B = problem.padded_behind(problem.shared)
    settings = SearchSettings(beams)

    def search() -> Lists:
        found = beam_search(model, trie, tokens_BS, lengths_B, settings, prefix)
        return Lists(np.asarray(found.codes_BWC), np.asarray(found.scores_BW))

    return search


def search_pair(problem: Problem, beams: int) -> tuple[Method, Method]:
    """The library's search, and the same one traced with its constraint taken out: no bit is read, no slot kept."""
    model = InferenceModel.of(problem.model)
    trie = Trie.from_codes(problem.codes_NC, problem.level_sizes, problem.token_ids).arrays
    tokens_BS, lengths_B = problem.padded_behind()
    settings = SearchSettings(beams)

    def everything(level, slots_BW, filters):
        size = level.token_ids_E.shape[0]
        return jnp.zeros_like(slots_BW), jnp.ones((*slots_BW.shape, size), bool), None

    def method(search: Callable) -> Method:
        def run() -> Lists:
            found = search(model, trie, tokens_BS, lengths_B)
            return Lists(np.asarray(found.codes_BWC), np.asarray(found.scores_BW))

        return run

    def traced() -> Callable:
        # A function of its own, so that neither search finds the other's trace.
        return jax.jit(lambda *arguments: beam_search.__wrapped__(*arguments, settings))

    free = method(traced())
    with mock.patch.object(module, "allowed_children", everything):
        free()
    return method(traced()), free


def model_step(problem: Problem, beams: int) -> Callable[[], None]:
    """What the model does in the second step of a search: one token a beam, and the level's log-probabilities."""
    model = InferenceModel.of(problem.model)
    tokens_BS, lengths_B = problem.padded_behind()
    ids_E = jnp.asarray(problem.token_ids[-1])
    tokens_BW = jnp.full((len(tokens_BS), beams), problem.first_id, jnp.int32)

    @jax.jit
    def start(model, tokens_BS, lengths_B, tokens_BW):
        _, prompt = prefill(model, tokens_BS, lengths_B)
        return prompt, extend(model, tokens_BW, prompt, SuffixCache())[1]

    @jax.jit
    def step(model, tokens_BW, prompt, suffix):
        x_DBW, suffix = extend(model, tokens_BW, prompt, suffix)
        return logits_of(model, ids_E, x_DBW) - log_normaliser(model, x_DBW)[..., None], suffix

    prompt, suffix = start(model, tokens_BS, lengths_B, tokens_BW)

    def run() -> None:
        jax.block_until_ready(step(model, tokens_BW, prompt, suffix))

    return run
