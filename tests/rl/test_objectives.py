"""Every objective against the same sum over all SIDs of a toy catalogue, each SID run by itself: value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.rl.toy import (
    CODES_IC,
    FIRSTS,
    SIDS_UC,
    enumerated,
    gradient,
    make_batch,
    make_model,
    make_trie,
    micro_of,
    numbers_of,
)
from tsrec_jax.decoding.beam_search import SearchSettings, beam_search
from tsrec_jax.decoding.trie import DENSE_SLOTS
from tsrec_jax.models.inference import InferenceModel
from tsrec_jax.rl.loss import RlLoss
from tsrec_jax.rl.objectives.edge_list import edge_list
from tsrec_jax.rl.propose import propose
from tsrec_jax.rl.scores import leaf_slots, score_candidates
from tsrec_jax.rl.settings import RlSettings
from tsrec_jax.rl.terms import Candidates, Terms

ARRAYS = make_trie().arrays
ROWS = range(4)
SIDS_OF_ITEMS = numbers_of(CODES_IC)


@pytest.fixture(scope="module", autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def with_candidates(model, reference, micro, group):
    """A micro-batch as the loss takes it."""
    found = propose(model, ARRAYS, micro, jax.random.key(0), group=group)
    scored = score_candidates(reference, ARRAYS, micro["tokens_BT"], micro["lengths_B"], found.codes_BWC)
    return {**micro, "candidates": found, "reference": scored, "share_B": jnp.full(4, 0.25)}


@pytest.fixture(scope="module")
def seen():
    """A micro-batch with the candidates of 6 beams, and the model and its reference."""
    model, reference = make_model(), make_model(seed=3)
    return model, reference, with_candidates(model, reference, micro_of(make_batch()), 6)


@pytest.fixture(scope="module")
def all_sids(seen):
    """`enumerated` of the model, and the reference's log-probabilities."""
    model, reference, micro = seen
    return (*enumerated(model, micro), enumerated(reference, micro)[0])


def worth(micro, settings):
    """{(row, SID): reward} of the teacher's reward, from the batch alone."""
    found = {}
    target_B, teacher_BM = numbers_of(micro["target_BC"]), numbers_of(micro["teacher_BMC"])
    for row in ROWS:
        for place, sid in enumerate(teacher_BM[row].tolist()):
            share = settings.teacher_weight / np.log2(2 + place) / (SIDS_OF_ITEMS == sid).sum()
            found[row, sid] = found.get((row, sid), 0.0) + share
        found[row, int(target_B[row])] = 1 / float(micro["items_B"][row])
    return found


def members(micro, mask):
    numbers_BW = numbers_of(micro["candidates"].codes_BWC)
    return [numbers_BW[row][np.asarray(mask[row])].tolist() for row in ROWS]


def expected_utility(log_p_BU, _ref, micro, settings):
    rewards = worth(micro, settings)
    rows = [sum(jnp.exp(log_p_BU[row, sid]) * r for (at, sid), r in rewards.items() if at == row) for row in ROWS]
    return [-jnp.log(row) for row in rows]


def expected_list(log_p_BU, _ref, micro, settings):
    losses, target_B = [], numbers_of(micro["target_BC"])
    for row, sids in enumerate(members(micro, micro["candidates"].valid_BW)):
        target, fixed = int(target_B[row]), np.asarray(jax.lax.stop_gradient(log_p_BU[row]))
        order = sorted(sids, key=lambda sid: -fixed[sid])
        rank = {sid: place for place, sid in enumerate(order, 1)}
        others = [sid for sid in order if sid != target]
        edge = fixed[others[9]] if len(others) >= 10 else -np.inf
        weight = 0.5 + 0.5 / (1 + np.exp(edge - fixed[target]))
        loss = -weight * log_p_BU[row, target]
        for sid in others:
            if abs(rank[sid] - 10) <= 10:
                gap = abs(1 / np.log2(1 + rank[sid]) - 1 / np.log2(1 + rank[target]))
                loss += settings.rivals * gap * jnp.log1p(jnp.exp(log_p_BU[row, sid] - log_p_BU[row, target]))
        losses.append(loss)
    return losses


def expected_grpo(log_p_BU, _ref, micro, settings):
    rewards, losses, target_B = worth(micro, settings), [], numbers_of(micro["target_BC"])
    for row, sids in enumerate(members(micro, micro["candidates"].group_BW)):
        value = {sid: rewards.get((row, sid), 0.0) for sid in sids}
        loss = -settings.nll * log_p_BU[row, int(target_B[row])]
        for sid in sids:
            siblings = [value[other] for other in sids if (SIDS_UC[other][:-1] == SIDS_UC[sid][:-1]).all()]
            advantage = value[sid] - 0.5 * np.mean(list(value.values())) - 0.5 * np.mean(siblings)
            loss -= advantage * log_p_BU[row, sid] / len(sids)
        losses.append(loss)
    return losses


