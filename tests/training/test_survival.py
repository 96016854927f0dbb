"""A run that is killed, told to stop or moved to another mesh goes on as if nothing had happened."""

import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from flax import nnx

from tests.training.test_step import named
from tests.training.tiny_run import BASE_VOCAB_SIZE, run_in
from tsrec_jax.errors import Stopped, UserError
from tsrec_jax.models.settings import AdapterSettings
from tsrec_jax.models.sharding import make_mesh
from tsrec_jax.training.metrics_log import read_metrics

SCRIPT = pathlib.Path(__file__).with_name("tiny_run.py")
STEPS = 10


@dataclasses.dataclass
class Run:
    """What a run left: the loss of every step, the batches it took in their order, its best weights."""

    losses: list
    fed: dict
    weights: dict


def run_of(folder, result):
    rows = [row for row in read_metrics(folder) if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1)), "every step once, none left out"
    fed = {row["step"]: row for row in map(json.loads, (folder / "fed.jsonl").read_text().splitlines())}
    return Run([row["loss"] for row in rows], fed, named(nnx.state(result.model)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run from start to end."""
    folder = tmp_path_factory.mktemp("whole")
    return run_of(folder, run_in(folder))


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A folder in which a run was killed at a random step, again while it saved, and told to stop the third time."""
    folder = tmp_path_factory.mktemp("killed")
    seed = int.from_bytes(os.urandom(2))
    at = random.Random(seed).randint(5, 7)
    done = []
    for options in ((f"--at={at}",), ("--die_saving=8",), ("--signal=TERM", "--at=9")):
        command = [sys.executable, str(SCRIPT), f"--folder={folder}", *options]
        there = sorted(path.name for path in folder.glob("checkpoints/latest/*"))
        done.append((there, subprocess.run(command, capture_output=True, text=True, check=False)))
    there = sorted(path.name for path in folder.glob("checkpoints/latest/*"))
    return folder, [*done, (there, None)], f"killed before step {at} (seed {seed})"


def test_kill_9_ends_the_process_and_the_next_one_starts_from_a_whole_checkpoint(killed):
    _, [(_, first), (there, second), _, _], chosen = killed
    assert first.returncode == -signal.SIGKILL, chosen + first.stderr
    assert "2" in there
    assert "resuming after step" in second.stdout, chosen + second.stderr


def test_a_kill_while_saving_leaves_no_checkpoint_and_the_next_start_clears_it_away(killed):
    _, [_, (_, second), (there, third), (after, _)], chosen = killed
    assert second.returncode == -signal.SIGKILL, chosen + second.stderr
    assert "8" not in there
    assert any("tmp" in name for name in there), "the process died before it wrote"
    assert "resuming after step 6 of 10" in third.stdout, chosen + third.stderr
    assert after == ["8", "9"], "the leftovers are gone"


def test_sigterm_saves_the_current_step_says_so_and_ends_well(killed):
    _, [*_, (_, third), _], _ = killed
    assert third.returncode == 0, third.stderr
    assert "stopped by SIGTERM after step 9 of 10, which is saved" in third.stdout


def test_after_all_this_losses_data_and_weights_are_those_of_an_uninterrupted_run(killed, whole):
    folder, _, chosen = killed
    result = run_in(folder)
    found = run_of(folder, result)
    assert found.losses == whole.losses, chosen
    assert found.fed == whole.fed, chosen
    assert result.best_step == 8
    for name, value in found.weights.items():
        np.testing.assert_array_equal(value, whole.weights[name], err_msg=f"{name} {chosen}")


def test_another_vocabulary_is_refused_with_the_difference(killed):
    with pytest.raises(UserError, match=r"vocabulary\.tokens was \d+ and is now \d+"):
        run_in(killed[0], new_rows=13)


def test_ctrl_c_stops_after_the_step_and_another_mesh_goes_on_with_the_same_losses(tmp_path, whole):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Stopped, match="stopped by SIGINT after step 3 of 10, which is saved"):
        run_in(tmp_path, number=signal.SIGINT, at=3)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    found = run_of(tmp_path, run_in(tmp_path, mesh=make_mesh(data=2, fsdp=2, tensor=2)))
    np.testing.assert_allclose(found.losses, whole.losses, atol=1e-5)
    assert found.fed == whole.fed


def test_adapters_with_small_moments_resume_bit_for_bit_or_on_another_mesh_and_what_is_frozen_stays(tmp_path):
    given = {"freeze": "trunk", "adapter": AdapterSettings(rank=2), "moments": "bfloat16"}
    whole = run_of(tmp_path / "whole", run_in(tmp_path / "whole", **given))
    assert whole.losses[-1] < whole.losses[0] - 0.1
    with pytest.raises(Stopped, match="after step 3 of 10"):
        run_in(tmp_path / "cut", number=signal.SIGTERM, at=3, **given)
    shutil.copytree(tmp_path / "cut", tmp_path / "moved")
    found = run_of(tmp_path / "cut", run_in(tmp_path / "cut", **given))
    assert found.losses == whole.losses
    for name, value in found.weights.items():
        np.testing.assert_array_equal(value, whole.weights[name], err_msg=name)
    moved = run_of(tmp_path / "moved", run_in(tmp_path / "moved", mesh=make_mesh(data=2, fsdp=2, tensor=2), **given))
    np.testing.assert_allclose(moved.losses, whole.losses, atol=1e-5)
    start = run_in(tmp_path / "start", steps=1, learning_rate=1e-9, **given)
    for name, value in named(nnx.state(start.model)).items():
        rows = slice(BASE_VOCAB_SIZE if "embedding" in name else None)
        if "adapter" not in name:
            np.testing.assert_array_equal(found.weights[name][rows], value[rows], err_msg=name)


def test_an_exploding_loss_stops_the_run_and_names_the_examples_it_began_with(tmp_path):
    # Half the usual loss counts as too high here, so that the first three losses that are judged are an explosion.
    with pytest.raises(UserError, match="exploded at step 23") as refusal:
        run_in(tmp_path, steps=30, every=1, validations=0, explode_factor=0.5)
    fed = {row["step"]: row["keys"] for row in map(json.loads, (tmp_path / "fed.jsonl").read_text().splitlines())}
    assert json.loads((tmp_path / "bad_batch_step_21.json").read_text())["examples"] == fed[21]
    assert ", ".join(fed[21][:5]) in str(refusal.value)
    assert "learning_rate" in str(refusal.value)
    assert np.load(tmp_path / "bad_batch_step_21.npz")["tokens_BT"].shape == (1, 8, 32)
    states = sorted(int(path.name) for path in tmp_path.glob("checkpoints/latest/*"))
    assert states == [19, 20], "a state in trouble is not kept"
