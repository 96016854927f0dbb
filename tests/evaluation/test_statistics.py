import math
import time

import numpy as np
import pytest

from tests.evaluation.cells import cell_of, rows_by
from tsrec_jax.evaluation.statistics import (
    Comparison,
    PairedTest,
    draw_users,
    holm_corrected,
    interval,
    over_seeds,
    resampled,
)
from tsrec_jax.evaluation.study_cells import System
from tsrec_jax.evaluation.study_report import common_seeds
from tsrec_jax.evaluation.study_report import compare_systems as compare


def system(name, ranks_SN, users=None, **changed):
    rows = rows_by(range(len(ranks_SN[0])) if users is None else users)
    cells = [cell_of(rank, name=name, seed=seed, rows=rows, **changed) for seed, rank in enumerate(ranks_SN, 1)]
    return System(name, tuple(cells))


def hits(rng, share, seeds, rows):
    """Ranks 0 for a share of the rows, not listed for the others."""
    return np.where(rng.random((seeds, rows)) < share, 0, -1)


def mean_over_users(values_SN, draws):
    return resampled(np.array(values_SN), draws).mean(axis=1)


def test_intervals_cover_the_true_mean_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    samples = rng.random((200, 150)) < 0.3
    intervals = [
        interval(mean_over_users([sample], draw_users(range(150), 300, n))) for n, sample in enumerate(samples)
    ]
    covered = np.mean([low <= 0.3 <= high for low, high in intervals])
    assert 0.89 <= covered <= 0.99
    width = np.mean([high - low for low, high in intervals])
    assert width == pytest.approx(2 * 1.96 * math.sqrt(0.3 * 0.7 / 150), rel=0.1)


def test_resamples_do_not_depend_on_how_many_there_are_or_how_users_are_called():
    few, many = draw_users([7, 7, 3, 9], 5), draw_users(["a", "a", "b", "c"], 600)
    np.testing.assert_array_equal(few.user, [0, 0, 1, 2])
    np.testing.assert_array_equal(many.weights_RU[:5], few.weights_RU)
    assert (many.weights_RU.sum(axis=1) == 3).all()
    value_N = np.array([[0.5, 1.0, 0.0, 2.0]])
    expected = [np.average(value_N[0], weights=weights_U[many.user]) for weights_U in many.weights_RU]
    np.testing.assert_allclose(resampled(value_N, many)[:, 0], expected)


def test_rows_of_a_user_stay_together():
    """Four rows alike of each user know as much as one: the interval is twice that of independent rows."""
    value_N = np.repeat(np.random.default_rng(0).random(100), 4)
    widths = []
    for users in (np.repeat(np.arange(100), 4), np.arange(400)):
        low, high = interval(mean_over_users([value_N], draw_users(users)))
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(2.0, rel=0.1)


def test_a_mean_weighs_rows_not_users():
    draws = draw_users(np.array([0, 0, 0, 1]))
    means = mean_over_users([[1.0, 1.0, 1.0, 0.0]], draws)
    assert set(np.round(means, 4)) == {0.0, 0.75, 1.0}


def test_seeds_that_differ_widen_the_interval():
    values_SN = np.array([[0.2] * 200, [0.4] * 200, [0.6] * 200])
    draws = draw_users(np.arange(200))
    assert interval(mean_over_users(values_SN, draws)) == pytest.approx((0.4, 0.4))
    low, high = interval(over_seeds(resampled(values_SN, draws), draws))
    assert (low, high) == pytest.approx((0.2, 0.6), abs=0.07)


def test_a_system_does_not_differ_from_itself():
    ranks = hits(np.random.default_rng(0), 0.3, 2, 50)
    found = compare(system("a", ranks), system("b", ranks), "NDCG@10", draw_users(np.arange(50)))
    assert (found.difference, found.relative, found.better) == (0.0, 0.0, 0)
    for test in (found.users, found.seeds_and_users):
        assert (test.interval, test.p_value) == ((0.0, 0.0), 1.0)


def test_a_clear_difference_is_found_in_both_directions():
    rng = np.random.default_rng(1)
    better, worse = system("a", hits(rng, 0.35, 3, 400)), system("b", hits(rng, 0.15, 3, 400))
    draws = draw_users(np.arange(400))
    found, back = compare(better, worse, "HR@10", draws), compare(worse, better, "HR@10", draws)
    assert found.difference == pytest.approx(found.first_mean - found.second_mean)
    assert found.relative == pytest.approx(found.difference / found.second_mean)
    assert (found.better, found.seeds) == (3, (1, 2, 3))
    for test in (found.users, found.seeds_and_users):
        assert test.p_value < 0.01
        assert 0 < test.interval[0] < found.difference < test.interval[1]
    assert back.difference == pytest.approx(-found.difference)
    assert back.users.p_value < 0.01


