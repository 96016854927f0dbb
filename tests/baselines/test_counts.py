import numpy as np
import pytest

from tests.baselines.catalogues import catalogue_of, quiet, rows_of
from tsrec_jax.baselines.counts import (
    FALLBACK,
    HALF_LIVES,
    fit_popularity,
    fit_recent_popularity,
    fit_repeat_last,
    fit_transitions,
)
from tsrec_jax.baselines.ranking import rank_sids
from tsrec_jax.baselines.tables import history_weights
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.shop.shop import make_shop

# Items 0 and 4 share a SID: its counts add up.
CATALOGUE = catalogue_of("abcde", codes=[0, 1, 2, 3, 0])
TRAIN = Interactions(("u",) * 6, ((3,),) * 6, np.array([1, 0, 2, 4, 2, 0], np.int32))
HISTORIES = ((1, 3, 3, 2), (4,))


def sids(*items):
    return [CATALOGUE.sid(item) for item in items]


def test_popularity_counts_the_targets_of_train_by_sid():
    fitted = fit_popularity(CATALOGUE, TRAIN, TRAIN, 0, quiet)
    np.testing.assert_allclose(fitted.scores(HISTORIES), np.array([[3, 1, 2, 0, 3]] * 2) / 6, rtol=1e-6)
    assert rank_sids(fitted.scores(HISTORIES), CATALOGUE, 4) == [sids(0, 2, 1, 3)] * 2


def test_repeat_last_goes_back_through_the_history_and_then_to_the_popular():
    fitted = fit_repeat_last(CATALOGUE, TRAIN, TRAIN, 0, quiet)
    assert rank_sids(fitted.scores(HISTORIES), CATALOGUE, 4) == [sids(2, 3, 1, 0), sids(0, 2, 1, 3)]


def test_recent_popularity_follows_the_end_of_the_file_where_selection_does():
    train = rows_of(*[((3,), 1)] * 60, *[((3,), 2)] * 4)
    late, early = rows_of(((3,), 2)), rows_of(((3,), 1))
    recent = fit_recent_popularity(CATALOGUE, train, late, 0, quiet)
    assert recent.facts["settings"]["half_life"] in HALF_LIVES[1:]
    assert rank_sids(recent.scores([(3,)]), CATALOGUE, 1) == [sids(2)]
    plain = fit_recent_popularity(CATALOGUE, train, early, 0, quiet)
    np.testing.assert_array_equal(plain.share_I, fit_popularity(CATALOGUE, train, early, 0, quiet).share_I)


@pytest.mark.parametrize("order", ["shuffled", "backwards", "by user"])
def test_rows_that_are_not_in_the_order_of_time_all_count_alike_and_that_is_said(order):
    shop = make_shop(3, num_items=80, num_users=60)
    train, select = shop.splits["train"], shop.splits["valid"]
    numbers = {
        "shuffled": np.random.default_rng(0).permutation(len(train)),
        "backwards": np.arange(len(train))[::-1],
        "by user": np.argsort(train.users, kind="stable"),
    }[order]
    said = []
    found = fit_recent_popularity(shop.catalogue, train.take(numbers), select, 0, said.append)
    np.testing.assert_array_equal(found.share_I, fit_popularity(shop.catalogue, train, select, 0, quiet).share_I)
    assert found.facts["settings"] == {}
    assert "plain popularity, since train's rows are not in the order of time" in said[0]


def test_a_row_counts_half_for_every_half_life_of_rows_after_it(monkeypatch):
    monkeypatch.setattr("tsrec_jax.baselines.counts.HALF_LIVES", (0.5,))
    recent = fit_recent_popularity(CATALOGUE, rows_of(*[((3,), t) for t in (1, 1, 2, 3)]), rows_of(((3,), 3)), 0, quiet)
    weights = 2.0 ** (-np.array([3, 2, 1, 0]) / 2)
    expected = np.array([0, weights[0] + weights[1], weights[2], weights[3], 0]) / weights.sum()
    np.testing.assert_allclose(recent.share_I, expected, rtol=1e-6)


def test_history_weights_decay_from_the_newest_and_sum_to_one():
    weights_BI = history_weights([(2, 0, 2), (1,)], 3, 0.5).toarray()
    np.testing.assert_allclose(weights_BI, [[2 / 7, 0, 5 / 7], [0, 1, 0]], rtol=1e-6)
    np.testing.assert_array_equal(history_weights([(2, 0, 1)], 3, 0.0).toarray(), [[0, 1, 0]])


def test_transitions_count_what_followed_with_decay_and_shrinkage(monkeypatch):
    start = {"count_decay": 0.5, "history_decay": 0.5, "shrinkage": 1.0}
    monkeypatch.setattr("tsrec_jax.baselines.counts.TRANSITION_START", start)
    monkeypatch.setattr("tsrec_jax.baselines.counts.TRANSITION_GRIDS", {})
    train = rows_of(((1,), 2), ((1, 2), 3), ((1,), 3))
    fitted = fit_transitions(CATALOGUE, train, train, 0, quiet)
    # 1 -> 2 once, 1 -> 3 once and once with 2 in between; 2 -> 3 once.
    after_1 = np.array([0, 0, 1, 1.5, 0]) / 3.5
    after_2 = np.array([0, 0, 0, 1, 0]) / 2
    popularity = FALLBACK * np.array([0, 0, 1, 2, 0]) / 3
    expected = [after_1 + popularity, after_1 / 3 + after_2 * 2 / 3 + popularity, popularity]
    np.testing.assert_allclose(fitted.scores([(1,), (1, 2), (4,)]), expected, rtol=1e-5)


def test_transitions_choose_their_settings_on_selection():
    # After (1, 2) the older item knows the answer in one selection split, the newest in the other.
    train = rows_of(*[((1,), 3)] * 3, *[((2,), 0)] * 3, ((4,), 0))
    old = fit_transitions(CATALOGUE, train, rows_of(((1, 1, 1, 2), 3)), 0, quiet)
    new = fit_transitions(CATALOGUE, train, rows_of(((1, 1, 1, 2), 0)), 0, quiet)
    assert old.history_decay > 0.5 > new.history_decay
    assert rank_sids(old.scores([(1, 1, 1, 2)]), CATALOGUE, 1) == [sids(3)]
    assert rank_sids(new.scores([(1, 1, 1, 2)]), CATALOGUE, 1) == [sids(0)]


@pytest.mark.parametrize("fit", [fit_popularity, fit_recent_popularity, fit_repeat_last, fit_transitions])
def test_scores_are_float32(fit):
    assert fit(CATALOGUE, TRAIN, TRAIN, 0, quiet).scores(HISTORIES).dtype == np.float32
