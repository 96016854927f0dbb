"""The dense head in training: its loss and gradients against single histories, micro-batches, a mesh, a resumed run."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.data.test_item_places import CATALOGUE, FIRST, PATHS, PLACES, SIDS, example
from tests.training.test_loop import train_in
from tests.training.test_step import named
from tsrec_jax.data.input import packed_batches, train_batches
from tsrec_jax.models.dense_head import DenseHead
from tsrec_jax.models.sharding import make_mesh
from tsrec_jax.models.sid_outputs import give_outputs
from tsrec_jax.training import validation
from tsrec_jax.training.dense_loss import DenseLoss, item_nll, items_above, learned_sums
from tsrec_jax.training.loop import put_batch
from tsrec_jax.training.loss import SftLoss
from tsrec_jax.training.metrics_log import read_metrics
from tsrec_jax.training.settings import TrainSettings
from tsrec_jax.training.step import first_step_and_state
from tsrec_jax.training.validation import Validation

WEIGHTS = {"next_sid": 1.0, "other": 0.5}
LEARNED = ("text_FD", "sid_DD", "history_text_FD", "history_sid_DD", "state_DD", "recency_R", "history_gain")
ITEMS = {tuple(tokens): item for item, tokens in reversed([*enumerate(CATALOGUE.tokens_IC.tolist())])}


def rows():
    """User sequences and single rows, and a task that asks for no next item."""
    found = [
        example("next_sid", "0", [0, 1, 3, 1], 1),
        example("next_sid", "1", [3, 3, 0], 2, behind=(3, 4)),
        example("next_sid", "2", [1, 3, 0, 3, 1], 2),
        example("next_sid", "3", [1], 0),
        example("other", "4", [3], 0),
        example("other", "5", [1, 0], 1),
    ]
    return {task: [row for row in found if row.task == task] for task in WEIGHTS}


def batches(accumulation=1):
    return train_batches(
        rows(), rates=dict.fromkeys(WEIGHTS, 1.0), sequence_length=16, rows=8 // accumulation, loss_slots=16,
        accumulation=accumulation, seed=0, paths=PATHS, items=PLACES,
    )  # fmt: skip


def with_head_alone(mesh=None):
    """A dense head far from where it begins."""
    rng = np.random.default_rng(0)
    head = DenseHead(
        rng.normal(size=(4, 5)).astype(np.float32), CATALOGUE.tokens_IC, CATALOGUE.sid_numbers_I, first_id=FIRST,
        d_model=16, temperature=0.2, rngs=nnx.Rngs(0), mesh=mesh,
    )  # fmt: skip
    for param in (head.sid_DD, head.state_DD, head.history_text_FD, head.history_sid_DD, head.recency_R):
        drawn = rng.normal(0.0, 0.5, param[...].shape).astype(np.float32)
        param[...] = jax.device_put(drawn, param[...].sharding)
    return head


def with_head(model, mesh=None):
    """The model with scaled outputs and a dense head."""
    model.embedding[...] = 20 * model.embedding[...]
    model = give_outputs(model, "scaled", (2, 3))
    model.num_tokens = 55
    model.dense = nnx.data(with_head_alone(mesh))
    return model


def loss_of(paths, weight=0.7, **settings):
    return DenseLoss(SftLoss(WEIGHTS, TrainSettings(**settings), paths), weight, np.ones(4, bool))


def plain_dense_loss(model):
    """Mean over all items to learn of -log P(one of the items with its SID): each history for itself, unpacked."""
    tokens_BT, users, history_BH, lengths, shared = np.zeros((4, 16), np.int32), [], [], [], []
    for number, row in enumerate(rows()["next_sid"]):
        tokens_BT[number, : len(row.tokens)] = row.tokens
        starts = [place for place, token in enumerate(row.tokens) if token in (FIRST, FIRST + 1)]
        items = [ITEMS[tuple((row.tokens[start : start + 2] - FIRST).tolist())] for start in starts]
        for count, (item, start) in enumerate(zip(items, starts, strict=True)):
            if start >= row.prompt_length:
                users.append((number, start - 1))
                history_BH.append(items[:count] + [3] * (6 - count))
                lengths.append(count)
                shared.append([SIDS[other] == SIDS[item] for other in range(4)])
    x_BD = model.hidden(tokens_BT)[tuple(np.transpose(users))]
    scorer = model.dense.scorer(model.embedding[...])
    log_probs_BI = scorer.scores(x_BD, np.array(history_BH, np.int32), np.array(lengths, np.int32))
    return -jnp.mean(jax.nn.logsumexp(log_probs_BI, axis=-1, where=np.array(shared)))


@pytest.mark.parametrize("chunk", [0, 3])
def test_loss_and_gradient_are_those_of_single_histories(make_model, chunk):
    graphdef, state = nnx.split(with_head(make_model()))

    def packed(state, weight, paths=PATHS):
        loss, all_rows = loss_of(paths, loss_chunk=chunk), [row for task in rows().values() for row in task]
        (whole,) = packed_batches(all_rows, 16, 8, 16, paths=paths, items=PLACES)
        batch, counts = loss.weigh(jax.tree.map(lambda array: array[None], whole))
        micro = jax.tree.map(lambda array: array[0], batch)
        total, sums = loss(nnx.merge(graphdef, state), {**micro, "item_weight_BS": weight * micro["item_weight_BS"]})
        return total, sums[-1] / counts[-1]

    def plain(state):
        return 0.7 * plain_dense_loss(nnx.merge(graphdef, state))

    with jax.default_matmul_precision("highest"):
        compute = jax.jit(jax.value_and_grad(packed, has_aux=True, allow_int=True))
        (both, mean), gradient = compute(state, 1.0)
        (sids, _), without = compute(state, 0.0)
        wanted, wanted_gradient = jax.jit(jax.value_and_grad(plain, allow_int=True))(state)
        _, among_all = jax.jit(lambda state: packed(state, 1.0, None))(state)
    np.testing.assert_allclose([both - sids, 0.7 * mean, 0.7 * among_all], [wanted] * 3, rtol=1e-5)
    moved = []
    for (path, one), zero, other in zip(
        jax.tree_util.tree_leaves_with_path(gradient),
        jax.tree.leaves(without),
        jax.tree.leaves(wanted_gradient),
        strict=True,
    ):
        if other.dtype != jax.dtypes.float0:  # of whole numbers
            np.testing.assert_allclose(one - zero, other, atol=2e-5, err_msg=str(path))
            moved += [jax.tree_util.keystr(path)] * bool(np.abs(other).max() > 1e-4)
    for part in ("embedding", "final_norm", "blocks", *LEARNED):
        assert any(f"'{part}'" in name for name in moved), part


@pytest.mark.parametrize(("group", "chunk", "whole"), [(2, 0, True), (2, 3, False), (2, 99, True)])
def test_all_items_are_scored_for_as_many_slots_of_a_group_as_asked(make_model, group, chunk, whole):
    graphdef, state = nnx.split(with_head(make_model()))
    all_rows = [row for task in rows().values() for row in task]
    (batch,) = packed_batches(all_rows, 16, 8, 32, group, paths=PATHS, items=PLACES)
    loss = loss_of(PATHS, loss_chunk=chunk)

    def gradient(state):
        weighed, _ = loss.weigh(jax.tree.map(lambda array: array[None], batch))
        micro = jax.tree.map(lambda array: array[0], weighed)
        return jax.grad(lambda state: loss(nnx.merge(graphdef, state), micro)[0], allow_int=True)(state)

    said = str(jax.make_jaxpr(gradient)(state))
    groups, slots, items = 8 // group, group * 8, 4
    assert (f"f32[{groups},{slots},{items}]" in said) == whole
    assert (f"f32[{groups},{chunk},{items}]" in said) != whole


def test_a_piece_without_an_item_to_learn_is_not_scored():
    scored = []
    head = with_head_alone()
    sid_BS = np.array([[0, 1, 2, -1], [1, -1, -1, -1]])
    learned_BS = np.array([[False, True, True, False], [True, False, False, False]])
    batch = {"item_sid_BS": sid_BS, "item_learned_BS": learned_BS, "loss_index_GP": np.zeros((2, 5), np.int32)}
    rng = np.random.default_rng(1)
    users = (rng.normal(size=(2, 4, 16)).astype(np.float32), rng.normal(size=(4, 16)).astype(np.float32))

    def summed(logits_GcI, slots_Gc):
        jax.debug.callback(lambda sid_Gc: scored.append(sid_Gc.tolist()), slots_Gc["sid"])
        return [jnp.sum(jnp.where(slots_Gc["learned"], logits_GcI[..., 0], 0.0)), jnp.sum(slots_Gc["learned"] * 1.0)]

    sums = learned_sums(summed, head, users, batch, chunk=1)
    jax.effects_barrier()
    wanted = (users[0] @ users[1][0] / head.temperature)[learned_BS].sum()
    np.testing.assert_allclose(sums, [wanted, 3.0], rtol=1e-5)
    assert sorted(scored) == [[[1], [1]], [[2], [-1]]]


def test_items_above_counts_those_that_score_more_than_the_best_of_the_sid():
    head, sid_BS = with_head_alone(), np.array([[0, 1, -1], [2, 0, 1]])
    logits_BSI = np.random.default_rng(5).normal(size=(2, 3, 4)).astype(np.float32)
    above_BS = items_above(head, logits_BSI, sid_BS)
    for row, slot in zip(*np.nonzero(sid_BS >= 0), strict=True):
        own = [item for item in range(4) if CATALOGUE.sid_numbers_I[item] == sid_BS[row, slot]]
        assert above_BS[row, slot] == sum(logits_BSI[row, slot] > logits_BSI[row, slot, own].max())


def test_items_that_train_never_has_take_no_part_in_the_loss():
    head, sid_BS = with_head_alone(), np.array([[0, 1], [1, 2]])  # items 0 and 2 share SID 0, item 3 has SID 2
    logits_BSI = jnp.asarray(np.random.default_rng(6).normal(size=(2, 2, 4)), jnp.float32)
    learned_BS = np.array([[True, True], [True, False]])

    @jax.jit
    @jax.value_and_grad
    def loss(logits_BSI, among_I):
        return jnp.sum(jnp.where(learned_BS, item_nll(head, logits_BSI, sid_BS, among_I), 0.0))

    known_I = np.array([True, True, True, False])
    value, gradient_BSI = loss(logits_BSI, known_I)
    among_known, _ = loss(logits_BSI.at[..., 3].set(-1e9), np.ones(4, bool))
    np.testing.assert_allclose(value, among_known, rtol=1e-6)
    assert np.isfinite(gradient_BSI).all() and (gradient_BSI[..., 3] == 0.0).all()
    assert (np.abs(gradient_BSI)[learned_BS][:, :3] > 0.0).all()


def run_steps(make_model, mesh=None, accumulation=1, steps=3, **settings):
    settings = TrainSettings(max_steps=4, learning_rate=1e-2, warmup_steps=0, **settings)
    with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh), jax.default_matmul_precision("highest"):
        model = with_head(make_model(mesh=mesh), mesh)
        step, state = first_step_and_state(model, loss_of(PATHS), settings, FIRST)
        losses = []
        for number in range(1, steps + 1):
            state, metrics = step.update(state, put_batch(batches(accumulation=accumulation).batch(number), mesh))
            losses.append(float(metrics["loss"]))
    assert step.update._cache_size() == 1
    return losses, state


def test_micro_batches_and_eight_devices_give_the_losses_of_one_batch_on_one_device(make_model):
    whole, state = run_steps(make_model)
    parts, _ = run_steps(make_model, accumulation=2, steps=1)
    mesh, sharded = run_steps(make_model, make_mesh(2, 2, 2), loss_chunk=3)
    assert len(set(whole)) == 3
    assert parts[0] == pytest.approx(whole[0], rel=1e-5)
    np.testing.assert_allclose(mesh, whole, rtol=1e-5)
    expected = named(state.trained)
    for name, value in named(sharded.trained).items():
        np.testing.assert_allclose(value, expected[name], atol=2e-4, err_msg=name)


def test_a_frozen_trunk_leaves_the_head_to_learn_and_nobody_learns_the_texts(make_model):
    before = named(nnx.state(with_head(make_model())))
    _, state = run_steps(make_model, freeze="trunk")
    changed = {name for name, value in named(nnx.state(state.model)).items() if not np.array_equal(value, before[name])}
    learned = {f"['dense']['{name}']" for name in LEARNED}
    assert {name.removesuffix(".value") for name in changed} == learned | {"['embedding']", "['sid_scale']"}


def test_a_resumed_run_with_a_head_equals_an_uninterrupted_one_bit_for_bit(tmp_path, make_model, monkeypatch):
    """Both choose their weights by the head; of four items the first place stands for the first ten."""
    monkeypatch.setattr(validation, "items_above", lambda *given: 9 + items_above(*given))
    valid = list(packed_batches(rows()["next_sid"], 16, 8, 16, paths=PATHS, items=PLACES))
    validate = Validation(valid, lambda _model: {}, None, paths=PATHS)

    class Killed(Exception):
        pass

    def dies(model):
        if (tmp_path / "cut" / "checkpoints" / "latest" / "2").exists():
            raise Killed
        return validate(model)

    def trained(folder, validate=validate):
        model, by_head = with_head(make_model()), {"select_by": "dense_hr@10", "valid_beam_rows": 0}
        given = {"batches": batches(), "loss": loss_of(PATHS), "validate": validate}
        return train_in(tmp_path / folder, model, None, **given, **by_head)

    whole = trained("whole")
    rates = {row["step"]: row["valid/dense_hr@10"] for row in read_metrics(tmp_path / "whole") if "valid/loss" in row}
    assert len(set(rates.values())) == 3
    assert (whole.best_step, whole.best_value) == (max(rates, key=rates.get), max(rates.values()))
    with pytest.raises(Killed):
        trained("cut", validate=dies)
    resumed = trained("cut")
    assert resumed.steps == whole.steps == 6
    expected = named(nnx.state(whole.model))
    for name, value in named(nnx.state(resumed.model)).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    whole.model.dense.state_DD[...] = np.nan * whole.model.dense.state_DD[...]
    assert np.isnan(validate(whole.model)["valid/dense_hr@10"]), "no weights are the best because nothing is above NaN"
