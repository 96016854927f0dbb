import numpy as np
import pytest

from tests.baselines.catalogues import catalogue_of
from tsrec_jax.baselines.ranking import best_items, rank_sids, target_ranks

CATALOGUE = catalogue_of("abcde", codes=[7, 3, 7, 5, 4])  # items 0 and 2 share a SID


def test_a_sid_scores_as_its_best_item_and_ties_go_in_catalogue_order():
    scores_BI = np.array([[1, 2, 5, 2, 2], [0, 0, 0, 0, 1]], np.float32)
    assert rank_sids(scores_BI, CATALOGUE, 9) == [
        ["<a_7>", "<a_3>", "<a_5>", "<a_4>"],
        ["<a_4>", "<a_7>", "<a_3>", "<a_5>"],
    ]
    assert rank_sids(scores_BI, CATALOGUE, 1) == [["<a_7>"], ["<a_4>"]]


def test_the_rank_of_a_target_is_its_place_in_the_ranked_list():
    scores_BI = np.random.default_rng(0).integers(0, 4, (60, 5)).astype(np.float32)
    targets_B = np.arange(60) % 5
    lists = rank_sids(scores_BI, CATALOGUE, 5)
    expected = [ranked.index(CATALOGUE.sid(target)) for ranked, target in zip(lists, targets_B, strict=True)]
    assert target_ranks(scores_BI, targets_B, CATALOGUE).tolist() == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_refused(bad):
    scores_BI = np.zeros((2, 5), np.float32)
    scores_BI[1, 2] = bad
    for refuse in (lambda: rank_sids(scores_BI, CATALOGUE, 3), lambda: target_ranks(scores_BI, [0, 1], CATALOGUE)):
        with pytest.raises(ValueError, match="not finite"):
            refuse()


def test_the_best_items_stand_best_first():
    scores_BI = np.array([[1, 4, 3, 0, 2], [5, 6, 7, 9, 8]], np.float32)
    assert best_items(scores_BI, 3).tolist() == [[1, 2, 4], [3, 4, 2]]
    assert best_items(scores_BI, 9).tolist() == [[1, 2, 4, 0, 3], [3, 4, 2, 1, 0]]
