import numpy as np
import pytest

from tsrec_jax import progress
from tsrec_jax.data.catalogue import Catalogue, Item
from tsrec_jax.decoding import generate
from tsrec_jax.decoding.beam_search import BeamResult, SearchSettings, beam_search
from tsrec_jax.decoding.generate import Searcher, search_all
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.models.inference import InferenceModel
from tsrec_jax.models.sharding import make_mesh


@pytest.fixture
def make_model(make_model):
    """make_model of the shared fixtures, in the form that decoding takes; `change` alters the weights before."""

    def make(change=None, **options):
        model = make_model(layers=1, **options)
        if change is not None:
            change(model)
        return InferenceModel.of(model)

    return make


@pytest.fixture(scope="module")
def catalogue():
    rng = np.random.default_rng(0)
    sids = tuple((f"<a_{a}>", f"<b_{b}>", f"<c_{c}>") for a, b, c in rng.integers(0, 6, (40, 3)))
    return Catalogue(tuple(Item(str(i), f"title {i}") for i in range(40)), sids)


@pytest.fixture(scope="module")
def trie(catalogue):
    return Trie.of_catalogue(catalogue, 32)


def assert_same(found, wanted):
    assert [[sid for sid, _ in row] for row in found] == [[sid for sid, _ in row] for row in wanted]
    scores, wanted_scores = ([[score for _, score in row] for row in rows] for rows in (found, wanted))
    np.testing.assert_allclose(scores, wanted_scores, atol=1e-4)


def test_results_come_in_the_order_of_the_prompts_whatever_batches_and_buckets(make_model, catalogue, trie, prompts):
    model = make_model()
    alone = [search_all(model, trie, catalogue, [p], beams=7, batch_size=1, buckets=(24,))[0] for p in prompts]
    assert len({row[0] for row in alone}) > 1, "the prompts must differ in their results"
    assert_same(search_all(model, trie, catalogue, prompts, beams=7, batch_size=2, buckets=(12, 24)), alone)
    assert_same(search_all(model, trie, catalogue, prompts, beams=7, batch_size=5, buckets=(24,)), alone)


def test_batches_are_full_in_the_smallest_bucket_that_holds_them_and_what_is_left_shares_some(
    make_model, trie, prompts, monkeypatch
):
    monkeypatch.setattr(generate, "WINDOW_BATCHES", 1)  # batches fill up over several windows
    searcher = Searcher(make_model(), trie, SearchSettings(7), batch_size=2, buckets=(4, 8), prefix=prompts[4][:9])
    given = [*prompts, prompts[4][:10], prompts[3][::-1]]
    batches = list(searcher._batches(given))
    assert [(rows, tokens_BS.shape, prefixed) for rows, tokens_BS, _, prefixed in batches] == [
        ([3, 6], (2, 16), False),
        ([1, 0], (2, 8), False),
        ([2], (2, 24), False),
        ([5, 4], (2, 8), True),
    ]
    for rows, tokens_BS, lengths_B, prefixed in batches:
        for place, row in enumerate(rows):
            assert [*prompts[4][: 9 * prefixed], *tokens_BS[place, : lengths_B[place]]] == given[row]
        assert (lengths_B > 0).all()


def test_prompts_with_and_without_the_shared_beginning_give_what_each_gives_alone(make_model, catalogue, trie, prompts):
    model, shared = make_model(), [4, 8, 15]
    mixed = [prompts[0], [*shared, *prompts[0]], shared, [*shared, *prompts[1]]]
    wanted = search_all(model, trie, catalogue, mixed, beams=7, batch_size=2, buckets=(24,))
    assert_same(search_all(model, trie, catalogue, mixed, beams=7, batch_size=2, buckets=(24,), prefix=shared), wanted)


def test_prompts_may_be_made_while_others_are_searched(make_model, catalogue, trie, prompts):
    wanted = search_all(make_model(), trie, catalogue, prompts, beams=7, batch_size=2, buckets=(24,))
    made = (prompt for prompt in prompts)
    assert_same(search_all(make_model(), trie, catalogue, made, beams=7, batch_size=2, buckets=(24,)), wanted)


