import math

import numpy as np
import pytest

from tests.evaluation.catalogues import catalogue_of
from tsrec_jax.evaluation.metrics import bootstrap_interval, ks_for, ranked_by_scores, resampled_means, score

# Items 0 and 4 share a SID, and so do 1, 5 and 6.
CATALOGUE = catalogue_of([(0, 0), (0, 1), (1, 0), (1, 1), (0, 0), (0, 1), (0, 1)])
A, B, C, D = (CATALOGUE.sid(n) for n in range(4))


def test_a_hit_counts_from_its_rank_on_and_gains_by_its_log():
    metrics = score([[C, D, A], [D, C, A]], np.array([3, 3]), CATALOGUE, (1, 2, 3))
    np.testing.assert_array_equal(metrics.per_row["sid"]["HR@1"], [0, 1])
    np.testing.assert_array_equal(metrics.per_row["sid"]["HR@2"], [1, 1])
    np.testing.assert_allclose(metrics.per_row["sid"]["NDCG@3"], [1 / math.log2(3), 1.0])
    assert metrics.sid["HR@1"] == 0.5
    assert metrics.item["HR@2"] == 1.0, "without collisions both levels agree"


def test_a_target_that_is_not_in_the_list_is_a_miss():
    metrics = score([[C, D]], np.array([0]), CATALOGUE, (1, 2))
    assert set(metrics.sid.values()) | set(metrics.item.values()) == {0.0}


def test_colliding_items_are_hit_in_expectation_of_a_random_order():
    """Checked against every order of the items inside the colliding SIDs."""
    import itertools

    ranked, target, ks = [A, B, C], 5, (1, 2, 3, 4, 5, 10)
    metrics = score([ranked], np.array([target]), CATALOGUE, ks)
    orders = [
        [item for group in choice for item in group]
        for choice in itertools.product(*(itertools.permutations(CATALOGUE.items_of_sid[sid]) for sid in ranked))
    ]
    for k in ks:
        places = [order.index(target) for order in orders]
        assert metrics.item[f"HR@{k}"] == pytest.approx(np.mean([place < k for place in places]))
        gains = [1 / math.log2(place + 2) if place < k else 0.0 for place in places]
        assert metrics.item[f"NDCG@{k}"] == pytest.approx(np.mean(gains))
    assert metrics.sid["HR@2"] == 1.0


def test_random_lists_score_as_every_place_of_every_target_says():
    rng = np.random.default_rng(0)
    catalogue = catalogue_of([(0, 0), (0, 0), (0, 0), (1, 0), (1, 0), *((2, n) for n in range(9))])
    sids = list(catalogue.items_of_sid)
    for target in rng.integers(0, catalogue.num_items, 60):
        ranked = list(rng.permutation(sids)[: rng.integers(1, len(sids))])
        metrics = score([ranked], np.array([target]), catalogue, (1, 3, 5, 10))
        wanted = catalogue.sid(int(target))
        ranks = [rank for rank, sid in enumerate(ranked) if sid == wanted]
        owners = [sid for sid in ranked for _ in catalogue.items_of_sid[sid]]  # of each place of items
        spots = [place for place, sid in enumerate(owners) if sid == wanted]
        for level, found, ties in (("sid", ranks, 1), ("item", spots, len(catalogue.items_of_sid[wanted]))):
            for k in (1, 3, 5, 10):
                inside = [place for place in found if place < k]
                gain = sum(1 / math.log2(place + 2) for place in inside)
                assert metrics.per_row[level][f"HR@{k}"][0] == pytest.approx(len(inside) / ties)
                assert metrics.per_row[level][f"NDCG@{k}"][0] == pytest.approx(gain / ties)


def test_cut_offs_are_those_that_the_beams_can_fill():
    assert ks_for(20) == (1, 3, 5, 10, 20)
    assert ks_for(50) == (1, 3, 5, 10, 20, 50)
    assert ks_for(4) == (1, 3)


def test_lists_that_cannot_be_scored_are_refused():
    with pytest.raises(ValueError, match="twice"):
        score([[A, A]], np.array([0]), CATALOGUE, (1,))
    with pytest.raises(ValueError, match="1 predictions for 2 targets"):
        score([[A]], np.array([0, 1]), CATALOGUE, (1,))
    with pytest.raises(ValueError, match="0 predictions"):
        score([], np.array([]), CATALOGUE, (1,))


def test_scores_rank_stably_and_must_be_finite():
    assert ranked_by_scores(["a", "b", "c"], [1.0, 2.0, 2.0]) == ["b", "c", "a"]
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="finite"):
            ranked_by_scores(["a", "b"], [0.0, bad])


def test_bootstrap_intervals_cover_the_true_mean_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    samples = rng.random((200, 150)) < 0.3
    intervals = [bootstrap_interval(sample, resamples=300, seed=n) for n, sample in enumerate(samples)]
    covered = np.mean([low <= 0.3 <= high for low, high in intervals])
    assert 0.89 <= covered <= 0.99
    width = np.mean([high - low for low, high in intervals])
    assert width == pytest.approx(2 * 1.96 * math.sqrt(0.3 * 0.7 / 150), rel=0.1)


def test_a_value_that_is_not_finite_has_no_interval():
    with pytest.raises(ValueError, match="finite"):
        resampled_means(np.array([1.0, math.nan]), 10, 0)
