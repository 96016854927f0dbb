"""Search with scores of the items added: the same as adding them to every SID's score, and found while searching."""

import numpy as np
import pytest

from tsrec_jax.data.catalogue import Catalogue, Item
from tsrec_jax.decoding import trie as trie_module
from tsrec_jax.decoding.beam_search import SearchSettings, beam_search
from tsrec_jax.decoding.generate import Searcher, search_all
from tsrec_jax.decoding.prior import DenseScores, PriorNodes, prefix_values
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.models.dense_head import DenseScorer
from tsrec_jax.models.inference import InferenceModel, prefill
from tsrec_jax.models.sharding import make_mesh


@pytest.fixture(scope="module")
def catalogue():
    """40 items, of which some share a SID."""
    rng = np.random.default_rng(0)
    sids = [(f"<a_{a}>", f"<b_{b}>", f"<c_{c}>") for a, b, c in rng.integers(0, 6, (38, 3))]
    sids += [sids[3], sids[17]]
    return Catalogue(tuple(Item(str(i), f"title {i}") for i in range(40)), tuple(sids))


@pytest.fixture(params=[1 << 24, 64], ids=["dense", "sparse below"])
def trie(request, catalogue, monkeypatch):
    monkeypatch.setattr(trie_module, "DENSE_SLOTS", request.param)
    trie = Trie.of_catalogue(catalogue, 32)
    assert (trie.arrays.levels[-1].starts is None) == (request.param > 64)
    return trie


@pytest.fixture
def model(make_model):
    return InferenceModel.of(make_model(layers=1))


@pytest.fixture(scope="module")
def scores_BI():
    return np.random.default_rng(2).normal(0.0, 3.0, (5, 40)).astype(np.float32)


def wanted_scores(model, trie, catalogue, padded, scores_BI, normaliser="vocabulary"):
    """{codes: log-probability + best score of its items} of all SIDs, best first, a prompt each."""
    plain = beam_search(model, trie.arrays, *padded, SearchSettings(64, normaliser))
    codes = [tuple(row) for row in catalogue.codes_IC.tolist()]
    found = []
    for codes_WC, scores_W, scores_I in zip(plain.codes_BWC, plain.scores_BW, scores_BI, strict=True):
        alive_W = np.isfinite(scores_W)
        alone = dict(zip(map(tuple, np.asarray(codes_WC)[alive_W].tolist()), scores_W[alive_W].tolist(), strict=True))
        best = {sid: max(s for c, s in zip(codes, scores_I, strict=True) if c == sid) for sid in alone}
        total = {sid: alone[sid] + best[sid] for sid in alone}
        found.append(dict(sorted(total.items(), key=lambda entry: -entry[1])))
    return found


def same(codes_WC, scores_W, wanted, count):
    best = list(wanted.items())[:count]
    np.testing.assert_array_equal(np.asarray(codes_WC)[:count], [codes for codes, _ in best])
    np.testing.assert_allclose(np.asarray(scores_W)[:count], [score for _, score in best], atol=1e-4)


@pytest.mark.parametrize("normaliser", ["vocabulary", "constrained"])
def test_scores_are_those_of_the_model_plus_the_best_of_the_items(
    model, trie, catalogue, padded, scores_BI, normaliser
):
    prior = PriorNodes(trie, catalogue.codes_IC).prior(scores_BI)
    found = beam_search(model, trie.arrays, *padded, SearchSettings(64, normaliser), prior=prior)
    plain = wanted_scores(model, trie, catalogue, padded, scores_BI, normaliser)
    for codes_WC, scores_W, wanted in zip(found.codes_BWC, found.scores_BW, plain, strict=True):
        assert len(wanted) == trie.num_sids < catalogue.num_items
        same(codes_WC, scores_W, wanted, trie.num_sids)


def test_log_probabilities_of_prefixes_stay_the_models_own(model, trie, catalogue, padded, scores_BI):
    prior = PriorNodes(trie, catalogue.codes_IC).prior(scores_BI)
    found = beam_search(model, trie.arrays, *padded, SearchSettings(7), prior=prior)
    plain = beam_search(model, trie.arrays, *padded, SearchSettings(64))
    for row in range(5):
        codes_NC = np.asarray(plain.codes_BWC[row, : trie.num_sids])
        for codes_C, totals_C in zip(np.asarray(found.codes_BWC[row]), found.totals_BWC[row], strict=True):
            (place,) = np.flatnonzero((codes_NC == codes_C).all(axis=1))
            np.testing.assert_allclose(totals_C, plain.totals_BWC[row, place], atol=1e-4)


