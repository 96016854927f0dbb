"""The fit: right weights of a known choice, its gradients, its candidates and its halves."""

import dataclasses

import numpy as np
import pytest
from scipy import optimize

from tsrec_jax.baselines.tables import ItemTables, Term
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.errors import UserError
from tsrec_jax.fusion import fit
from tsrec_jax.fusion.fit import candidates, fit_weights, fusion_of, halves, scaled_parts

ITEMS, ROWS = 30, 600
COMMON = np.linspace(-1.7, 1.7, ITEMS, dtype=np.float32)


@pytest.fixture(scope="module")
def tables():
    rng = np.random.default_rng(0)
    return {
        name: ItemTables(
            np.zeros(ITEMS, np.float32), (Term(0.0, rng.exponential(size=(ITEMS, ITEMS)).astype(np.float32)),)
        )
        for name in ("one", "two")
    }


@pytest.fixture(scope="module")
def rows(tables):
    """Targets drawn by exp(1.5 x one - 0.5 x two), and among all items."""
    rng = np.random.default_rng(1)
    last = rng.integers(0, ITEMS, ROWS)
    histories = tuple((int(item),) * int(1 + row % 3) for row, item in enumerate(last))
    x_PBI = [own.scores(histories) for own in tables.values()]
    score_BI = 1.5 * x_PBI[0] - 0.5 * x_PBI[1] + rng.gumbel(size=(ROWS, ITEMS))
    return Interactions(
        tuple(f"u{row // 2}" for row in range(ROWS)), histories, score_BI.argmax(axis=1).astype(np.int32)
    )


@pytest.fixture
def everything(monkeypatch):
    monkeypatch.setattr(fit, "LISTED", ITEMS)


def scores_of(tables, rows, chosen, others=None, log_p_BN=None):
    parts = scaled_parts(tables, rows)
    found = candidates(parts, rows, others or [()] * len(rows))
    weights = fit_weights(found, rows, chosen, np.arange(ITEMS), COMMON, 1.0, 1.0, log_p_BN)
    return found, weights, fusion_of(parts, weights, False, False, COMMON, np.arange(ITEMS), 1.0, {})


def test_the_fitted_scores_rank_as_the_choice_does(tables, rows, everything):
    _, _, fused = scores_of(tables, rows, np.arange(ROWS))
    right_BI = 1.5 * tables["one"].scores(rows.histories) - 0.5 * tables["two"].scores(rows.histories)
    found_BI = fused.scores(rows.histories)
    agree = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(right_BI, found_BI, strict=True)])
    assert agree > 0.97


def test_the_weights_are_those_beside_the_model(tables, rows, everything):
    """The model's log-probability is the first part of the choice; divided by its weight the rest is the second's."""
    other = {"two": tables["two"]}
    found = candidates(scaled_parts(other, rows), rows, [()] * ROWS)
    score_BI = 1.5 * tables["one"].scores(rows.histories)
    log_p_BI = score_BI - np.log(np.exp(score_BI).sum(axis=1, keepdims=True))
    log_p_BN = np.take_along_axis(log_p_BI, found.items_BN, axis=1)
    _, weights, fused = scores_of(other, rows, np.arange(ROWS), log_p_BN=log_p_BN)
    assert weights.model > 0.5 and not weights.at_bound
    total_BI = log_p_BI + fused.scores(rows.histories)
    right_BI = score_BI - 0.5 * tables["two"].scores(rows.histories)
    agree = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(right_BI, total_BI, strict=True)])
    assert agree > 0.97


def test_a_model_that_is_wrong_keeps_a_weight_above_zero(tables, rows, everything):
    found = candidates(scaled_parts(tables, rows), rows, [()] * ROWS)
    against_BN = np.where(found.items_BN == rows.targets[:, None], -5.0, 0.0).astype(np.float32)
    _, weights, _ = scores_of(tables, rows, np.arange(ROWS), log_p_BN=against_BN)
    assert weights.at_bound and 0 < weights.model < 0.01
    little_BN = 0.01 * against_BN  # nothing but the unit differs
    _, weights, _ = scores_of(tables, rows, np.arange(ROWS), log_p_BN=little_BN)
    assert weights.at_bound and weights.model > 0.01