def test_systems_that_differ_by_chance_alone_are_seldom_told_apart():
    """Rows of a user hang together, which a bootstrap over rows would take for evidence."""
    users = np.repeat(np.arange(60), 5)
    draws = draw_users(users)
    p_values = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        ranks = [np.repeat(hits(rng, 0.3, 1, 60), 5, axis=1) for _ in "ab"]
        p_values.append(
            compare(system("a", ranks[0], users), system("b", ranks[1], users), "HR@10", draws).users.p_value
        )
    assert np.mean(np.array(p_values) < 0.05) <= 0.12
    assert np.median(p_values) > 0.25


def test_with_one_seed_nothing_is_said_of_seeds():
    ranks = hits(np.random.default_rng(0), 0.3, 1, 40)
    found = compare(system("a", ranks), system("b", ranks), "HR@10", draw_users(np.arange(40)))
    assert found.seeds_and_users is None
    assert found.seeds == (1,)


def test_seeds_are_paired_by_number_and_a_system_without_seeds_goes_with_each():
    three = system("a", hits(np.random.default_rng(0), 0.3, 3, 40))
    fixed = system("fixed", hits(np.random.default_rng(1), 0.3, 1, 40), seeded=False, kind="baseline")
    two = System("c", three.cells[1:])
    other = System("d", (cell_of([0] * 40, name="d", seed=9),))
    assert common_seeds(three, two) == (2, 3)
    assert common_seeds(fixed, three) == common_seeds(three, fixed) == (1, 2, 3)
    draws = draw_users(np.arange(40))
    assert compare(two, three, "HR@10", draws).difference == 0.0
    assert common_seeds(three, other) == ()
    assert compare(three, fixed, "HR@10", draws).second_mean == pytest.approx(fixed.values("sid", "HR@10").mean())


def test_systems_with_other_sids_are_compared_by_item():
    draws = draw_users(np.arange(2))
    first = system("a", [[0, 0]])
    wide = System("b", (cell_of([0, 0], rows=rows_by([0, 1], group=[20, 20]), sids="other"),))
    found = compare(first, wide, "HR@10", draws)
    assert (found.level, found.second_mean) == ("item", 0.5)
    assert compare(first, first, "HR@10", draws).level == "sid"


def test_a_value_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        resampled(np.array([[0.0, np.nan]]), draw_users(np.arange(2)))


def test_twenty_arms_of_a_real_size_take_seconds():
    rng = np.random.default_rng(0)
    users = rng.integers(0, 2500, 4500)
    users = np.unique(users, return_inverse=True)[1]
    arms = [system(str(n), hits(rng, 0.15, 3, 4500), users) for n in range(20)]
    started = time.perf_counter()
    draws = draw_users(users)
    for arm in arms[1:]:
        compare(arms[0], arm, "NDCG@10", draws)
    assert time.perf_counter() - started < 20


def test_the_p_value_is_two_sided():
    """30 rows for the one and 18 for the other of 200: the normal approximation gives 0.081."""
    first, second = [0] * 30 + [-1] * 170, [-1] * 30 + [0] * 18 + [-1] * 152
    found = compare(system("a", [first]), system("b", [second]), "HR@1", draw_users(np.arange(200)))
    assert found.users.p_value == pytest.approx(0.081, abs=0.025)


def made_with(metric, p_value, over_seeds=None):
    tests = [None if p is None else PairedTest((0.0, 0.0), p) for p in (p_value, over_seeds)]
    return Comparison("a", "b", metric, "sid", (1,), 0.0, 0.0, 0.0, None, 0, *tests)


def test_p_values_are_corrected_for_the_comparisons_of_a_metric():
    """By Holm's steps done by hand: .005 x 4, .01 x 3, .03 x 2, and .04 x 1, which may not be below the one before."""
    of_a_metric = [made_with("NDCG@10", p) for p in (0.01, 0.04, 0.03)] + [made_with("NDCG@10", 0.9, 0.005)]
    found = holm_corrected([*of_a_metric, made_with("HR@10", 0.04), made_with("HR@10", 0.8)])
    assert [each.holm for each in found] == pytest.approx([0.03, 0.06, 0.06, 0.02, 0.08, 0.8])
    assert holm_corrected([]) == []