def test_the_search_finds_an_item_that_the_model_alone_would_not_list(model, trie, catalogue, padded):
    plain = beam_search(model, trie.arrays, *padded, SearchSettings(64))
    last = np.asarray(plain.codes_BWC)[:, trie.num_sids - 1]
    scores_BI = np.where((catalogue.codes_IC == last[:, None]).all(axis=-1), np.float32(100), np.float32(0))
    prior = PriorNodes(trie, catalogue.codes_IC).prior(scores_BI)
    found = beam_search(model, trie.arrays, *padded, SearchSettings(1), prior=prior)
    np.testing.assert_array_equal(found.codes_BWC[:, 0], last)


def test_what_is_said_to_be_exact_is_exact(model, trie, catalogue, prompts, padded, scores_BI):
    nodes, claims = PriorNodes(trie, catalogue.codes_IC), 0
    searcher = Searcher(model, trie, SearchSettings(9, "constrained"), batch_size=5, buckets=(24,))
    found = searcher.run(prompts, prior=lambda rows: nodes.prior(scores_BI[rows]))
    for one, wanted in zip(found, wanted_scores(model, trie, catalogue, padded, scores_BI, "constrained"), strict=True):
        for k in range(1, 10):
            if one.exact(k):
                claims += 1
                same(one.codes_WC, one.scores_W, wanted, k)
    assert 5 <= claims < 45, "the test needs claims, and searches that make none"


def test_every_prompt_gets_its_own_scores_whatever_batches_and_buckets(model, trie, catalogue, prompts, scores_BI):
    given = {"beams": 7, "item_scores": lambda rows: scores_BI[list(rows)]}
    wanted = search_all(model, trie, catalogue, prompts, batch_size=5, buckets=(24,), **given)
    assert len({row[0][0] for row in wanted}) > 1
    for size, buckets in ((2, (12, 24)), (8, (24,))):
        found = search_all(model, trie, catalogue, prompts, batch_size=size, buckets=buckets, **given)
        assert [[sid for sid, _ in row] for row in found] == [[sid for sid, _ in row] for row in wanted]


def test_a_constant_changes_no_ranking_and_adds_to_every_score(model, trie, catalogue, padded):
    prior = PriorNodes(trie, catalogue.codes_IC).prior(np.full((5, 40), 2.5, np.float32))
    plain = beam_search(model, trie.arrays, *padded, SearchSettings(9))
    found = beam_search(model, trie.arrays, *padded, SearchSettings(9), prior=prior)
    np.testing.assert_array_equal(found.codes_BWC, plain.codes_BWC)
    np.testing.assert_allclose(found.scores_BW, plain.scores_BW + 2.5, atol=1e-5)


def test_new_scores_compile_nothing(model, trie, catalogue, padded, scores_BI):
    nodes = PriorNodes(trie, catalogue.codes_IC)
    beam_search(model, trie.arrays, *padded, SearchSettings(9), prior=nodes.prior(scores_BI))
    before = beam_search._cache_size()
    beam_search(model, trie.arrays, *padded, SearchSettings(9), prior=nodes.prior(-scores_BI))
    assert beam_search._cache_size() == before


def test_on_a_mesh_the_lists_are_the_same(make_model, trie, catalogue, prompts, scores_BI):
    given = {"beams": 7, "batch_size": 4, "buckets": (24,), "item_scores": lambda rows: scores_BI[list(rows)]}
    wanted = search_all(InferenceModel.of(make_model(layers=1)), trie, catalogue, prompts, **given)
    mesh = make_mesh(2, 2, 2)
    with_mesh = InferenceModel.of(make_model(layers=1, mesh=mesh))
    found = search_all(with_mesh, trie, catalogue, prompts, **given)
    assert [[sid for sid, _ in row] for row in found] == [[sid for sid, _ in row] for row in wanted]


def test_items_that_are_no_longer_in_the_trie_count_for_nothing(model, trie, catalogue, padded, scores_BI):
    trie.remove(catalogue.codes_IC[:10])
    prior = PriorNodes(trie, catalogue.codes_IC).prior(scores_BI)
    found = beam_search(model, trie.arrays, *padded, SearchSettings(64), prior=prior)
    for row, wanted in enumerate(wanted_scores(model, trie, catalogue, padded, scores_BI)):
        same(found.codes_BWC[row], found.scores_BW[row], wanted, trie.num_sids)


