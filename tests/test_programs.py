"""Compiled programs in a folder: the next process loads them, and one that does not fit is never run."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.serving.processes import ROOT
from tsrec_jax.programs import Programs

# A process that starts: JAX's own cache may know the same function, of which ours needs a program of its own.
STARTING = """
import os, pathlib, sys
import jax, jax.numpy as jnp
from tsrec_jax.programs import Programs
@jax.jit
def sums(x_TD):
    print("traced")
    return jax.lax.top_k(jnp.cumsum(jnp.exp(x_TD) @ x_TD.T, axis=0) - jnp.sum(x_TD), 3)
x_TD = jnp.arange(12.0).reshape(4, 3) / 12
if "known" in sys.argv:
    sums(x_TD)
    jax.clear_caches()
print([part.tolist() for part in Programs(pathlib.Path(sys.argv[1])).call(sums, x_TD)])
"""


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "programs"


def starting(folder):
    """`call`, as in a process that has just started, and the list that grows whenever something is traced."""
    traced = []

    def scaled(tree, more=None, *, factor):
        traced.append(factor)
        return jax.tree.map(lambda array: array * factor if more is None else array * factor + more, tree)

    function, programs = jax.jit(scaled, static_argnames="factor"), Programs(folder)

    def call(tree, factor=2, **named):
        return programs.call(function, tree, static={"factor": factor}, **named)

    return call, traced


def files(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_process_that_starts_again_traces_nothing_even_where_jaxs_own_cache_knows_the_program(folder, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "jax")}
    outputs = [
        subprocess.run(
            [sys.executable, "-c", STARTING, str(folder), *words], env=environment, capture_output=True, text=True
        )
        for words in (("known",), ())
    ]
    assert [output.stderr for output in outputs] == ["", ""]
    first, second = (output.stdout.splitlines() for output in outputs)
    assert first[:-1] == ["traced", "traced"] and second == first[-1:]


def test_every_form_of_the_arguments_has_its_own_program(folder):
    calls = [
        ({"x": jnp.ones(3)}, 2, {}),
        ({"x": jnp.ones(3)}, 3, {}),
        ({"x": jnp.ones(4)}, 2, {}),
        ({"x": jnp.ones(3, jnp.int32)}, 2, {}),
        ({"y": jnp.ones(3)}, 2, {}),
        ({"x": jnp.ones(3)}, 2, {"more": np.ones(3, np.float32)}),
    ]
    for new in (True, False):
        call, traced = starting(folder)
        for tree, factor, named in calls * 2:
            ((name, array),) = tree.items()
            found = call(tree, factor, **named)
            assert list(found) == [name]
            np.testing.assert_array_equal(found[name], np.asarray(array) * factor + (1 if named else 0))
        assert len(traced) == (len(calls) if new else 0)
    assert len(files(folder)) == len(calls)


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: b"", lambda content: os.urandom(500)])
def test_a_damaged_program_is_thrown_away_with_one_line_and_made_again(folder, caplog, damage):
    starting(folder)[0](jnp.ones(3))
    (path,) = folder.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    for lines in (1, 0):
        caplog.clear()
        call, traced = starting(folder)
        np.testing.assert_array_equal(call(jnp.ones(3)), [2, 2, 2])
        assert len(traced) == len(caplog.messages) == lines
        assert all(str(path) in line and "thrown away" in line and "\n" not in line for line in caplog.messages)


def test_a_program_made_under_other_settings_or_by_other_versions_is_not_run(folder, monkeypatch, caplog):
    starting(folder)[0](jnp.ones(3))
    monkeypatch.setattr(jax, "__version__", "0.0.1")
    call, traced = starting(folder)
    np.testing.assert_array_equal(call(jnp.ones(3)), [2, 2, 2])
    monkeypatch.undo()
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    call, again = starting(folder)
    np.testing.assert_array_equal(call(jnp.ones(3)), [2, 2, 2])
    assert len(traced) == len(again) == 1 and len(files(folder)) == 1
    assert ["other versions or settings" in line for line in caplog.messages] == [True, True]


def test_a_program_that_loads_and_cannot_run_is_made_again(folder, caplog):
    call, _ = starting(folder)
    call(jnp.ones(3))
    (three,) = folder.iterdir()
    call(jnp.ones(4))
    (four,) = set(folder.iterdir()) - {three}
    four.write_bytes(three.read_bytes())  # whole, and of arguments of another form
    call, traced = starting(folder)
    np.testing.assert_array_equal(call(jnp.ones(4)), [2, 2, 2, 2])
    assert len(traced) == len(caplog.messages) == 1


def test_where_nothing_can_be_written_the_answer_comes_with_one_line(folder, caplog):
    folder.write_text("a file in the place of the folder")
    call, _ = starting(folder)
    np.testing.assert_array_equal(call(jnp.ones(3)), [2, 2, 2])
    np.testing.assert_array_equal(call(jnp.ones(3)), [2, 2, 2])
    assert [line for line in caplog.messages if "not kept" in line] == caplog.messages[-1:]


def test_programs_are_files_by_umask_and_are_not_made_without_a_folder_or_on_several_devices(folder):
    before = os.umask(0o027)
    try:
        starting(folder)[0](jnp.ones(3))
    finally:
        os.umask(before)
    (path,) = folder.iterdir()
    assert path.stat().st_mode & 0o777 == 0o640
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(jnp.ones(4), jax.NamedSharding(mesh, jax.P("data")))
    np.testing.assert_array_equal(starting(folder)[0](spread), [2, 2, 2, 2])
    np.testing.assert_array_equal(starting(None)[0](jnp.ones(3)), [2, 2, 2])
    assert len(files(folder)) == 1
