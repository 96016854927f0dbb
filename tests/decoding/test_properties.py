"""The search on random catalogues and filters, against a textbook search over the scores of one plain forward pass."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.decoding.test_beam_search import step_scores, textbook_beams
from tsrec_jax.decoding import trie as trie_module
from tsrec_jax.decoding.beam_search import SearchSettings, beam_search
from tsrec_jax.decoding.filters import SidFilter
from tsrec_jax.decoding.generate import Searcher
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.models.inference import InferenceModel

SIZES = (6, 5, 7)
EVERY = np.stack(np.meshgrid(*map(np.arange, SIZES), indexing="ij"), axis=-1).reshape(-1, 3)
PROMPTS = [[3, 14, 15, 9, 2], [26, 5, 3, 5, 8, 9, 7, 9], [27, 18, 28]]
BEAMS = 12
numbers = st.sets(st.integers(0, len(EVERY) - 1), min_size=1)


@pytest.fixture(scope="module", params=[1 << 24, 64], ids=["dense", "sparse below"])
def whole(request, make_model, make_trie):
    """A searcher whose catalogue a test replaces, and the step scores of every SID there can be, (B, N, C)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trie_module, "DENSE_SLOTS", request.param)
        model = make_model(seed=3, layers=1)
        ids = make_trie(SIZES).token_ids
        trie = Trie.from_codes(EVERY, SIZES, ids)
        settings_, options = SearchSettings(BEAMS), {"batch_size": 3, "buckets": (24,), "filtering": True}
        yield Searcher(InferenceModel.of(model), trie, settings_, **options), step_scores(model, trie, PROMPTS)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(held=numbers, excluded=st.lists(numbers, min_size=3, max_size=3), allowed=numbers, data=st.data())
def test_any_catalogue_and_any_filters_give_the_beams_of_a_textbook_search(whole, held, excluded, allowed, data):
    searcher, scores_BNC = whole
    codes_NC = EVERY[sorted(held)]
    trie = Trie.from_codes(codes_NC, SIZES, searcher.trie.token_ids)
    kinds = data.draw(st.lists(st.sampled_from(["none", "out", "only"]), min_size=3, max_size=3))
    filters, left = [], []
    for kind, out in zip(kinds, excluded, strict=True):
        filters.append(
            SidFilter(
                excluded_NC=EVERY[sorted(out)] if kind != "none" else None,
                allowed_NC=EVERY[sorted(allowed)] if kind == "only" else None,
            )
        )
        kept = held - out if kind != "none" else held
        left.append(sorted(kept & allowed if kind == "only" else kept))
    options = {"batch_size": 3, "buckets": (24,), "filtering": True}
    fresh = Searcher(searcher.model, trie, searcher.settings, **options)
    fresh.run(PROMPTS, [SidFilter()] * 3)
    size = beam_search._cache_size()
    found = fresh.run(PROMPTS, filters)
    assert beam_search._cache_size() == size
    for one, scores_NC, kept in zip(found, scores_BNC, left, strict=True):
        wanted = textbook_beams(scores_NC[kept], EVERY[kept], BEAMS) if kept else {}
        np.testing.assert_allclose(one.scores_W, list(wanted.values()), atol=1e-4)
        near = np.abs(np.diff(list(wanted.values()))) <= 1e-4
        clear = ~(np.append(near, False) | np.append(False, near)) if wanted else []
        np.testing.assert_array_equal(one.codes_WC[clear], np.array(list(wanted)).reshape(-1, 3)[clear])