def test_scores_that_rank_nothing_are_refused(trie, catalogue):
    nodes = PriorNodes(trie, catalogue.codes_IC)
    for bad in (np.nan, -np.inf):
        with pytest.raises(ValueError, match="not finite"):
            nodes.prior(np.full((1, 40), bad, np.float32))


def test_a_trie_with_sids_of_no_item_is_refused(trie, catalogue):
    with pytest.raises(ValueError, match="no item with a score"):
        PriorNodes(trie, catalogue.codes_IC[:20]).prior(np.zeros((1, 20), np.float32))


def with_scores(plain, row, score_of):
    """{codes: log-probability + score} of one prompt's SIDs, best first."""
    found = zip(np.asarray(plain.codes_BWC[row]).tolist(), np.asarray(plain.scores_BW[row]).tolist(), strict=True)
    total = {tuple(codes): score + score_of[tuple(codes)] for codes, score in found if np.isfinite(score)}
    return dict(sorted(total.items(), key=lambda entry: -entry[1]))


def test_items_that_join_go_and_move_are_found_exactly_and_compile_nothing(model, trie, catalogue, padded, scores_BI):
    """One joins beside siblings, one where only its first code is known, one is gone, one has another's SID."""
    nodes = PriorNodes(trie, catalogue.codes_IC, joining=True)
    settings = SearchSettings(64)
    beam_search(model, trie.arrays, *padded, settings, prior=nodes.prior(nodes.scores(scores_BI)))
    beam_search(model, trie.arrays, *padded, settings)
    before = beam_search._cache_size()
    codes = list(map(tuple, catalogue.codes_IC.tolist()))
    free = [c for c in np.ndindex(6, 6, 6) if c not in codes]
    beside = next(c for c in free if any(c[:2] == other[:2] for other in codes))
    apart = next(c for c in free if not any(c[:2] == other[:2] for other in codes))
    trie.add(np.array([beside, apart]))
    nodes.join(beside), nodes.join(apart)
    trie.remove(np.array([codes[0]]))
    nodes.remove(0)
    nodes.set(1, codes[2])
    assert {1, 2} <= set(nodes.of_same_sids([1])) and nodes.known(1) == 1
    if codes.count(codes[1]) == 1:
        trie.remove(np.array([codes[1]]))
    found = beam_search(model, trie.arrays, *padded, settings, prior=nodes.prior(nodes.scores(scores_BI)))
    plain = beam_search(model, trie.arrays, *padded, settings)
    assert beam_search._cache_size() == before
    moved = {**dict(enumerate(codes)), 1: codes[2]}
    for row, scores_I in enumerate(scores_BI):
        score_of = {}
        for item, own in moved.items():
            score_of[own] = max(score_of.get(own, -np.inf), scores_I[item])
        for new, shared in ((beside, 2), (apart, 1)):
            siblings = [item for item, own in enumerate(codes) if own[:shared] == new[:shared]]
            if len(siblings) > 8:
                siblings = [siblings[int(place)] for place in np.linspace(0, len(siblings) - 1, 8)]
            score_of[new] = scores_I[siblings].mean()
        same(found.codes_BWC[row], found.scores_BW[row], with_scores(plain, row, score_of), trie.num_sids)


def test_more_items_join_than_there_was_room_for(model, trie, catalogue, padded, scores_BI):
    nodes = PriorNodes(trie, catalogue.codes_IC, joining=True)
    free = [c for c in np.ndindex(6, 6, 6) if not trie.contains(np.array([c]))[0]][:70]
    trie.add(np.array(free))
    for codes in free:
        nodes.join(codes)
    prior = nodes.prior(nodes.scores(scores_BI))
    found = beam_search(model, trie.arrays, *padded, SearchSettings(128), prior=prior)
    assert np.isfinite(found.scores_BW).sum() == 5 * trie.num_sids