def test_gradients_are_those_of_the_losses():
    rng = np.random.default_rng(2)
    there_BN = np.arange(6) < rng.integers(2, 7, (9, 1))
    target_BN = np.arange(6) == 0
    problem = fit._Problem(rng.normal(size=(9, 6, 3)), there_BN, np.repeat(target_BN[None], 9, 0), 0.5)
    held = rng.normal(size=3)
    for loss in (problem.logit, lambda w: problem.smooth_ndcg(w, held)):
        w = rng.normal(size=3)
        slope = optimize.approx_fprime(w, lambda w, loss=loss: loss(w)[0])
        np.testing.assert_allclose(loss(w)[1], slope, atol=1e-5)


def test_candidates_are_the_best_of_every_part_and_the_others_each_once(tables, rows, monkeypatch):
    monkeypatch.setattr(fit, "LISTED", 3)
    parts = scaled_parts(tables, rows)
    found = candidates(parts, rows.take([0, 1]), [(5, 5), ()])
    for row, items_N in enumerate(found.items_BN):
        best = [set(np.argsort(-own.scores(rows.histories[row : row + 1])[0])[:3]) for own in tables.values()]
        assert sorted(items_N[items_N >= 0]) == sorted(set.union(*best, {5} if row == 0 else set()))
        x = parts[1].tables.scores(rows.histories[row : row + 1])[0, items_N[0]]
        np.testing.assert_allclose(found.features_BNF[row, 0, 2], x / parts[1].scale.linear, rtol=1e-5)


def test_rows_whose_target_nobody_lists_say_nothing(tables, rows, monkeypatch):
    monkeypatch.setattr(fit, "LISTED", 5)
    found, all_rows, _ = scores_of(tables, rows, np.arange(ROWS))
    listed = np.flatnonzero((found.items_BN == rows.targets[:, None]).any(axis=1))
    assert 0 < len(listed) < ROWS
    _, without, _ = scores_of(tables, rows, listed)
    np.testing.assert_array_equal(all_rows.features_F3, without.features_F3)
    nobody = np.setdiff1d(np.arange(ROWS), listed)
    with pytest.raises(UserError, match="none of the selection rows"):
        scores_of(tables, rows, nobody)


def test_items_that_share_the_targets_sid_are_no_wrong_answers(tables, rows, everything):
    found = candidates(scaled_parts(tables, rows), rows, [()] * ROWS)
    sids_I, own = np.arange(ITEMS), (np.arange(ROWS), np.arange(ITEMS), COMMON, 1.0, 1.0)
    sids_I[ITEMS // 2 :] = np.arange(ITEMS // 2)
    mates_B1 = ((rows.targets + ITEMS // 2) % ITEMS)[:, None]
    without = dataclasses.replace(found, items_BN=np.where(found.items_BN == mates_B1, -1, found.items_BN))
    shared = fit_weights(found, rows, own[0], sids_I, COMMON, 1.0, 1.0)
    np.testing.assert_array_equal(shared.features_F3, fit_weights(without, rows, *own).features_F3)
    assert not np.allclose(shared.features_F3, fit_weights(found, rows, *own).features_F3)


def test_a_users_rows_are_in_one_half():
    np.testing.assert_array_equal(halves(("a", "b", "a", "c", "b")), [0, 1, 0, 0, 1])


def test_weights_follow_how_common_an_item_is_and_whether_the_history_holds_it(tables, rows, everything):
    """Targets drawn by exp(1.5 x one) among common items, by its opposite among rare ones, rarely what was had."""
    one = {"one": tables["one"]}
    sids_I = np.arange(ITEMS)
    sids_I[-5:] = range(5)
    held_BI = np.array([np.isin(sids_I, sids_I[list(history)]) for history in rows.histories])
    right_BI = 1.5 * COMMON * one["one"].scores(rows.histories) - 2 * held_BI
    drawn_BI = right_BI + np.random.default_rng(3).gumbel(size=right_BI.shape)
    rows, parts = dataclasses.replace(rows, targets=drawn_BI.argmax(axis=1)), scaled_parts(one, rows)
    found = candidates(parts, rows, [()] * ROWS, sids_I)
    np.testing.assert_array_equal(found.features_BNF[..., -1], held_BI)
    weights = fit_weights(found, rows, np.arange(ROWS), sids_I, COMMON, 1.0, 1.0)
    scores_BI = fusion_of(parts, weights, True, False, COMMON, sids_I, 1.0, {}).scores(rows.histories)
    agree = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(right_BI, scores_BI, strict=True)])
    assert agree > 0.95
    assert weights.features_F3[-1, 0] < -0.5