def expected_dpo(log_p_BU, ref_BU, micro, settings):
    losses, target_B = [], numbers_of(micro["target_BC"])
    teacher_BM, random_BW = numbers_of(micro["teacher_BMC"]), np.asarray(micro["candidates"].random_BW)
    numbers_BW = numbers_of(micro["candidates"].codes_BWC)
    for row, sids in enumerate(members(micro, micro["candidates"].group_BW)):
        target = int(target_B[row])
        drawn = {sid: random_BW[row, list(numbers_BW[row]).index(sid)] for sid in sids}
        allowed = [
            sid for sid in sids
            if sid not in teacher_BM[row] and not (SIDS_UC[sid][:-1] == SIDS_UC[target][:-1]).all()
        ]  # fmt: skip
        rivals = sorted(allowed, key=lambda sid: -drawn[sid])[: settings.negatives]
        ratio = log_p_BU[row] - ref_BU[row]
        total = sum(jnp.exp(settings.beta * (ratio[sid] - ratio[target])) for sid in rivals)
        losses.append(jnp.log1p(total) - settings.nll * log_p_BU[row, target])
    return losses


def expected_sft(log_p_BU, _ref, micro, _settings):
    return [-log_p_BU[row, sid] for row, sid in enumerate(numbers_of(micro["target_BC"]).tolist())]


EXPECTED = {
    "utility": expected_utility,
    "list": expected_list,
    "grpo": expected_grpo,
    "dpo": expected_dpo,
    "sft": expected_sft,
}


@pytest.mark.parametrize("objective", EXPECTED)
def test_an_objective_is_that_of_full_enumeration(seen, all_sids, objective):
    model, _, micro = seen
    log_p_BU, back, ref_BU = all_sids
    settings = RlSettings(objective=objective, kl=0.0, negatives=2, nll=0.3)
    expected, slope_BU = jax.value_and_grad(
        lambda log_p_BU: sum(EXPECTED[objective](log_p_BU, ref_BU, micro, settings)) / len(ROWS)
    )(log_p_BU)
    wanted = back(slope_BU)
    loss, found = gradient(lambda model: RlLoss(ARRAYS, settings)(model, micro)[0], model)
    assert loss == pytest.approx(float(expected), abs=1e-5)
    for name, value in found.items():
        np.testing.assert_allclose(value, wanted[name], atol=1e-5, err_msg=name)
    assert max(float(jnp.abs(value).max()) for value in found.values()) > 1e-2


def test_dead_beams_and_a_history_of_the_whole_catalogue_change_nothing_of_it():
    model, reference = make_model(), make_model(seed=3)
    batch = make_batch(length=CODES_IC.size)
    batch["tokens_BT"][0, 0], batch["lengths_B"][0, 0] = (FIRSTS + CODES_IC).ravel(), CODES_IC.size
    batch["segment_ids_BT"][0, 0] = 1
    micro = with_candidates(model, reference, micro_of(batch), 2 * len(SIDS_UC))
    assert not micro["candidates"].valid_BW.all()
    (log_p_BU, back), ref_BU = enumerated(model, micro), enumerated(reference, micro)[0]
    settings = [RlSettings(objective=name, kl=0.0, nll=0.3) for name in ("list", "grpo")]
    expected, slope_BU = jax.value_and_grad(
        lambda log_p_BU: sum(sum(EXPECTED[one.objective](log_p_BU, ref_BU, micro, one)) for one in settings) / len(ROWS)
    )(log_p_BU)
    loss, found = gradient(lambda model: sum(RlLoss(ARRAYS, one)(model, micro)[0] for one in settings), model)
    assert loss == pytest.approx(float(expected), abs=1e-4)
    wanted = back(slope_BU)
    for name, value in found.items():
        np.testing.assert_allclose(value, wanted[name], atol=1e-4, err_msg=name)


def test_the_divergence_is_measured_wherever_a_reference_is_kept_and_else_left_out(seen):
    model, _, micro = seen
    measures = [RlLoss(ARRAYS, RlSettings(objective=name, kl=kl)) for name, kl in (("dpo", 0.0), ("sft", 0.5))]
    found = jax.jit(lambda micro: [measure(model, micro)[1][2] for measure in measures])(micro)
    assert [measure.parts[2] for measure in measures] == ["kl", "kl"]
    assert found[0] == pytest.approx(float(found[1]), rel=1e-5) and found[0] > 0.01
    assert "kl" not in RlLoss(ARRAYS, RlSettings(kl=0.0)).parts


