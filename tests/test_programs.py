"""Compiled programs in a folder: the next process loads them, and one that does not fit is never run."""

import concurrent.futures
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.serving.processes import ROOT
from tsrec_jax import programs
from tsrec_jax.programs import Programs

# A process that starts: JAX's own cache may know the same function, of which ours needs a program of its own. An
# upgrade may put other sources in the place of those that run.
STARTING = """
import os, pathlib, sys
import jax, jax.numpy as jnp
import tsrec_jax
from tsrec_jax.programs import Programs
@jax.jit
def sums(x_TD):
    print("traced")
    return jax.lax.top_k(jnp.cumsum(jnp.exp(x_TD) @ x_TD.T, axis=0) - jnp.sum(x_TD), 3)
x_TD = jnp.arange(12.0).reshape(4, 3) / 12
if "known" in sys.argv:
    sums(x_TD)
    jax.clear_caches()
programs = Programs(pathlib.Path(sys.argv[1]))
print([part.tolist() for part in programs.call(sums, x_TD)])
if "upgraded" in sys.argv:
    with open(pathlib.Path(tsrec_jax.__file__).with_name("errors.py"), "a") as source:
        source.write("# newer")
    for each in programs, Programs(pathlib.Path(sys.argv[1])):
        each.call(sums, x_TD[1:])
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

    function, kept = jax.jit(scaled, static_argnames="factor"), Programs(folder)

    def call(tree, factor=2, **named):
        return kept.call(function, tree, static={"factor": factor}, **named)

    return call, traced


def files(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_process_that_starts_again_traces_nothing_until_the_package_is_upgraded(folder, tmp_path):
    shutil.copytree(ROOT / "tsrec_jax", tmp_path / "tsrec_jax", ignore=shutil.ignore_patterns("experiments", "pages"))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "jax")}
    outputs, kept = [], []
    for words in (("known",), ("upgraded",), ()):
        command = [sys.executable, "-c", STARTING, str(folder), *words]
        outputs.append(subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True))
        kept.append(len(files(folder)))
    first, second, third = (output.stdout.splitlines() for output in outputs)
    assert first[:-1] == ["traced", "traced"] and second[0] == first[-1]
    # What runs is the old package, so what it makes is not kept as the new one's; the next process is the new one.
    assert second[1:] == ["traced"] and third == ["traced", first[-1]] and kept == [1, 1, 2]
    assert [output.stderr.count("not as it was when the process started") for output in outputs] == [0, 2, 0]


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


CHANGES = {
    "JAX": lambda patch: patch.setattr(jax, "__version__", "0.0.1"),
    "jaxlib": lambda patch: patch.setattr(jax.lib, "__version__", "0.0.1"),
    "a setting": lambda patch: jax.config.update("jax_default_matmul_precision", "highest"),
    "flags": lambda patch: patch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true"),
    "TPU flags": lambda patch: patch.setenv("LIBTPU_INIT_ARGS", "--some"),
    "architecture": lambda patch: patch.setattr(platform, "machine", lambda: "other"),
    "processor": lambda patch: patch.setattr(pathlib.Path, "read_text", lambda *_, **__: "model name: other"),
    "processors that may be used": lambda patch: patch.setattr(os, "sched_getaffinity", lambda _: range(977)),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_a_program_is_made_by_has_programs_of_its_own(folder, monkeypatch, what):
    def traced():
        call, traced = starting(folder)
        np.testing.assert_array_equal(call(jnp.ones(3)), [2, 2, 2])
        return len(traced)

    assert traced() == 1
    with monkeypatch.context() as patch:
        CHANGES[what](patch)
        assert [traced(), traced()] == [1, 0]
        jax.config.update("jax_default_matmul_precision", None)
    assert traced() == 0 and len(files(folder)) == 2


def test_functions_of_one_name_and_weak_types_have_programs_of_their_own(folder):
    def doubled(x):
        return x * jnp.bfloat16(2)

    weak = jnp.asarray(1.0)
    assert weak.weak_type
    for module in ("another", "the other"):
        doubled.__module__ = module
        for one in (weak, jnp.float32(1)):
            function = jax.jit(doubled)
            assert Programs(folder).call(function, one).dtype == function(one).dtype
    assert len(files(folder)) == 4


def test_a_file_under_the_name_of_another_is_not_run(folder, caplog):
    call, _ = starting(folder)
    call(jnp.ones(3))
    (three,) = folder.iterdir()
    call(jnp.ones(4))
    (four,) = set(folder.iterdir()) - {three}
    four.write_bytes(three.read_bytes())
    call, traced = starting(folder)
    np.testing.assert_array_equal(call(jnp.ones(4)), [2, 2, 2, 2])
    assert len(traced) == len(caplog.messages) == 1


@pytest.mark.parametrize("mode", [0o775, 0o757])
@pytest.mark.parametrize("which", ["folder", "file"])
def test_nothing_that_others_may_write_is_run(folder, caplog, which, mode):
    starting(folder)[0](jnp.ones(3))
    (path,) = folder.iterdir()
    (folder if which == "folder" else path).chmod(mode)
    call, traced = starting(folder)
    np.testing.assert_array_equal(call(jnp.ones(3)), [2, 2, 2])
    assert len(traced) == len(caplog.messages) == 1 and "others" in caplog.text


def test_a_folder_that_may_only_be_read_is_read_and_no_line_is_written_for_each_program(folder, monkeypatch, caplog):
    def refused(path, **times):
        raise PermissionError

    starting(folder)[0](jnp.ones(3))
    before = files(folder)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as for another user than this one, who may be root
    monkeypatch.setattr(os, "utime", refused)
    call, traced = starting(folder)
    np.testing.assert_array_equal(call(jnp.ones(3)), [2, 2, 2])
    np.testing.assert_array_equal(call(jnp.ones(4)), [2, 2, 2, 2])
    assert len(traced) == 1 and files(folder) == before and not caplog.messages


def test_programs_that_were_not_read_for_months_leave_when_another_is_kept(folder):
    call, _ = starting(folder)
    for length in (2, 3):
        call(jnp.ones(length))
    for path in folder.iterdir():
        os.utime(path, (0, 0))
    call, _ = starting(folder)
    call(jnp.ones(3))
    assert len(files(folder)) == 2
    call(jnp.ones(4))
    assert len(files(folder)) == 2  # that of two is gone


def test_what_cannot_be_written_as_a_program_is_run_and_not_kept(folder, caplog):
    @jax.jit
    def asking(x):
        return jax.pure_callback(lambda x: np.asarray(x) * 2, x, x)

    np.testing.assert_array_equal(Programs(folder).call(asking, jnp.ones(3)), [2, 2, 2])
    (line,) = caplog.messages
    assert "this compiled program is not kept" in line and not files(folder)


def test_a_backend_without_the_option_that_keeps_programs_apart_runs_them_and_keeps_none(folder, monkeypatch, caplog):
    monkeypatch.setitem(programs._APART, "xla_no_such_option", True)
    call, _ = starting(folder)
    np.testing.assert_array_equal(call(jnp.ones(3)), [2, 2, 2])
    (line,) = caplog.messages
    assert "this compiled program is not kept" in line and not files(folder)


def test_programs_that_are_compiled_at_once_leave_the_settings_as_they_were(folder, monkeypatch):
    setting = "jax_persistent_cache_min_compile_time_secs"
    waits = iter((0.1, 0.4))
    before, compiling = getattr(jax.config, setting), jax.stages.Lowered.compile

    def slowly(*given, **options):
        time.sleep(next(waits))  # which the first one ends earlier
        return compiling(*given, **options)

    monkeypatch.setattr(jax.stages.Lowered, "compile", slowly)
    call, _ = starting(folder)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        list(threads.map(call, [jnp.ones(3), jnp.ones(4)]))
    assert getattr(jax.config, setting) == before


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
