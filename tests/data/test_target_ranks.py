import math

import numpy as np
import pytest

from tests.evaluation.catalogues import catalogue_of
from tsrec_jax.data.target_ranks import find_targets, metric_names, ndcg_of_ranks

# Items 0 and 4 share a SID, and so do 1, 5 and 6.
CATALOGUE = catalogue_of([(0, 0), (0, 1), (1, 0), (1, 1), (0, 0), (0, 1), (0, 1)])
A, B, C, D = (CATALOGUE.sid(n) for n in range(4))


def test_a_hit_counts_from_its_rank_on_and_gains_by_its_log():
    ranks = find_targets([[C, D, A], [D, C, A]], np.array([3, 3]), CATALOGUE)
    np.testing.assert_array_equal(ranks.values("sid", "HR@1"), [0, 1])
    np.testing.assert_array_equal(ranks.values("sid", "HR@2"), [1, 1])
    np.testing.assert_allclose(ranks.values("sid", "NDCG@3"), [1 / math.log2(3), 1.0])
    assert ranks.mean("sid", "HR@1") == 0.5
    assert ranks.mean("item", "HR@2") == 1.0, "without collisions both levels agree"


def test_a_target_that_is_not_in_the_list_is_a_miss():
    means = find_targets([[C, D]], np.array([0]), CATALOGUE).means(("HR@1", "HR@2", "NDCG@1", "NDCG@2"))
    assert set(means["sid"].values()) | set(means["item"].values()) == {0.0}


def test_colliding_items_are_hit_in_expectation_of_a_random_order():
    """Checked against every order of the items inside the colliding SIDs."""
    import itertools

    ranked, target, ks = [A, B, C], 5, (1, 2, 3, 4, 5, 10)
    found = find_targets([ranked], np.array([target]), CATALOGUE)
    orders = [
        [item for group in choice for item in group]
        for choice in itertools.product(*(itertools.permutations(CATALOGUE.items_of_sid[sid]) for sid in ranked))
    ]
    for k in ks:
        places = [order.index(target) for order in orders]
        assert found.mean("item", f"HR@{k}") == pytest.approx(np.mean([place < k for place in places]))
        gains = [1 / math.log2(place + 2) if place < k else 0.0 for place in places]
        assert found.mean("item", f"NDCG@{k}") == pytest.approx(np.mean(gains))
    assert found.mean("sid", "HR@2") == 1.0


def test_random_lists_score_as_every_place_of_every_target_says():
    rng = np.random.default_rng(0)
    catalogue = catalogue_of([(0, 0), (0, 0), (0, 0), (1, 0), (1, 0), *((2, n) for n in range(9))])
    sids = list(catalogue.items_of_sid)
    for target in rng.integers(0, catalogue.num_items, 60):
        ranked = list(rng.permutation(sids)[: rng.integers(1, len(sids))])
        placed = find_targets([ranked], np.array([target]), catalogue)
        wanted = catalogue.sid(int(target))
        ranks = [rank for rank, sid in enumerate(ranked) if sid == wanted]
        owners = [sid for sid in ranked for _ in catalogue.items_of_sid[sid]]  # of each place of items
        spots = [place for place, sid in enumerate(owners) if sid == wanted]
        for level, found, ties in (("sid", ranks, 1), ("item", spots, len(catalogue.items_of_sid[wanted]))):
            for k in (1, 3, 5, 10):
                inside = [place for place in found if place < k]
                gain = sum(1 / math.log2(place + 2) for place in inside)
                assert placed.values(level, f"HR@{k}")[0] == pytest.approx(len(inside) / ties)
                assert placed.values(level, f"NDCG@{k}")[0] == pytest.approx(gain / ties)


def test_cut_offs_are_those_that_the_beams_can_fill():
    assert metric_names(20) == [f"{name}@{k}" for name in ("HR", "NDCG") for k in (1, 3, 5, 10, 20)]
    assert metric_names(50)[5] == "HR@50"
    assert metric_names(4) == ["HR@1", "HR@3", "NDCG@1", "NDCG@3"]


def test_the_gain_of_ranks_alone_is_that_of_the_sid_level():
    rank = np.array([0, 2, 9, 10, -1])
    np.testing.assert_allclose(ndcg_of_ranks(rank, 10), [1.0, 0.5, 1 / math.log2(11), 0.0, 0.0])


def test_lists_that_cannot_be_scored_are_refused():
    with pytest.raises(ValueError, match="twice"):
        find_targets([[A, A]], np.array([0]), CATALOGUE)
    with pytest.raises(ValueError, match="1 predictions for 2 targets"):
        find_targets([[A]], np.array([0, 1]), CATALOGUE)
    with pytest.raises(ValueError, match="0 predictions"):
        find_targets([], np.array([]), CATALOGUE)
