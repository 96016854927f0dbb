import numpy as np
import pytest

from tests.baselines.catalogues import catalogue_of, rows_of
from tsrec_jax.baselines.ranking import best_items, best_settings, ndcg, rank_sids, target_ranks
from tsrec_jax.errors import UserError

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


def test_ndcg_is_the_discounted_gain_of_the_target_at_sid_level():
    scores_I = np.array([4, 3, 0, 2, 1], np.float32)  # the SID of item 2 is first through item 0
    rows = rows_of(((0,), 2), ((0,), 3))
    found = ndcg(lambda histories: np.repeat(scores_I[None], len(histories), 0), rows, CATALOGUE)
    assert found == pytest.approx((1 + 1 / np.log2(4)) / 2)


def test_a_selection_split_without_rows_is_refused():
    with pytest.raises(UserError, match="holds no rows"):
        ndcg(lambda histories: np.zeros((0, 5)), rows_of(), CATALOGUE)


def test_the_search_climbs_one_setting_after_another_and_asks_once():
    asked = []

    def value(settings):
        asked.append((settings["a"], settings["b"]))
        return -1.5 * (settings["a"] - 2) ** 2 - (settings["b"] - settings["a"]) ** 2  # takes two passes

    found, best = best_settings({"a": 0.0, "b": 0.0}, {"a": (0.0, 1.0, 2.0), "b": (0.0, 1.0, 2.0)}, value)
    assert (found, best) == ({"a": 2.0, "b": 2.0}, 0.0)
    assert len(asked) == len(set(asked))
