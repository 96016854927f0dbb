"""The optimiser step: accumulation, freezing, sharding, one compile."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tsrec_jax.data.input import train_batches
from tsrec_jax.models.sharding import make_mesh
from tsrec_jax.models.vocabulary import extend_vocabulary
from tsrec_jax.training.loop import put_batch
from tsrec_jax.training.loss import SftLoss
from tsrec_jax.training.settings import TrainSettings
from tsrec_jax.training.step import (
    first_step_and_state,
    init_state,
    learning_rate_schedule,
    make_optimiser,
)

BASE_VOCAB_SIZE = 50
NEW_ROWS = 12
SFT = SftLoss({"a": 1.0, "b": 1.0}, TrainSettings())


def settings(**changes):
    defaults = {"learning_rate": 1e-2, "warmup_steps": 2, "max_steps": 20}
    return TrainSettings(**{**defaults, **changes})


def batches_of(examples, rows=8, accumulation=1):
    sources = {"a": examples[::2], "b": examples[1::2]}
    return train_batches(
        sources,
        rates={"a": 1.0, "b": 1.0},
        sequence_length=32,
        rows=rows,
        loss_slots=32,
        accumulation=accumulation,
        seed=3,
    )


def stream_of(examples):
    """The batches of steps 1, 2, ..."""
    return map(batches_of(examples).batch, itertools.count(1))


def extended(make_model, **kwargs):
    model = make_model(**kwargs)
    rows = np.random.default_rng(1).normal(size=(NEW_ROWS, 16)).astype(np.float32)
    tied = model.head is None
    return extend_vocabulary(
        model, base_vocab_size=BASE_VOCAB_SIZE, input_rows_nD=rows, output_rows_nD=None if tied else rows
    )


def run_steps(model, batches, optimiser_settings, steps, mesh=None):
    """The state after so many steps, the losses on the way, and the step."""
    loss = SFT
    step, state = first_step_and_state(model, loss, optimiser_settings, BASE_VOCAB_SIZE)
    losses = []
    for batch in itertools.islice(batches, steps):
        state, metrics = step.update(state, put_batch(batch, mesh))
        losses.append(float(metrics["loss"]))
    return state, losses, step


def named(tree):
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def test_loss_falls_and_the_step_compiles_once(make_model, examples):
    _, losses, step = run_steps(make_model(), stream_of(examples), settings(), 20)
    assert losses[-1] < losses[0] - 0.1
    assert step.update._cache_size() == 1


def test_accumulated_micro_batches_equal_one_large_batch(make_model, examples):
    whole = batches_of(examples, rows=8).batch(1)
    parts = {name: value.reshape(4, 2, *value.shape[2:]) for name, value in whole.items()}
    results = []
    for batch in (whole, parts):
        state, losses, _ = run_steps(make_model(), [batch], settings(), 1)
        results.append((losses[0], named(state.trained)))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-6)
    for name, value in results[0][1].items():
        np.testing.assert_allclose(value, results[1][1][name], atol=2e-4, err_msg=name)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("freeze", ["pretrained_rows", "trunk"])
def test_frozen_values_stay_bit_identical_and_have_no_moments(make_model, examples, tied, freeze):
    model = extended(make_model, tied=tied)
    before = named(nnx.state(model))
    state, _, _ = run_steps(model, stream_of(examples), settings(freeze=freeze, weight_decay=0.1), 4)
    after = named(nnx.state(state.model))
    tables = [name for name in after if "embedding" in name or "head" in name]
    assert len(tables) == (1 if tied else 2)
    for name, value in after.items():
        if name in tables:
            np.testing.assert_array_equal(value[:BASE_VOCAB_SIZE], before[name][:BASE_VOCAB_SIZE])
        elif freeze == "trunk":
            np.testing.assert_array_equal(value, before[name])
        else:
            assert not np.array_equal(value, before[name]), name
    embedding = next(name for name in tables if "embedding" in name)
    # Examples use old ids only, but the softmax over the output table reaches every new row of it.
    reached = embedding if tied else next(name for name in tables if "head" in name)
    used = slice(BASE_VOCAB_SIZE, BASE_VOCAB_SIZE + NEW_ROWS)
    assert (after[reached][used] != before[reached][used]).any(axis=1).all()
    for name, value in named(state.opt_state).items():
        if "embedding" in name or "head" in name:
            assert value.shape == (NEW_ROWS, 16), f"{name} has moments of frozen rows"
        elif freeze == "trunk":
            assert value.ndim == 0, f"{name} is a moment of a frozen parameter"


def test_trained_rows_of_a_frozen_trunk_lose_nothing_to_bfloat16(make_model):
    """Neither their gradient, a sum over the thousand places at which a token stands, nor their values."""
    rng = np.random.default_rng(3)
    tokens_BT = rng.integers(BASE_VOCAB_SIZE - 1, BASE_VOCAB_SIZE + 2, (48, 64))
    weights_BTD = rng.normal(0.5, 1.0, (48, 64, 16)).astype(np.float32)
    found = {}
    for dtype in ("float32", "bfloat16"):
        model = extended(make_model, dtype=dtype)
        rows_nD = np.array(model.embedding[BASE_VOCAB_SIZE:][:NEW_ROWS])
        state = init_state(model, make_optimiser(settings()), "trunk", BASE_VOCAB_SIZE)

        @jax.jit
        def gradient(state):
            def total(trained):
                return jnp.sum(state.model_of(trained)._embed(tokens_BT).astype(jnp.float32) * weights_BTD)

            return jax.grad(total)(state.trained)["embedding"][...]

        assert state.frozen["embedding"].dtype == dtype  # what is frozen takes no more room than it needs
        np.testing.assert_array_equal(state.model.embedding[BASE_VOCAB_SIZE:][:NEW_ROWS], rows_nD)
        found[dtype] = np.asarray(gradient(state))
    scale = np.linalg.norm(found["float32"])
    assert np.linalg.norm(found["bfloat16"] - found["float32"]) < 1e-3 * scale


def test_moments_are_float32(make_model, examples):
    state = init_state(make_model(), make_optimiser(settings()), "none")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(state.opt_state)} == {"float32", "int32"}


def test_eight_devices_give_the_losses_and_weights_of_one(make_model, examples):
    with jax.default_matmul_precision("highest"):
        single, losses, _ = run_steps(make_model(), stream_of(examples), settings(), 3)
        mesh = make_mesh(data=2, fsdp=2, tensor=2)
        with jax.set_mesh(mesh):
            sharded, sharded_losses, step = run_steps(
                make_model(mesh=mesh), stream_of(examples), settings(), 3, mesh=mesh
            )
    np.testing.assert_allclose(sharded_losses, losses, atol=1e-5)
    assert step.update._cache_size() == 1
    expected = named(single.trained)
    for name, value in named(sharded.trained).items():
        np.testing.assert_allclose(value, expected[name], atol=2e-4, err_msg=name)
    kernels = [leaf for leaf in jax.tree.leaves(sharded.opt_state) if leaf.ndim >= 2]
    assert any(leaf.addressable_shards[0].data.size < leaf.size for leaf in kernels), "moments are not sharded"


@pytest.mark.parametrize("freeze", ["none", "pretrained_rows"])
def test_norms_of_new_and_pretrained_rows_are_told_apart(make_model, examples, freeze):
    step, state = first_step_and_state(
        extended(make_model, tied=False), SFT, settings(freeze=freeze, clip_norm=0.0), BASE_VOCAB_SIZE
    )
    before = named(nnx.state(state.model))
    state, metrics = step.update(state, put_batch(batches_of(examples).batch(1), None))
    moved = [value - before[name] for name, value in named(nnx.state(state.model)).items() if value.shape[0] == 128]
    assert len(moved) == 2
    new = np.sqrt(sum((rows[BASE_VOCAB_SIZE:] ** 2).sum() for rows in moved))
    assert float(metrics["update_norm/new_rows"]) == pytest.approx(new, rel=1e-3)
    assert float(metrics["grad_norm/new_rows"]) > 0
    if freeze == "none":
        old = np.sqrt(sum((rows[:BASE_VOCAB_SIZE] ** 2).sum() for rows in moved))
        assert float(metrics["update_norm/pretrained_rows"]) == pytest.approx(old, rel=1e-3)
        assert float(metrics["grad_norm"]) > float(metrics["grad_norm/pretrained_rows"]) > 0
    else:
        assert "grad_norm/pretrained_rows" not in metrics


def test_schedule_warms_up_and_decays_to_zero():
    schedule = learning_rate_schedule(settings(warmup_steps=4, max_steps=14))
    rates = [float(schedule(step)) for step in range(15)]
    np.testing.assert_allclose(rates[:4], np.array([1, 2, 3, 4]) * 2.5e-3, rtol=1e-5)
    assert rates[14] == pytest.approx(0.0, abs=1e-9)
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))


def test_weight_decay_spares_norms(make_model):
    transform = make_optimiser(settings(weight_decay=0.5, warmup_steps=0))
    state = init_state(make_model(), transform, "none")

    @jax.jit
    def decay(state):
        zeros = jax.tree.map(jnp.zeros_like, state.trained)
        updates, _ = transform.update(zeros, state.opt_state, state.trained)
        return optax.apply_updates(state.trained, updates)

    after = named(decay(state))
    for name, before in named(state.trained).items():
        assert np.array_equal(after[name], before) == ("norm" in name or "bias" in name), name
