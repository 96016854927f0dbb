"""The steps of the second stage: one program compiled once, the same on every mesh, resumed bit for bit."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tests.rl.toy import BASE, CODES_IC, make_batch, make_model, make_trie
from tsrec_jax.models.sharding import make_mesh
from tsrec_jax.rl.settings import RlSettings
from tsrec_jax.rl.step import first_rl_step_and_state
from tsrec_jax.training.loop import Run, put_batch, train
from tsrec_jax.training.metrics_log import read_metrics
from tsrec_jax.training.settings import TrainSettings

ARRAYS = make_trie().arrays
GRPO = RlSettings(objective="grpo", group=6, sampled=True, nll=0.2)


def limits(**changes):
    given = {"max_steps": 6, "warmup_steps": 1, "schedule": "constant", "learning_rate": 1e-2, "log_every": 1,
             "checkpoint_every": 2, "validations": 3}  # fmt: skip
    return TrainSettings(**{**given, **changes})


class Batches:
    """Batches by number, of eight prompts."""

    def batch(self, step):
        rng = np.random.default_rng(step)
        return make_batch(targets=tuple(rng.integers(0, len(CODES_IC), 8)), seed=step)

    def keys(self, step):
        return [f"train/{step}"]

    def from_step(self, step):
        while True:
            step += 1
            yield self.batch(step)


def first_losses(settings, mesh=None, steps=3):
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.default_matmul_precision("highest"))
        if mesh is not None:
            stack.enter_context(jax.set_mesh(mesh))
        step, state = first_rl_step_and_state(make_model(mesh=mesh), ARRAYS, settings, limits(), seed=1)
        found = []
        for number in range(1, steps + 1):
            state, metrics = step.update(state, put_batch(Batches().batch(number), mesh))
            found.append({name: float(value) for name, value in metrics.items() if np.ndim(value) == 0})
    return found


@pytest.fixture(scope="module")
def on_one_device():
    return first_losses(GRPO)


def test_a_step_says_what_the_note_asks_for(on_one_device):
    for row in on_one_device:
        assert {"rl/reward", "rl/expected_reward", "rl/target_in_group", "rl/entropy_0",
                "rl/entropy_2"} <= set(row)  # fmt: skip
        assert 0 <= row["rl/target_in_group"] <= 1 and row["rl/entropy_0"] > 0
        assert row["examples"] == 8
    assert on_one_device[0]["loss"] != on_one_device[1]["loss"]


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)])
def test_every_mesh_takes_the_steps_of_one_device(on_one_device, shape):
    for here, there in zip(first_losses(GRPO, make_mesh(*shape)), on_one_device, strict=True):
        for name, value in here.items():
            assert value == pytest.approx(there[name], abs=1e-5, rel=1e-4 if "norm" in name else 1e-5), name


def test_a_step_is_one_program_that_is_compiled_once(caplog):
    with jax.log_compiles():
        first_losses(RlSettings(objective="dpo", group=6), steps=3)
    said = [record.getMessage() for record in caplog.records]
    assert sum("Finished XLA compilation of jit(update)" in line for line in said) == 1


def test_micro_batches_share_the_loss():
    whole = Batches().batch(1)
    parts = {name: array.reshape(4, 2, *array.shape[2:]) for name, array in whole.items()}
    found = []
    for batch in (whole, parts):
        step, state = first_rl_step_and_state(make_model(), ARRAYS, RlSettings(group=6), limits())
        metrics = step.update(state, batch)[1]
        found.append([float(metrics[name]) for name in ("loss", "grad_norm", "rl/reward")])
    np.testing.assert_allclose(*found, rtol=1e-4)


class Killed(Exception):
    pass


def run(folder, settings, killed_at=None):
    asked = []

    def validate(model):
        asked.append(1)
        if len(asked) == killed_at:
            raise Killed
        return {"valid/hr@10": float(jnp.sum(model.final_norm[...]))}

    step, state = first_rl_step_and_state(make_model(), ARRAYS, settings, limits(), base_vocab_size=BASE, seed=4)
    return train(step, state, Batches(), validate, limits(), Run(folder, {}, "rl"))


def test_a_resumed_stage_goes_on_bit_for_bit(tmp_path):
    whole = run(tmp_path / "whole", GRPO)
    with pytest.raises(Killed):
        run(tmp_path / "cut", GRPO, killed_at=2)
    resumed = run(tmp_path / "cut", GRPO)
    for one, other in zip(*(jax.tree.leaves(nnx.state(found.model)) for found in (whole, resumed)), strict=True):
        np.testing.assert_array_equal(one, other)
    curves = [
        [(row["loss"], row["rl/reward"], row["loss/kl"]) for row in read_metrics(tmp_path / name) if "loss" in row]
        for name in ("whole", "cut")
    ]
    assert curves[0] == curves[1] and len(curves[0]) == 6
    assert curves[0][0][2] == pytest.approx(0, abs=1e-6) and curves[0][-1][2] > 1e-5, "it begins at the reference"


def test_the_divergence_holds_the_model_back_and_utility_goes_up():
    found = {}
    for kl in (0.01, 5.0):
        step, state = first_rl_step_and_state(make_model(), ARRAYS, RlSettings(kl=kl, group=6), limits())
        batch = Batches().batch(1)
        rows = []
        for _ in range(12):
            state, metrics = step.update(state, batch)
            rows.append((float(metrics["part_sums"][2]), float(metrics["rl/expected_reward"])))
        found[kl] = rows
    assert found[0.01][-1][0] > 2 * found[5.0][-1][0] > 0
    assert found[0.01][-1][1] > found[0.01][0][1] + 0.05


def test_the_second_moment_is_that_of_the_last_twenty_steps():
    """After one step it holds a twentieth of the squared gradient."""
    step, state = first_rl_step_and_state(make_model(), ARRAYS, GRPO, limits(clip_norm=0.0), seed=1)
    state, metrics = step.update(state, put_batch(Batches().batch(1), None))
    squares = sum(float(jnp.sum(leaf)) for leaf in jax.tree.leaves(optax.tree_utils.tree_get(state.opt_state, "nu")))
    assert squares == pytest.approx(0.05 * float(metrics["grad_norm"]) ** 2, rel=1e-4)
