"""A new loss, and a stage after SFT that samples from its own model: one file each, trained by the same loop."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.training.test_loop import SFT, train_in
from tests.training.test_step import batches_of, named
from tsrec_jax.training.loss import SftLoss
from tsrec_jax.training.metrics_log import read_metrics
from tsrec_jax.training.step import Step, first_step_and_state

WANTED = 7  # the token that the toy reward asks for


@dataclasses.dataclass(frozen=True)
class Reward:
    """Minus the expected reward: 1 for the wanted token, at every position."""

    parts = ("reward",)

    def weigh(self, batch):
        used_BT = batch["segment_ids_BT"] > 0
        count = jnp.sum(used_BT, dtype=jnp.float32)
        return {**batch, "share_BT": used_BT / count}, count[None]

    def __call__(self, model, micro):
        logits_BTV = model(micro["tokens_BT"], micro["positions_BT"], micro["segment_ids_BT"])
        chance_BT = jax.nn.softmax(logits_BTV)[..., WANTED]
        loss = -jnp.sum(micro["share_BT"] * chance_BT)
        return loss, jnp.sum(jnp.where(micro["share_BT"] > 0, chance_BT, 0.0))[None]


class WithPenalty(SftLoss):
    """The SFT loss of the tasks, and a penalty on the weights of the last norm as one more part."""

    @property
    def parts(self):
        return (*super().parts, "norm")

    def weigh(self, batch):
        batch, counts = super().weigh(batch)
        rows = batch["tokens_BT"].shape[0]  # each micro-batch has its share of the penalty
        return {**batch, "scale": jnp.full(rows, 0.1 / rows)}, jnp.append(counts, 1.0)

    def __call__(self, model, micro):
        loss, sums = super().__call__(model, micro)
        penalty = micro["scale"] * jnp.sum(jnp.square(model.final_norm[...]))
        return loss + penalty, jnp.append(sums, jax.lax.stop_gradient(penalty))


def sampled(step: Step) -> Step:
    """The step on targets that the model has drawn itself, as a stage of reinforcement learning would."""

    @jax.jit
    def draw(state, batch):
        logits = jax.vmap(state.model)(batch["tokens_BT"], batch["positions_BT"], batch["segment_ids_BT"])
        drawn = jax.random.categorical(jax.random.fold_in(jax.random.key(0), state.step), logits)
        rows = drawn.reshape(*batch["loss_index_GP"].shape[:2], -1)
        return {**batch, "loss_target_GP": jnp.take_along_axis(rows, batch["loss_index_GP"], axis=2)}

    return Step(lambda state, batch: step.update(state, draw(state, batch)), step.parts)


class Killed(Exception):
    pass


def killed_at(validation):
    """A validation that ends the process, as far as the loop can see, when it is called for so many times."""
    values = iter([3.0] * (validation - 1))

    def validate(_model):
        value = next(values, None)
        if value is None:
            raise Killed
        return {"valid/loss": value}

    return validate


@pytest.mark.parametrize("wrap", [lambda step: step, sampled], ids=["own loss", "own step"])
def test_a_second_stage_starts_from_the_first_and_resumes_bit_for_bit(tmp_path, make_model, examples, wrap):
    first = train_in(tmp_path / "sft", make_model(), examples)
    weights = jax.tree.map(np.asarray, nnx.state(first.model))

    def stage(folder, validate=None):
        model = make_model(seed=5)
        nnx.update(model, jax.tree.map(jnp.asarray, weights))
        loss = Reward() if wrap is not sampled else SFT
        return train_in(tmp_path / folder, model, examples, validate=validate, loss=loss, wrap=wrap, learning_rate=3e-2)

    whole = stage("whole")
    with pytest.raises(Killed):
        stage("cut", killed_at(2))
    resumed = stage("cut")
    expected = named(nnx.state(whole.model))
    for name, value in named(nnx.state(resumed.model)).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    losses = [[row["loss"] for row in read_metrics(tmp_path / run) if "loss" in row] for run in ("whole", "cut")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6
    if wrap is not sampled:
        rewards = [row["loss/reward"] for row in read_metrics(tmp_path / "whole") if "loss" in row]
        assert rewards[-1] > rewards[0] + 0.1
        np.testing.assert_allclose(rewards, [-loss for loss in losses[0]], rtol=1e-5)


def test_a_loss_of_ones_own_adds_a_part_to_the_tasks(tmp_path, make_model, examples):
    loss = WithPenalty(SFT.weights, SFT.settings)
    train_in(tmp_path, make_model(), examples, loss=loss)
    for row in [row for row in read_metrics(tmp_path) if "loss" in row]:
        tokens = row["loss_tokens/a"] + row["loss_tokens/b"]
        mean = (row["loss/a"] * row["loss_tokens/a"] + row["loss/b"] * row["loss_tokens/b"]) / tokens
        assert row["loss"] == pytest.approx(mean + row["loss/norm"], rel=1e-5)
        assert row["loss/norm"] > 0


def test_micro_batches_share_a_loss_of_ones_own(make_model, examples):
    whole = batches_of(examples).batch(1)
    parts = {name: value.reshape(4, 2, *value.shape[2:]) for name, value in whole.items()}
    loss, found = WithPenalty(SFT.weights, SFT.settings), []
    for batch in (whole, parts):
        step, state = first_step_and_state(make_model(), loss, SFT.settings)
        found.append(float(step.update(state, batch)[1]["loss"]))
    assert found[0] == pytest.approx(found[1], abs=1e-5)