def test_the_divergence_over_all_prefixes_is_that_of_the_distributions_of_sids(seen, all_sids):
    model, reference, micro = seen
    log_p_BU, back, ref_BU = all_sids
    micro = with_candidates(model, reference, micro, len(SIDS_UC))
    losses = [RlLoss(ARRAYS, RlSettings(objective="sft", kl=kl)) for kl in (0.5, 0.0)]
    expected = 0.5 * jnp.mean(jnp.sum(jnp.exp(ref_BU) * (ref_BU - log_p_BU), axis=-1))
    wanted = back(-0.5 / len(ROWS) * jnp.exp(ref_BU))
    loss, found = gradient(lambda model: losses[0](model, micro)[0] - losses[1](model, micro)[0], model)
    assert loss == pytest.approx(float(expected), abs=1e-5) and loss > 0.01
    for name, value in found.items():
        np.testing.assert_allclose(value, wanted[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("dense_slots", [DENSE_SLOTS, 40], ids=["dense", "sparse"])
def test_the_searchs_scores_are_those_of_the_training_form(seen, all_sids, dense_slots):
    model, _, micro = seen
    trie = make_trie(dense_slots=dense_slots)
    assert (trie.arrays.levels[-1].codes is None) == (dense_slots == DENSE_SLOTS)
    given = trie.arrays, micro["tokens_BT"], micro["lengths_B"]
    found = beam_search(InferenceModel.of(model), *given, SearchSettings(6, "constrained"))
    scored = score_candidates(model, *given, found.codes_BWC)
    np.testing.assert_allclose(scored.log_p_BW, found.scores_BW, atol=1e-5)
    picked_BW = np.take_along_axis(np.asarray(all_sids[0]), numbers_of(found.codes_BWC), axis=1)
    np.testing.assert_allclose(scored.log_p_BW, picked_BW, atol=1e-5)
    slots_N = trie.slots(np.reshape(found.codes_BWC, (-1, 3)))[:, -1]
    np.testing.assert_array_equal(leaf_slots(trie.arrays, found.codes_BWC).ravel(), slots_N)


def test_a_target_below_the_edge_weighs_less():
    settings, ones = RlSettings(objective="list", rivals=0.0), np.ones((1, 13), np.float32)
    others, losses = np.linspace(-2.0, -6.0, 12, dtype=np.float32), []
    for score in (-1.0, -9.0):
        log_p_BW = jnp.asarray(np.append(np.float32(score), others)[None])
        candidates = Candidates(np.zeros((1, 13, 3), int), ones > 0, ones > 0, ones, ones[0] > 0, ones, ones)
        losses.append(float(edge_list(Terms(log_p_BW, None, log_p_BW, candidates, settings))[0]) / -score)
    np.testing.assert_allclose(losses, [0.5 + 0.5 / (1 + np.exp(others[9] - score)) for score in (-1, -9)], rtol=1e-5)


def test_only_the_first_twenty_are_rivals():
    """And the tenth of the others is the edge, of thirty."""
    log_p_W = np.append(np.float32(-3.05), np.linspace(-2.0, -5.0, 30, dtype=np.float32))
    order = np.argsort(-log_p_W)
    rank_W, settings, ones = np.argsort(order) + 1, RlSettings(objective="list"), np.ones((1, 31), np.float32)
    candidates = Candidates(np.zeros((1, 31, 3), int), ones > 0, ones > 0, ones, ones[0] > 0, ones, ones)

    def loss(log_p_BW):
        return edge_list(Terms(log_p_BW, None, log_p_BW, candidates, settings))[0]

    value, slope_BW = jax.value_and_grad(loss)(jnp.asarray(log_p_W[None]))
    gap_W = np.abs(1 / np.log2(1 + rank_W) - 1 / np.log2(1 + rank_W[0])) * (rank_W <= 20)
    ahead_W = log_p_W - log_p_W[0]
    weight = 0.5 + 0.5 / (1 + np.exp(log_p_W[10] - log_p_W[0]))
    assert float(value) == pytest.approx(
        -weight * log_p_W[0] + settings.rivals * np.sum(gap_W * np.log1p(np.exp(ahead_W))), rel=1e-5
    )
    pull_W = settings.rivals * gap_W / (1 + np.exp(-ahead_W))
    np.testing.assert_allclose(slope_BW[0, 1:], pull_W[1:], atol=1e-6)
    assert float(slope_BW[0, 0]) == pytest.approx(-weight - pull_W[1:].sum(), rel=1e-5)
