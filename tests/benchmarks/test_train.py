"""The training benchmark compares like with like: every layout and the peer compute the same loss of the same rows."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from benchmarks.training import ours
from benchmarks.training.ours import everywhere
from benchmarks.training.problem import Problem, Request, shuffled, training_config
from benchmarks.training.report import report
from tests.training.conftest import tiny_config
from tsrec_jax.data.input import packed_batches
from tsrec_jax.data.tasks import TasksSettings
from tsrec_jax.data.tasks.next_sid import NextSid
from tsrec_jax.data.tasks.next_title import NextTitle
from tsrec_jax.data.tasks.task import Example, Task
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.pipeline.batches import TrainingData
from tsrec_jax.training.loss import batch_nll


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    lengths = rng.integers(6, 21, 800)
    examples = [
        Example(
            ("next_sid", "next_title")[number % 2],
            rng.integers(1, 62, length).astype(np.int32),
            int(rng.integers(1, length - 1)),
            str(number),
        )
        for number, length in enumerate(lengths)
    ]
    config = training_config(Request("a folder"))
    data = TrainingData(mix(1.0), {"next_sid": examples[::2], "next_title": examples[1::2]}, None, 0, 1)
    return Problem(config, data, model(), base_vocab_size=50)


def mix(next_title):
    off = Task(rate=0.0)
    tasks = {"next_sid": NextSid(rate=1.0), "next_title": NextTitle(rate=next_title)}
    return TasksSettings(**tasks, title_sid=off, ts_align=off, augmented_sid=off, distilled_sid=off)


def model():
    return Decoder(tiny_config(), rngs=nnx.Rngs(0), remat=False)


def test_slots_at_every_token_give_the_loss_of_loss_slots(problem):
    first = next(shuffled(problem.epoch(), 40))
    (batch,) = packed_batches(first, 128, 6, 400, group=3)
    graphdef, weights = nnx.split(problem.model)
    found = []
    for each in (batch, {name: value[0] for name, value in everywhere(with_axis(batch), 3).items()}):
        nll = jax.jit(lambda weights, each=each: batch_nll(nnx.merge(graphdef, weights), each))(weights)
        used_GP = each["loss_task_GP"] >= 0
        found.append((used_GP.sum(), np.asarray(nll["loss_task_GP"])[used_GP].mean()))
    assert found[0][0] == found[1][0]
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-5)


def test_an_epoch_shows_a_task_as_often_as_its_rate_says(problem):
    epoch = dataclasses.replace(problem, data=dataclasses.replace(problem.data, mix=mix(0.25))).epoch()
    shown = {task: len({row.key for row in rows}) for task, rows in epoch.items()}
    assert shown == {"next_sid": 400, "next_title": 100}


def with_axis(batch):
    return {name: value[None] for name, value in batch.items()}


def test_padded_rows_and_packed_rows_are_trained_on_the_stated_number_of_examples(problem):
    for layout in (ours.Layout(), ours.Layout(packed=False, shared=False)):
        fresh = dataclasses.replace(problem, model=model())
        step, compiles = ours.make_step(fresh, 20, layout)
        examples, useful = zip(*[step()[1:] for _ in range(4)], strict=True)
        assert compiles() == 1
        assert np.mean(examples) == pytest.approx(20, abs=3)
        assert (np.mean(useful) > 0.9) == layout.packed


def test_the_peer_has_the_same_loss_before_any_step(problem):
    pytest.importorskip("torch", reason="needs the extra peers")
    from benchmarks.training import torch_peer

    peer = torch_peer.torch_model(problem, "float32")
    rows = next(shuffled(problem.epoch(), 16))
    assert torch_peer.loss_of(peer, rows) == pytest.approx(ours.loss_of(problem, rows, 16), abs=1e-4)
    step = torch_peer.make_step(problem.epoch(), peer, 8, by_length=True)
    assert np.isfinite([step()[0] for _ in range(3)]).all()


def test_the_report_states_ratios_and_goals():
    found = {
        "rows_per_second": 2.0,
        "rows_per_cpu_second": 2.0,
        "useful_share": 0.5,
        "peak_bytes": 100,
        "compiles": 0,
        "loss_of_the_first_rows": 3.0,
        "steps": 4,
    }
    fast = {**found, "rows_per_second": 5.0, "peak_bytes": 40, "compiles": 1}
    start = {"loading": 5.0, "first_step": 10.0, "second_step": 1.0, "compiles": 1}
    facts = {
        "command": "python benchmarks/train.py",
        "commit": "c",
        "machine": "m",
        "threads": "one",
        "request": {"base": "smollm2", "layers": 6, "rows": 32, "dtype": "float32", "dataset": "a/Industrial"},
        "systems": {"transformers": found, "ours": fast},
        "long_header": {},
        "start": {"cold": start, "warm": {**start, "first_step": 2.0}},
    }
    page = report(facts)
    assert "| ours | 2.50 | 1.00 | 0.40 | 50.0% | 1 |" in page
    assert "without the step 11%" in page
