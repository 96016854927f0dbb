"""The loop: resume bit for bit, best weights, early stop, refusal of another run, stop on NaN."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx

from tests.said import said
from tests.training.test_step import batches_of, named
from tsrec_jax.errors import UserError
from tsrec_jax.training.loop import Run, train
from tsrec_jax.training.loss import SftLoss
from tsrec_jax.training.metrics_log import read_metrics
from tsrec_jax.training.settings import TrainSettings
from tsrec_jax.training.step import first_step_and_state

IDENTITY = {"seed": 3}
SFT = SftLoss({"a": 1.0, "b": 1.0}, TrainSettings())


def train_in(
    folder,
    model,
    examples,
    *,
    validate=None,
    identity=IDENTITY,
    batches=None,
    loss=SFT,
    wrap=lambda step: step,
    run=None,
    **changes,
):
    """Trains `model` in `folder`; `run` are further fields of `Run`, `changes` of `TrainSettings`."""
    values = iter(np.linspace(2.0, 1.0, 100))
    times = {"max_steps": 6, "validations": 3, "checkpoint_every": 2, "log_every": 1}
    settings = TrainSettings(**{"learning_rate": 1e-2, "warmup_steps": 2, "select_by": "loss", **times, **changes})
    step, state = first_step_and_state(model, loss, settings)
    return train(
        wrap(step),
        state,
        batches or batches_of(examples),
        validate or (lambda _model: {"valid/loss": next(values)}),
        settings,
        Run(folder, identity, **(run or {})),
    )


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, make_model, examples):
    whole = train_in(tmp_path / "whole", make_model(), examples)
    calls = iter(range(10))

    class Killed(Exception):
        pass

    def dies_at_the_second_validation(_model):
        if next(calls) == 1:
            raise Killed
        return {"valid/loss": 3.0}

    with pytest.raises(Killed):
        train_in(tmp_path / "cut", make_model(), examples, validate=dies_at_the_second_validation)
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')  # what a kill in the middle of a line leaves
    with said() as lines:
        resumed = train_in(tmp_path / "cut", make_model(seed=9), examples)
    assert "resuming after step 2 of 6" in lines[0]
    assert resumed.steps == whole.steps == 6
    expected = named(nnx.state(whole.model))
    for name, value in named(nnx.state(resumed.model)).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    losses = [[row["loss"] for row in read_metrics(tmp_path / run) if "loss" in row] for run in ("whole", "cut")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6


def test_the_best_weights_are_returned_not_the_last(tmp_path, make_model, examples):
    seen = []

    def validate(model):
        seen.append(named(nnx.state(model)))
        return {"valid/loss": [1.0, 0.5, 0.9][len(seen) - 1]}

    result = train_in(tmp_path, make_model(), examples, validate=validate)
    assert (result.best_step, result.best_value) == (4, 0.5)
    for name, value in named(nnx.state(result.model)).items():
        np.testing.assert_array_equal(value, seen[1][name])


def test_a_rate_is_selected_by_its_highest_value(tmp_path, make_model, examples):
    rates = iter([0.1, 0.3, 0.2])
    result = train_in(
        tmp_path,
        make_model(),
        examples,
        validate=lambda _model: {"valid/hr@10": next(rates)},
        select_by="hr@10",
    )
    assert (result.best_step, result.best_value) == (4, 0.3)


def test_patience_stops_the_run_and_a_rerun_stays_stopped(tmp_path, make_model, examples):
    values = iter([1.0, 2.0, 3.0, 4.0, 5.0])
    validate = lambda _model: {"valid/loss": next(values)}  # noqa: E731
    result = train_in(tmp_path, make_model(), examples, max_steps=20, validations=10, validate=validate, patience=2)
    assert result.stopped_early
    assert result.steps == 6
    again = train_in(tmp_path, make_model(), examples, max_steps=20, validations=10, validate=validate, patience=2)
    assert again.steps == 6
    assert next(values) == 4.0, "the rerun must not validate again"


class Killed(Exception):
    pass


def losses_of(*values):
    """A validation that gives these losses in turn, and ends the process, as far as the loop can see, where None is."""
    left = iter(values)

    def validate(_model):
        value = next(left)
        if value is None:
            raise Killed
        return {"valid/loss": value}

    return validate


def validated(folder):
    return [(row["step"], row["valid/loss"]) for row in read_metrics(folder) if "valid/loss" in row]


def test_the_weights_it_starts_from_stay_the_best_until_others_beat_them(tmp_path, make_model, examples):
    run, values = {"start_competes": True}, losses_of(0.5, 0.5, 0.6)
    with said() as lines:
        result = train_in(tmp_path, make_model(), examples, run=run, validate=values, patience=2)
    assert validated(tmp_path) == [(0, 0.5), (2, 0.5), (4, 0.6)]
    assert (result.best_step, result.best_value) == (0, 0.5)
    assert result.stopped_early and result.steps == 4, "patience counts from the start"
    assert "valid/loss 0.5000 at step 0, the weights it started from: none after them were better" in lines[-1]
    expected = named(nnx.state(make_model()))
    for name, value in named(nnx.state(result.model)).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_a_resumed_run_does_not_weigh_its_start_anew_and_keeps_to_its_interval(tmp_path, make_model, examples):
    given = {"max_steps": 5, "run": {"start_competes": True, "validate_every": 2}}
    for values in ((2.0, None), (2.0, 1.0, None)):  # before the first checkpoint, and after it
        with pytest.raises(Killed):
            train_in(tmp_path, make_model(), examples, validate=losses_of(*values), **given)
    result = train_in(tmp_path, make_model(), examples, validate=losses_of(1.5, 1.2), **given)
    assert validated(tmp_path) == [(0, 2.0), (2, 1.0), (4, 1.5), (5, 1.2)]
    assert (result.best_step, result.best_value) == (2, 1.0)


def test_checkpoints_of_another_run_are_refused_with_the_difference(tmp_path, make_model, examples):
    train_in(tmp_path, make_model(), examples)
    with pytest.raises(UserError, match=r"seed was 3 and is now 4"):
        train_in(tmp_path, make_model(), examples, identity={"seed": 4})


def test_a_loss_that_is_not_finite_stops_the_run_and_saves_its_batch(tmp_path, make_model, examples):
    model = make_model()
    model.embedding[...] = model.embedding[...].at[7].set(np.nan)
    with pytest.raises(
        UserError, match=r"loss is nan at step \d+.*bad_batch_step_\d+\.json.*train\.learning_rate"
    ) as raised:
        train_in(tmp_path, model, examples)
    assert (np.load(next(tmp_path.glob("bad_batch_step_*.npz")))["tokens_BT"] == 7).any()
    facts = json.loads(next(tmp_path.glob("bad_batch_step_*.json")).read_text())
    assert facts["examples"] == batches_of(examples).keys(facts["step"])
    assert facts["examples"][0] in str(raised.value)
    for state in tmp_path.glob("checkpoints/latest/*"):
        assert int(state.name) < facts["step"], "a state with NaN must not be kept for resuming"
    assert not list(tmp_path.glob("checkpoints/best/[0-9]*")), "weights with NaN must not be kept as the best"


def test_metrics_hold_each_tasks_loss_tokens_and_rates(tmp_path, make_model, examples):
    train_in(tmp_path, make_model(), examples)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]
    for row in steps:
        tokens = row["loss_tokens/a"] + row["loss_tokens/b"]
        mean = (row["loss/a"] * row["loss_tokens/a"] + row["loss/b"] * row["loss_tokens/b"]) / tokens
        assert row["loss"] == pytest.approx(mean, rel=1e-5)
        assert 0 <= row["padding_share"] < 1
        assert 0 <= row["input_wait_share"] <= 1
        assert row["tokens_per_second"] > row["examples_per_second"] > 0
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainSettings(max_steps=1).max_steps = 2


def test_jax_emulates_eight_devices():
    assert jax.device_count() == 8, "conftest sets XLA_FLAGS before jax is imported"
