"""Which SIDs become candidates: the search's, the target, a teacher's, each once; drawn ones follow the model."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.rl.toy import CODES_IC, ITEMS, SIDS_UC, enumerated, make_batch, make_model, make_trie, micro_of, numbers_of
from tsrec_jax.decoding.beam_search import SearchSettings, beam_search
from tsrec_jax.decoding.sampled_beams import noisy_scores
from tsrec_jax.models.inference import InferenceModel
from tsrec_jax.rl.objectives.dpo import dpo
from tsrec_jax.rl.objectives.grpo import advantages
from tsrec_jax.rl.propose import SidVectors, propose
from tsrec_jax.rl.rewards import likeness, prefix, ranking, rule
from tsrec_jax.rl.settings import RlSettings
from tsrec_jax.rl.terms import Terms

TRIE = make_trie()
ARRAYS = TRIE.arrays
VECTORS_UD = np.random.default_rng(0).normal(size=(len(SIDS_UC), 4)).astype(np.float32)


@functools.cache
def proposed(group, sampled=False, seed=0):
    micro = micro_of(make_batch())
    vectors = SidVectors(TRIE.slots(SIDS_UC)[:, -1].astype(np.int32), VECTORS_UD)
    draw = jax.jit(lambda key: propose(make_model(), ARRAYS, micro, key, group=group, sampled=sampled, vectors=vectors))
    return micro, jax.device_get(draw(jax.random.key(seed)))


def test_candidates_are_the_searchs_beams_the_target_and_the_teachers_best_each_once():
    micro, found = proposed(6)
    beams = beam_search(InferenceModel.of(make_model()), ARRAYS, micro["tokens_BT"], micro["lengths_B"],
                        SearchSettings(6, "constrained"))  # fmt: skip
    beams_BW, target_B = numbers_of(beams.codes_BWC), numbers_of(micro["target_BC"])
    teacher_BM, numbers_BW = numbers_of(micro["teacher_BMC"]), numbers_of(found.codes_BWC)
    for row in range(4):
        valid = numbers_BW[row][found.valid_BW[row]].tolist()
        assert len(set(valid)) == len(valid) and valid[0] == target_B[row]
        assert set(valid) == {target_B[row], *beams_BW[row], *teacher_BM[row]}
        hit = target_B[row] in beams_BW[row]
        assert found.hit_B[row] == hit
        group = numbers_BW[row][found.group_BW[row]].tolist()
        assert set(group) == (set(beams_BW[row]) if hit else {target_B[row], *beams_BW[row][:-1]})
        gains = dict(zip(numbers_BW[row], found.gain_BW[row], strict=True))
        for sid in valid:  # over the items of the SID, of which the teacher may have ranked several
            ranked = 1 / np.log2(2 + np.flatnonzero(teacher_BM[row] == sid))
            assert gains[sid] == pytest.approx(ranked.sum() / (numbers_of(CODES_IC) == sid).sum())
    assert 0 < found.hit_B.sum() < 4, "rows with and without a hit"


def test_a_catalogue_smaller_than_the_group_is_proposed_whole():
    _, found = proposed(64)
    assert (found.valid_BW.sum(axis=1) == len(SIDS_UC)).all() and len(SIDS_UC) == ITEMS - 1
    assert found.hit_B.all()
    np.testing.assert_array_equal(found.group_BW, found.valid_BW)


def test_the_same_seed_draws_the_same_and_another_one_others():
    drawn = proposed.__wrapped__  # which remembers nothing
    first, again, other = (drawn(6, True, seed)[1].codes_BWC[:, :7] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_beams_are_drawn_without_replacement_by_their_probabilities():
    """Of many draws: how often each SID comes first and is among the first two, against their closed form."""
    count, model = 6000, make_model(spread=0.2)
    micro = jax.tree.map(lambda x: jnp.repeat(x[:1], count, axis=0), micro_of(make_batch()))
    found = beam_search(InferenceModel.of(model), ARRAYS, micro["tokens_BT"], micro["lengths_B"],
                        SearchSettings(2, "constrained"), noise=jax.random.key(3))  # fmt: skip
    log_p_U = np.asarray(enumerated(model, micro_of(make_batch()))[0][0], np.float64)
    p_U = np.exp(log_p_U)
    drawn_BW = numbers_of(found.codes_BWC)
    np.testing.assert_allclose(found.totals_BWC[..., -1], log_p_U[drawn_BW], atol=1e-4)
    assert (drawn_BW[:, 0] != drawn_BW[:, 1]).all()
    second_U = (p_U[:, None] * p_U[None] / (1 - p_U[:, None]) * (1 - np.eye(len(p_U)))).sum(axis=0)
    for column, expected_U in ((0, p_U), (1, second_U)):
        seen_U = np.bincount(drawn_BW[:, column], minlength=len(p_U)) / count
        np.testing.assert_allclose(seen_U, expected_U, atol=5 * np.sqrt(expected_U.max() / count))


def test_noisy_scores_reach_their_parents_and_leave_out_what_is_not_allowed():
    totals = jnp.array([[[-1.0, -jnp.inf, -3.0, -60.0], [-jnp.inf] * 4]])
    found = noisy_scores(totals, jnp.array([[0.7, -jnp.inf]]), jax.random.key(0))
    assert float(found[0, 0].max()) == pytest.approx(0.7, abs=1e-6)
    np.testing.assert_array_equal(jnp.isneginf(found), jnp.isneginf(totals))
    assert not bool(jnp.isnan(found).any())


def test_rewards_of_a_row_whose_target_shares_its_sid():
    micro, found = proposed(6)
    items_B, settings = np.asarray(micro["items_B"]), RlSettings()
    assert items_B.tolist() == [1, 1, 2, 1]
    order_BW = np.tile(np.arange(found.valid_BW.shape[1]) + 1, (4, 1))
    assert np.asarray(rule(found, order_BW, items_B, settings))[:, 0].tolist() == [1, 1, 0.5, 1]
    penal_BW = np.asarray(ranking(found, order_BW, items_B, settings))
    np.testing.assert_allclose(penal_BW[:, 1:].sum(axis=1), -1, rtol=1e-5)
    shared_BW = np.asarray(prefix(found, order_BW, items_B, settings)) * items_B[:, None]
    codes_BWC, target_BC = found.codes_BWC, np.asarray(micro["target_BC"])
    for row in range(4):
        for code_C, value in zip(codes_BWC[row], shared_BW[row], strict=True):
            depth = next((level for level in range(3) if code_C[level] != target_BC[row, level]), 3)
            assert value == pytest.approx([0, 0.25, 0.5, 1][depth])


def test_the_reward_by_likeness_is_the_cosine_of_the_vectors_where_they_point_one_way():
    micro, found = proposed(6)
    settings = RlSettings(reward="likeness", teacher="")
    reward_BW = np.asarray(likeness(found, None, np.asarray(micro["items_B"]), settings))
    numbers_BW = numbers_of(found.codes_BWC)
    np.testing.assert_allclose(reward_BW[:, 0], 1 / micro["items_B"])
    for row, (target, *others) in enumerate(numbers_BW):
        products = VECTORS_UD[others] @ VECTORS_UD[target] / np.linalg.norm(VECTORS_UD[target])
        np.testing.assert_allclose(reward_BW[row, 1:], settings.teacher_weight * np.maximum(products, 0), atol=1e-5)
    assert (reward_BW[:, 1:] > 0).any() and (reward_BW[:, 1:] == 0).any()


def test_a_group_of_one_value_has_no_advantage():
    _, found = proposed(6)
    same_BW = jnp.full(found.valid_BW.shape, 0.25)
    np.testing.assert_allclose(advantages(same_BW, found.group_BW, found.codes_BWC), 0, atol=1e-7)


def test_a_target_without_rivals_has_its_own_loss_alone():
    _, found = proposed(6)
    zeros_BW = jnp.zeros(found.valid_BW.shape)
    alone = dataclasses.replace(found, group_BW=np.arange(zeros_BW.shape[1]) == zeros_BW[:, :1])
    settings = RlSettings(objective="dpo", nll=1.0)

    def loss(log_p_BW):
        return jnp.sum(dpo(Terms(log_p_BW, zeros_BW, zeros_BW, alone, settings)))

    value, slope_BW = jax.value_and_grad(loss)(zeros_BW - 2.0)
    assert float(value) == pytest.approx(8.0)
    np.testing.assert_allclose(slope_BW[:, 0], -1)
    np.testing.assert_allclose(slope_BW[:, 1:], 0)
