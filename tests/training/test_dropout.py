"""Dropout: what is dropped, when, and that the mean stays."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.training.test_step import settings, stream_of
from tsrec_jax.models.layers import NO_DROPOUT, Dropout
from tsrec_jax.training.loop import put_batch
from tsrec_jax.training.loss import SftLoss, hidden_states
from tsrec_jax.training.step import first_step_and_state

RATE = 0.25


def losses_of(model, batches, seed, dropout=RATE):
    rates = settings(dropout=dropout, learning_rate=1e-20)
    step, state = first_step_and_state(model, SftLoss({"a": 1.0, "b": 1.0}, rates), rates, seed=seed)
    losses = []
    for batch in batches:
        state, metrics = step.update(state, put_batch(batch, None))
        losses.append(float(metrics["loss"]))
    assert step.update._cache_size() == 1
    return losses


def test_the_share_is_dropped_and_the_rest_scaled():
    dropped = np.asarray(Dropout(RATE, jax.random.key(1))(jnp.ones((400, 50)), 0))
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / (1 - RATE))}
    assert abs((dropped == 0).mean() - RATE) < 0.02  # 6 deviations


def test_layers_and_places_drop_apart():
    ones, whole = jnp.ones(1000), Dropout(RATE, jax.random.key(1))
    drawn = {np.asarray(whole.under(layer)(ones, place)).tobytes() for layer in range(3) for place in range(2)}
    assert len(drawn) == 6


def test_steps_and_seeds_drop_apart_and_a_seed_drops_the_same_again(make_model, examples):
    batch = next(stream_of(examples))
    first = losses_of(make_model(), [batch, batch], seed=1)
    assert first == losses_of(make_model(), [batch, batch], seed=1)
    other = losses_of(make_model(), [batch, batch], seed=2)
    assert len({*first, *other}) == 4  # weights and batch are the same throughout


def test_micro_batches_drop_apart(make_model, examples):
    batch = next(stream_of(examples))
    twice = {name: np.concatenate([value, value]) for name, value in batch.items()}
    alone = losses_of(make_model(), [batch], seed=1)
    assert losses_of(make_model(), [twice], seed=1) != alone
    np.testing.assert_allclose(
        losses_of(make_model(), [twice], seed=1, dropout=0.0),
        losses_of(make_model(), [batch], seed=1, dropout=0.0),
        atol=1e-6,
    )


def test_nothing_is_dropped_but_in_training(make_model, examples):
    batch = {name: value[0] for name, value in next(stream_of(examples)).items()}
    model = make_model()
    x_BTD = hidden_states(model, batch)
    tokens = batch["tokens_BT"], batch["positions_BT"], batch["segment_ids_BT"]
    np.testing.assert_array_equal(x_BTD, model.hidden(*tokens, NO_DROPOUT))
    dropped_BTD = hidden_states(model, {**batch, "dropout_key": jax.random.key(0)}, RATE)
    assert np.abs(np.asarray(dropped_BTD - x_BTD)).mean() > 0.01
