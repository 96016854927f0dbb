"""The cache of compiled programs: where it is, and what happens to broken entries."""

import os
import pathlib
import subprocess
import sys
import time
import zlib

import pytest

from tsrec_jax.cache import compiled_folder, keep_compiled_programs, mend_compiled_programs

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDER = "JAX_COMPILATION_CACHE_DIR"


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """The cache of a user who has set nothing but where caches are."""
    for name in (FOLDER, "JAX_ENABLE_COMPILATION_CACHE"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tsrec_jax" / "compiled"


def what_jax_takes():
    """JAX's folder and whether it keeps anything, in a process that starts with this environment."""
    code = "import jax; print([jax.config.jax_compilation_cache_dir, jax.config.jax_enable_compilation_cache])"
    return eval(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)


def test_programs_are_kept_in_the_users_cache(environment):
    keep_compiled_programs()
    assert what_jax_takes() == [str(environment), True]
    assert compiled_folder() == environment


def test_what_is_served_has_its_programs_beside_it_the_small_ones_too(environment, monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    keep_compiled_programs(tmp_path / "run" / "export")  # nobody can write there
    assert os.environ[FOLDER] == str(environment)
    (tmp_path / "run").mkdir()
    monkeypatch.delenv(FOLDER)
    keep_compiled_programs(tmp_path / "run" / "export")
    assert os.environ[FOLDER] == str(tmp_path / "run" / "export.compiled")
    assert os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "0"
    (tmp_path / "run" / "export.compiled").chmod(0o777)  # anybody may put programs there, which would be run
    monkeypatch.delenv(FOLDER)
    keep_compiled_programs(tmp_path / "run" / "export")
    assert os.environ[FOLDER] == str(environment)
    monkeypatch.setenv(FOLDER, "mine")
    keep_compiled_programs(tmp_path / "run" / "export")
    assert os.environ[FOLDER] == "mine"


def test_a_folder_from_outside_wins_and_an_empty_one_keeps_nothing(environment, monkeypatch, tmp_path):
    monkeypatch.setenv(FOLDER, str(tmp_path / "other"))
    keep_compiled_programs()
    assert os.environ[FOLDER] == str(tmp_path / "other")
    monkeypatch.setenv(FOLDER, "")
    keep_compiled_programs()
    assert what_jax_takes() == ["", False]
    assert mend_compiled_programs() == ""
    assert compiled_folder() is None


def entries(folder, **contents):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / f"{name}-cache").write_bytes(content)


def names(folder):
    return sorted(path.name.removesuffix("-cache") for path in folder.glob("*-cache"))


def test_entries_that_cannot_be_unpacked_are_removed_and_all_else_stays(environment):
    whole = zlib.compress(os.urandom(5000))
    entries(environment, whole=whole, empty=b"", noise=os.urandom(5000), half=whole[:2000], cut=whole[:-1])
    (environment / "notes").write_text("mine")
    keep_compiled_programs()
    assert mend_compiled_programs() == ""
    assert names(environment) == ["whole"]
    assert (environment / "whole-cache").read_bytes() == whole
    assert (environment / "notes").read_text() == "mine"
    entries(environment, later=whole[:2000])
    assert mend_compiled_programs() == ""
    assert names(environment) == ["whole"]


def test_an_entry_that_was_looked_at_is_not_read_again(environment, monkeypatch):
    entries(environment, whole=zlib.compress(b"program"))
    os.utime(environment / "whole-cache", (time.time() - 60,) * 2)
    keep_compiled_programs()
    mend_compiled_programs()
    monkeypatch.setattr(zlib, "decompress", lambda content: pytest.fail("read again"))
    assert mend_compiled_programs() == ""


def test_what_only_another_python_can_unpack_stays(environment, monkeypatch):
    monkeypatch.setitem(sys.modules, "compression", None)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    entries(environment, packed=b"\x28\xb5\x2f\xfd and so on")
    keep_compiled_programs()
    assert mend_compiled_programs() == ""
    assert names(environment) == ["packed"]


def test_a_folder_that_cannot_be_used_is_one_line_and_nothing_is_kept(environment, tmp_path):
    (tmp_path / "cache").write_text("a file in the place of the folder")
    keep_compiled_programs()
    line = mend_compiled_programs()
    assert line.startswith(f"{environment}: Not a directory; compiled programs are not kept")
    assert "\n" not in line
    assert what_jax_takes() == ["", False]


def test_a_folder_that_can_only_be_read_is_where_programs_are_looked_for_and_jax_keeps_nothing(
    environment, monkeypatch
):
    def refused(path, *_, **__):
        raise PermissionError(13, "Permission denied")

    environment.mkdir(parents=True)
    keep_compiled_programs()
    monkeypatch.setattr(pathlib.Path, "touch", refused)  # as for another user than this one, who may be root
    assert "compiled programs are not kept" in mend_compiled_programs()
    assert compiled_folder() == environment and os.environ["JAX_ENABLE_COMPILATION_CACHE"] == "false"


def test_an_address_is_left_to_jax(environment, monkeypatch):
    monkeypatch.setenv(FOLDER, "gs://bucket/compiled")
    assert mend_compiled_programs() == ""
    assert compiled_folder() is None
