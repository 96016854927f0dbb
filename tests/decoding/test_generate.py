import numpy as np
import pytest

from tsrec_jax.data.catalogue import Catalogue, Item
from tsrec_jax.decoding import beam_search as module
from tsrec_jax.decoding import generate
from tsrec_jax.decoding.beam_search import BeamResult
from tsrec_jax.decoding.generate import search_all
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.models.sharding import make_mesh


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


def test_batches_are_full_and_each_prompt_is_in_the_smallest_bucket_that_holds_it(prompts):
    batches = list(generate._batches(prompts, 2, (4, 8)))
    assert [(rows, tokens_BS.shape) for rows, tokens_BS, _ in batches] == [
        ([1], (2, 4)),
        ([0], (2, 8)),
        ([3, 4], (2, 16)),
        ([2], (2, 24)),
    ]
    for rows, tokens_BS, lengths_B in batches:
        for place, row in enumerate(rows):
            assert tokens_BS[place, : lengths_B[place]].tolist() == prompts[row]
        assert (lengths_B > 0).all()


def test_a_short_last_batch_does_not_compile_again(make_model, catalogue, trie, prompts):
    model = make_model()
    size = module._search._cache_size()
    search_all(model, trie, catalogue, prompts, beams=7, batch_size=3, buckets=(24,))
    assert module._search._cache_size() == size + 1


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
    model = make_model()
    prompts[2][4] = 31
    model.embedding[...] = model.embedding[...].at[31].set(np.nan)
    with pytest.raises(FloatingPointError):
        search_all(model, trie, catalogue, prompts, beams=7, batch_size=5, buckets=(24,))


def test_an_infinite_logit_outside_the_catalogue_is_refused(make_model, catalogue, trie, prompts):
    model = make_model()
    model.head[...] = model.head[...].at[5].set(np.inf)
    with pytest.raises(FloatingPointError):
        search_all(model, trie, catalogue, prompts, beams=7, batch_size=5, buckets=(24,))


def test_codes_that_are_no_sid_are_refused(catalogue, trie, monkeypatch, prompts, make_model):
    def lying_search(model, trie, tokens_BS, lengths_B, beams):
        leaf_BW = np.tile(np.arange(beams), (len(tokens_BS), 1))
        codes_BWC = np.asarray(trie.sid_codes_NC)[leaf_BW].copy()
        codes_BWC[0, 0, 0] += 1
        return BeamResult(codes_BWC, np.zeros(leaf_BW.shape, np.float32), leaf_BW)

    monkeypatch.setattr(generate, "beam_search", lying_search)
    with pytest.raises(AssertionError, match="not SIDs"):
        search_all(make_model(), trie, catalogue, prompts, beams=7, batch_size=5, buckets=(24,))


def test_an_empty_prompt_is_refused_and_no_prompts_give_no_results(make_model, catalogue, trie):
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        search_all(make_model(), trie, catalogue, [[1], []], beams=5, batch_size=2)
    assert search_all(make_model(), trie, catalogue, [], beams=5, batch_size=2) == []


def test_progress_is_told_with_rate_and_time_left(make_model, catalogue, trie, prompts, monkeypatch):
    monkeypatch.setattr(generate, "REPORT_SECONDS", 0.0)
    lines = []
    search_all(make_model(), trie, catalogue, prompts, beams=7, batch_size=1, buckets=(24,), progress=lines.append)
    assert len(lines) == len(prompts) - 1
    assert lines[-1].startswith("4/5 rows, ")
