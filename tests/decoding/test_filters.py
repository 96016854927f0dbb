import numpy as np
import pytest

from tsrec_jax.decoding import trie as trie_module
from tsrec_jax.decoding.beam_search import SearchSettings, beam_search
from tsrec_jax.decoding.filters import LISTED, SidFilter
from tsrec_jax.decoding.generate import Searcher
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.models.inference import InferenceModel
from tsrec_jax.models.sharding import make_mesh

BEAMS = 12
SIZES = (6, 5, 7)


@pytest.fixture(params=[1 << 24, 64], ids=["dense", "sparse below"])
def trie(request, monkeypatch, make_trie):
    monkeypatch.setattr(trie_module, "DENSE_SLOTS", request.param)
    return make_trie(SIZES, items=170)


@pytest.fixture
def searcher(make_model, trie):
    return Searcher(
        InferenceModel.of(make_model(layers=1)),
        trie,
        SearchSettings(BEAMS),
        batch_size=5,
        buckets=(24,),
        filtering=True,
    )


def left_by(wanted, codes_NC):
    """The SIDs that a filter leaves, one by one."""
    kept = set(map(tuple, codes_NC.tolist()))
    if wanted.allowed_NC is not None:
        kept &= set(map(tuple, wanted.allowed_NC.tolist()))
    if wanted.excluded_NC is not None:
        kept -= set(map(tuple, wanted.excluded_NC.tolist()))
    return np.array(sorted(kept)).reshape(-1, codes_NC.shape[1])


def assert_as_if_only(searcher, prompt, found, left_NC):
    """What a filtered search found is what a search of a catalogue with nothing else finds."""
    if not len(left_NC):
        assert len(found.scores_W) == 0
        return
    only = Trie.from_codes(left_NC, SIZES, searcher.trie.token_ids)
    alone = Searcher(searcher.model, only, searcher.settings, batch_size=5, buckets=(24,), filtering=True)
    (wanted,) = alone.run([prompt], [SidFilter()])
    np.testing.assert_array_equal(found.codes_WC, wanted.codes_WC)
    np.testing.assert_allclose(found.scores_W, wanted.scores_W, atol=1e-4)
    assert np.isclose(found.dropped, wanted.dropped) or found.dropped == wanted.dropped


def test_every_request_gets_what_its_own_filter_leaves_and_nothing_compiles(searcher, trie, prompts):
    codes_NC = trie.sid_codes()
    assert len(codes_NC) > LISTED + 20
    rng = np.random.default_rng(0)
    some_NC = codes_NC[rng.permutation(len(codes_NC))[:20]]
    filters = [
        SidFilter(),
        SidFilter(excluded_NC=np.concatenate([some_NC, [[5, 4, 6]]])),
        SidFilter(excluded_NC=codes_NC[: LISTED + 6]),  # more than are listed
        SidFilter(allowed_NC=some_NC[:7]),
        SidFilter(allowed_NC=codes_NC[::3], excluded_NC=some_NC),
    ]
    searcher.run(prompts, [SidFilter()] * 5)
    size = beam_search._cache_size()
    found = searcher.run(prompts, filters)
    assert beam_search._cache_size() == size
    for prompt, one, wanted in zip(prompts, found, filters, strict=True):
        assert_as_if_only(searcher, prompt, one, left_by(wanted, codes_NC))


def test_a_whole_branch_or_everything_may_be_left_out(searcher, trie, prompts):
    codes_NC = trie.sid_codes()
    branch = codes_NC[codes_NC[:, 0] == codes_NC[0, 0]]
    nothing = np.zeros((0, 3), int)
    filters = [SidFilter(excluded_NC=branch), SidFilter(allowed_NC=nothing), SidFilter(excluded_NC=nothing)]
    found = searcher.run(prompts[:3], filters)
    for prompt, one, wanted in zip(prompts, found, filters, strict=False):
        assert_as_if_only(searcher, prompt, one, left_by(wanted, codes_NC))


def test_a_changed_catalogue_is_searched_from_then_on_and_filters_obey_it(searcher, trie, prompts):
    everything = [SidFilter()] * 5
    before = searcher.run(prompts, everything)
    size = beam_search._cache_size()
    gone_NC = np.unique(np.concatenate([found.codes_WC[:2] for found in before]), axis=0)
    trie.remove(gone_NC)
    filters = [SidFilter(), SidFilter(allowed_NC=gone_NC[:3]), SidFilter(excluded_NC=before[2].codes_WC[2:4])]
    found = searcher.run(prompts[:3], filters)
    for prompt, one, wanted in zip(prompts, found, filters, strict=False):
        assert_as_if_only(searcher, prompt, one, left_by(wanted, trie.sid_codes()))
    trie.add(gone_NC)
    for one, wanted in zip(searcher.run(prompts, everything), before, strict=True):
        np.testing.assert_array_equal(one.codes_WC, wanted.codes_WC)
    assert beam_search._cache_size() == size


def test_eight_devices_obey_filters_as_one_does(searcher, trie, make_model, prompts):
    codes_NC = trie.sid_codes()
    filters = [SidFilter(), SidFilter(excluded_NC=codes_NC[::4]), SidFilter(allowed_NC=codes_NC[::5])] * 2
    model = InferenceModel.of(make_model(layers=1, mesh=make_mesh(8)))
    spread = Searcher(model, trie, SearchSettings(BEAMS), batch_size=5, buckets=(24,), filtering=True)
    assert spread.batch_size == 8
    given = [*prompts, prompts[0]]
    for one, wanted in zip(spread.run(given, filters), searcher.run(given, filters), strict=True):
        np.testing.assert_array_equal(one.codes_WC, wanted.codes_WC)
        np.testing.assert_allclose(one.scores_W, wanted.scores_W, atol=1e-4)
