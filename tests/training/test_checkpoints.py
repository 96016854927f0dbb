"""Checkpoints on disk: nothing cut off, damaged or of another model gets into a run, and a full disk harms none."""

import contextlib
import random
import resource
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.said import said
from tests.training.conftest import tiny_config
from tsrec_jax.errors import UserError
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.training import checkpoints as checkpoints_module
from tsrec_jax.training.checkpoints import Checkpoints, Position
from tsrec_jax.training.step import TrainState

IDENTITY = {"seed": 3}


def state_of(step, rows=8, width=4):
    """A state with as much in it as these tests look at; its values tell its step."""
    table, moments = {"embedding": jnp.full((rows, width), float(step))}, {"embedding": jnp.ones((rows, width))}
    return TrainState(jnp.int32(step), table, {"norm": jnp.arange(600.0)}, moments, graphdef=None)


def model_of(value):
    model = Decoder(tiny_config(layers=1), rngs=nnx.Rngs(0))
    model.final_norm[...] = jnp.full(16, float(value))
    return model


def restored(folder, like=None, identity=IDENTITY):
    """What a new start finds: the step (0: nothing), its state, and the lines about what it passed over."""
    with Checkpoints(folder) as checkpoints, said() as lines:
        state, position = checkpoints.restore(like or state_of(0), identity)
    return state, position, lines


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two states, of steps 2 and 4, each with best weights of its own."""
    folder = tmp_path_factory.mktemp("saved")
    with Checkpoints(folder, keep=2) as checkpoints:
        for step in (1, 2, 4):
            checkpoints.save_best(step, model_of(step))
            checkpoints.save(state_of(step), Position(IDENTITY, best_step=step, losses=[0.1, 0.2]))
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_the_newest_state_comes_back_with_its_progress(folder):
    state, position, lines = restored(folder)
    assert (int(state.step), position.best_step, list(position.losses), lines) == (4, 4, [0.1, 0.2], [])
    np.testing.assert_array_equal(state.trained["embedding"], np.full((8, 4), 4.0))


def test_best_weights_are_kept_as_long_as_a_state_refers_to_them(folder):
    assert sorted(path.name for path in (folder / "best").iterdir()) == ["2", "4"]
    shutil.rmtree(folder / "latest" / "4")
    state, position, lines = restored(folder)
    assert (int(state.step), position.best_step, lines) == (2, 2, [])


def test_reading_removes_nothing(folder):
    with Checkpoints(folder, keep=3) as checkpoints:
        checkpoints.save(state_of(6), Position(IDENTITY, best_step=4))
    before = files_of(folder)
    with Checkpoints(folder) as checkpoints:
        checkpoints.load_best(model_of(0))
    assert files_of(folder) == before
    assert sorted(path.name for path in (folder / "latest").iterdir()) == ["2", "4", "6"]


def test_one_of_several_processes_that_fails_does_not_wait_for_the_others(folder, monkeypatch):
    class OwnError(Exception):
        pass

    checkpoints = Checkpoints(folder, keep=2)
    monkeypatch.setattr(checkpoints_module, "several", lambda: True)
    monkeypatch.setattr(checkpoints, "finish", lambda: pytest.fail("it waits for what the others do not come to"))
    with pytest.raises(OwnError), checkpoints:
        raise OwnError


@pytest.mark.parametrize("series", ["latest", "best"])
def test_one_flipped_bit_in_any_file_falls_back_to_the_state_before_and_is_named(folder, series):
    seed = random.randrange(10**6)
    rng = random.Random(seed)
    newest = folder / series / "4"
    files = [path for path in files_of(newest) if path.stat().st_size]
    assert len(files) > 5
    for file in files:
        whole = shutil.copytree(folder, folder.with_name("copy"))
        copy = whole / file.relative_to(folder)
        content = bytearray(copy.read_bytes())
        bit = rng.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        copy.write_bytes(content)
        state, position, [line] = restored(whole)
        assert (int(state.step), position.best_step) == (2, 2), f"{file.name}, bit {bit} (seed {seed})"
        assert str(whole / series / "4") in line
        assert "is not as it was written" in line or "is missing" in line, line
        shutil.rmtree(whole)


@pytest.mark.parametrize("bit", range(8))
@pytest.mark.parametrize("series", ["latest", "best"])
def test_a_flipped_bit_in_the_last_line_end_of_the_sums_is_found(folder, series, bit):
    sums = folder / series / "4" / "SHA256SUMS"
    content = bytearray(sums.read_bytes())
    content[-1] ^= 1 << bit  # one of these bits makes another kind of line end
    sums.write_bytes(content)
    state, _, [line] = restored(folder)
    assert int(state.step) == 2
    assert "is not as it was written" in line or "is missing" in line, line


def test_a_truncated_file_and_a_missing_one_are_found(folder):
    largest = max(files_of(folder / "latest" / "4"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    state, _, [line] = restored(folder)
    assert int(state.step) == 2
    assert f"{largest.name} is not as it was written" in line
    files_of(folder / "latest" / "2" / "state")[0].unlink()
    with pytest.raises(UserError, match=r"no state to resume from .*latest/2: .* is missing.*delete"):
        restored(folder)
    assert (folder / "latest" / "2").exists(), "a damaged state is not thrown away while there is no other"


def test_a_state_that_a_crash_cut_off_is_passed_over_and_cleared_away(folder):
    (folder / "latest" / "4" / "SHA256SUMS").unlink()
    shutil.copytree(folder / "latest" / "2", folder / "latest" / "6.orbax-checkpoint-tmp")
    state, _, [line] = restored(folder)
    assert int(state.step) == 2
    assert "latest/4: a crash cut it off" in line
    assert [path.name for path in (folder / "latest").iterdir()] == ["2"]


def test_without_any_whole_state_training_starts_anew(folder):
    for step in (2, 4):
        (folder / "latest" / str(step) / "SHA256SUMS").unlink()
    like = state_of(0)
    state, position, lines = restored(folder, like)
    assert state is like
    assert position == Position(IDENTITY)
    assert len(lines) == 2


def test_best_weights_that_were_deleted_take_their_states_with_them(folder):
    shutil.rmtree(folder / "best")
    state, _, lines = restored(folder)
    assert int(state.step) == 0
    assert "best/4, are gone" in lines[0]


def test_damaged_best_weights_are_refused_with_the_way_out(folder):
    with Checkpoints(folder) as checkpoints:
        step, model = checkpoints.load_best(model_of(0))
    assert (step, float(model.final_norm[0])) == (4, 4.0)
    file = files_of(folder / "best" / "4" / "state")[0]
    file.write_bytes(file.read_bytes() + b"x")
    with (
        Checkpoints(folder) as checkpoints,
        pytest.raises(UserError, match=rf"best/4: .*{file.name}.*delete it and run"),
    ):
        checkpoints.load_best(model_of(0))


def test_weights_of_another_model_are_refused_with_the_difference_and_the_way_out(folder):
    other = model_of(0)
    other.final_norm = nnx.Param(jnp.zeros(17))
    other.sid_scale = nnx.data(nnx.Param(jnp.zeros(3)))
    message = r"best/4 .*final_norm'\] was \(16,\) and is now \(17,\).*sid_scale.* was None .*, or delete .* to train"
    with Checkpoints(folder) as checkpoints, pytest.raises(UserError, match=message):
        checkpoints.load_best(other)


def test_another_run_or_model_is_refused_with_the_difference(folder):
    with pytest.raises(UserError, match="seed was 3 and is now 4"):
        restored(folder, identity={"seed": 4})
    with pytest.raises(UserError, match=r"embedding'\] was \(4,\) and is now \(5,\).*, or delete .* to train"):
        restored(folder, state_of(0, width=5))
    assert int(restored(folder)[0].step) == 4, "a refusal leaves the states as they are"


def test_tables_may_be_rounded_up_otherwise(folder):
    for rows in (6, 12):
        found = np.asarray(restored(folder, state_of(0, rows=rows))[0].trained["embedding"])
        np.testing.assert_array_equal(
            found, np.repeat([4.0, 0.0], [min(rows, 8), max(rows - 8, 0)])[:, None] * np.ones(4)
        )


@contextlib.contextmanager
def largest_file(size):
    """Writes beyond `size` bytes of a file fail, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_named_with_its_space_and_harms_no_older_state(folder):
    with Checkpoints(folder) as checkpoints:
        _, position = checkpoints.restore(state_of(0), IDENTITY)
        with largest_file(1024), pytest.raises(UserError, match=r"latest/6: .* \(\d+ MiB are free there\); make room"):
            checkpoints.save(state_of(6), position)
            checkpoints.finish()
    assert sorted(path.name for path in (folder / "latest").iterdir()) == ["2", "4"]
    assert int(restored(folder)[0].step) == 4
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(state_of(6), position)
    assert int(restored(folder)[0].step) == 6