def test_items_that_come_go_and_move_leave_nothing_behind(trie, catalogue, scores_BI):
    nodes, fresh = (PriorNodes(trie, catalogue.codes_IC, joining=True) for _ in range(2))
    codes = [tuple(catalogue.codes_IC[item]) for item in (11, 21)]
    fresh.join(codes[1])
    for _ in range(100):
        entry = nodes.join(codes[0])
        nodes.set(entry, codes[1], alive=False)
        np.testing.assert_array_equal(nodes.scores(scores_BI)[:, entry], fresh.scores(scores_BI)[:, 40])
        assert nodes.known(entry) == fresh.known(40) and entry in nodes.of_same_sids([21])
        nodes.remove(entry)
    assert nodes.as_begun and entry not in nodes.of_same_sids([21])
    assert nodes.scores(scores_BI).shape == fresh.scores(scores_BI).shape, "the search would be compiled again"


def test_an_item_whose_first_code_no_item_has_is_scored_as_items_all_over_the_catalogue():
    """Under a dense head every other score is a log-probability, so that 0 would be the best of all."""
    rng = np.random.default_rng(6)
    vectors = [rng.normal(size=(15, 4)).astype(np.float32) for _ in range(2)]
    scorer = DenseScorer(
        *vectors, np.eye(4, dtype=np.float32), np.zeros(32, np.float32), np.float32(1), temperature=1.0
    )
    codes_IC = np.stack([np.arange(15) % 2, np.arange(15)], axis=1)
    trie = Trie.from_codes(codes_IC, (3, 15), [np.arange(3, dtype=np.int32), np.arange(3, 18, dtype=np.int32)])
    nodes = PriorNodes(trie, codes_IC, joining=True)
    nodes.set(3, (0, 3))
    assert not nodes.as_begun
    nodes.set(3, (1, 3))
    assert nodes.as_begun
    trie.add(np.array([[2, 0]]))
    assert nodes.known(nodes.join((2, 0))) is None
    x_BD, history = rng.normal(size=(1, 4)).astype(np.float32), [(1, 2)]
    dense = DenseScores.of(scorer, history, np.ones((1, 1)))
    log_p_I = np.asarray(scorer.scores(x_BD, dense.history_BH, dense.lengths_B))[0]
    wanted = log_p_I[[0, 2, 4, 6, 8, 10, 12, 14]].mean()
    first_level = prefix_values(nodes.prior(nodes.scores(np.zeros((1, 15), np.float32)), dense), x_BD.T)[0][0]
    np.testing.assert_allclose(first_level[:3], [log_p_I[::2].max(), log_p_I[1::2].max(), wanted], rtol=1e-5)
    codes_UC, best_BU = nodes.best_of_sids(nodes.scores(log_p_I[None]))
    np.testing.assert_allclose(best_BU[0][(codes_UC == (2, 0)).all(axis=1)], wanted, rtol=1e-5)


def test_a_dense_head_adds_what_it_says_of_the_prompts_last_state(model, trie, catalogue, padded, scores_BI):
    rng = np.random.default_rng(4)
    width = model.embedding_VD.shape[1]
    vectors = [rng.normal(size=(40, width)).astype(np.float32) for _ in range(2)]
    state_DD = rng.normal(size=(width, width)).astype(np.float32) / width
    scorer = DenseScorer(*vectors, state_DD, np.zeros(32, np.float32), np.float32(0.5), temperature=5.0)
    histories = [(1, 2), (3,), (), (39, 4, 4), (0,)]
    weight_BI = np.array([[1], [0.5], [2], [0], [-1]]) + rng.normal(0.0, 0.2, 40)
    nodes = PriorNodes(trie, catalogue.codes_IC)
    dense = DenseScores.of(scorer, histories, weight_BI)
    found = beam_search(model, trie.arrays, *padded, SearchSettings(64), prior=nodes.prior(scores_BI, dense))

    state_BD = np.asarray(prefill(model, *padded)[0]).T
    state_BD = state_BD / np.sqrt((state_BD**2).mean(axis=1, keepdims=True))
    mean_BD = np.stack([vectors[1][list(h)].mean(axis=0) if h else np.zeros(width) for h in histories])
    u_BD = state_BD @ state_DD + 0.5 * mean_BD
    u_BD /= np.linalg.norm(u_BD, axis=1, keepdims=True)
    logits_BI = u_BD @ vectors[0].T / 5.0
    log_p_BI = logits_BI - np.log(np.exp(logits_BI).sum(axis=1, keepdims=True))
    total_BI = scores_BI + weight_BI * log_p_BI
    for row, wanted in enumerate(wanted_scores(model, trie, catalogue, padded, total_BI)):
        same(found.codes_BWC[row], found.scores_BW[row], wanted, trie.num_sids)