def test_an_exact_search_widens_until_its_answers_are_proven(make_model, trie, prompts, monkeypatch):
    monkeypatch.setattr(generate, "WIDENING", 12)  # one width between the first and the last
    model, k = make_model(), 3
    narrow = Searcher(model, trie, SearchSettings(3), batch_size=5, buckets=(24,))
    (every,) = (Searcher(model, trie, SearchSettings(40), batch_size=5, buckets=(24,)).run(prompts),)
    assert not all(found.exact(k) for found in narrow.run(prompts)), "the test needs a search that is not exact"
    for found, wanted in zip(narrow.run_exact(prompts, k), every, strict=True):
        assert found.exact(k)
        np.testing.assert_array_equal(found.codes_WC[:k], wanted.codes_WC[:k])
    assert not all(found.exact(k) for found in narrow.run_exact(prompts, k, most=3))


def test_a_short_last_batch_does_not_compile_again(make_model, catalogue, trie, prompts):
    model = make_model()
    size = beam_search._cache_size()
    search_all(model, trie, catalogue, prompts, beams=7, batch_size=3, buckets=(24,))
    assert beam_search._cache_size() == size + 1


def test_every_prompt_gets_distinct_sids_of_the_catalogue_best_first(make_model, catalogue, trie, prompts):
    for beams in (7, 100):
        for row in search_all(make_model(), trie, catalogue, prompts, beams=beams, batch_size=5, buckets=(24,)):
            sids, scores = zip(*row, strict=True)
            assert len(set(sids)) == len(sids) == min(beams, len(catalogue.items_of_sid))
            assert set(sids) <= set(catalogue.items_of_sid)
            assert list(scores) == sorted(scores, reverse=True)


def test_a_mesh_rounds_the_batch_up_and_changes_nothing(make_model, catalogue, trie, prompts):
    wanted = search_all(make_model(), trie, catalogue, prompts, beams=7, batch_size=5, buckets=(24,))
    model = make_model(mesh=make_mesh(8))
    found = search_all(model, trie, catalogue, prompts, beams=7, batch_size=5, buckets=(24,))
    assert_same(found, wanted)


def test_a_single_nan_request_is_refused(make_model, catalogue, trie, prompts):
    def break_token(model):
        model.embedding[...] = model.embedding[...].at[31].set(np.nan)

    model = make_model(break_token)
    prompts[2][4] = 31
    with pytest.raises(FloatingPointError):
        search_all(model, trie, catalogue, prompts, beams=7, batch_size=5, buckets=(24,))


def test_an_infinite_logit_outside_the_catalogue_is_refused(make_model, catalogue, trie, prompts):
    def break_head(model):
        model.head[...] = model.head[...].at[5].set(np.inf)

    model = make_model(break_head)
    with pytest.raises(FloatingPointError):
        search_all(model, trie, catalogue, prompts, beams=7, batch_size=5, buckets=(24,))


def test_codes_that_are_no_sid_are_refused(catalogue, trie, monkeypatch, prompts, make_model):
    def lying_search(model, arrays, tokens_BS, lengths_B, settings, prefix, filters, prior):
        codes_BWC = np.tile(trie.sid_codes()[: settings.beams], (len(tokens_BS), 1, 1))
        codes_BWC[0, 0, 0] += 1
        scores_BW = np.zeros(codes_BWC.shape[:2], np.float32)
        return BeamResult(codes_BWC, scores_BW, np.zeros(codes_BWC.shape, np.float32), scores_BW[:, 0])

    monkeypatch.setattr(generate, "beam_search", lying_search)
    with pytest.raises(AssertionError, match="not SIDs"):
        search_all(make_model(), trie, catalogue, prompts, beams=7, batch_size=5, buckets=(24,))


def test_an_empty_prompt_is_refused_and_no_prompts_give_no_results(make_model, catalogue, trie):
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        search_all(make_model(), trie, catalogue, [[1], []], beams=5, batch_size=2)
    assert search_all(make_model(), trie, catalogue, [], beams=5, batch_size=2) == []


def test_progress_is_told(make_model, catalogue, trie, prompts, monkeypatch):
    monkeypatch.setattr(progress, "REPORT_SECONDS", 0.0)
    lines = []
    options = {"beams": 7, "batch_size": 1, "buckets": (24,)}
    search_all(make_model(), trie, catalogue, prompts, **options, progress=lines.append, total=len(prompts))
    assert len(lines) == len(prompts) - 1
    assert lines[-1].startswith("search: 4 of 5 rows")
