"""Given SIDs have the log-probabilities that a search wide enough for all of them finds."""

import numpy as np
import pytest

from tests.decoding.test_prior import catalogue, model, trie  # noqa: F401  # fixtures
from tsrec_jax.decoding.beam_search import SearchSettings, beam_search
from tsrec_jax.decoding.generate import Searcher


@pytest.mark.parametrize("normaliser", ["vocabulary", "constrained"])
def test_scores_are_those_of_an_exhaustive_search(model, trie, prompts, padded, normaliser):  # noqa: F811
    found = beam_search(model, trie.arrays, *padded, SearchSettings(64, normaliser))
    rng = np.random.default_rng(0)
    order = np.stack([rng.permutation(trie.num_sids) for _ in prompts])
    codes_RWC = np.take_along_axis(np.asarray(found.codes_BWC), order[..., None], axis=1)
    codes_RWC[2, 4] = next(c for c in np.ndindex(6, 6, 6) if not trie.contains(np.array([c]))[0])
    searcher = Searcher(model, trie, SearchSettings(1, normaliser), batch_size=4, buckets=(24,))
    scores_RW = searcher.score(prompts, codes_RWC)
    wanted = np.take_along_axis(np.asarray(found.scores_BW), order, axis=1)
    wanted[2, 4] = -np.inf
    np.testing.assert_allclose(scores_RW, wanted, atol=1e-4)
