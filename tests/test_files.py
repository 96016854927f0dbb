"""Files and folders appear whole or not at all, whoever else writes and however the writer ends."""

import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from matplotlib import pyplot

from tsrec_jax.errors import UserError
from tsrec_jax.files import (
    LEFT_SECONDS,
    new_folder,
    read_facts,
    replacing,
    temporary_folder,
    write_figure,
    write_json,
    write_npz,
    write_text,
)

ROOT = pathlib.Path(__file__).resolve().parents[1]
KILLED = """
import os, pathlib, sys
from tsrec_jax.files import new_folder, replacing
with {call} as temporary:
    file = temporary / "half" if temporary.is_dir() else temporary
    file.write_text("half")
    os.kill(os.getpid(), 9)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def killed(call, path):
    code = KILLED.format(call=call)
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL


def test_what_is_written_is_read_back_and_folders_are_made(tmp_path):
    folder = tmp_path / "a" / "b"
    write_text(folder / "text", "Grüße\n")
    write_json(folder / "facts.json", {"name": "Grüße", "n": [1]})
    write_npz(folder / "arrays.npz", {"y": np.arange(3), "x": np.ones(2)})
    write_npz(folder / "small.npz", {"x": np.zeros(10**5)}, compressed=True)
    write_figure(folder / "plots" / "curve.png", pyplot.figure())
    assert (folder / "text").read_bytes() == "Grüße\n".encode()
    assert (folder / "facts.json").read_text(encoding="utf-8").startswith('{\n  "name": "Grüße"')
    with np.load(folder / "arrays.npz") as stored:
        assert stored["x"].tolist() == [1, 1]
        assert set(stored) == {"x", "y"}
    assert (folder / "small.npz").stat().st_size < 10**4
    assert (folder / "plots" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert not pyplot.get_fignums()
    assert names(folder) == ["arrays.npz", "facts.json", "plots", "small.npz", "text"]


def a_day_later(folder):
    """Makes all temporary files and folders look as a day after they were left."""
    for path in folder.glob("*.tmp"):
        os.utime(path, (time.time() - LEFT_SECONDS - 1,) * 2)


def test_a_writer_that_is_killed_leaves_the_old_file_and_a_later_one_clears_up(tmp_path):
    path = tmp_path / "facts.json"
    write_json(path, "old")
    killed("replacing(pathlib.Path(sys.argv[1]))", path)
    assert json.loads(path.read_text()) == "old"
    assert len(names(tmp_path)) == 2
    a_day_later(tmp_path)
    write_json(path, "new")
    assert names(tmp_path) == ["facts.json"]


def test_a_folder_of_a_killed_writer_is_not_there_and_a_later_one_clears_up(tmp_path):
    folder = tmp_path / "made"
    killed("new_folder(pathlib.Path(sys.argv[1]))", folder)
    assert not folder.exists()
    a_day_later(tmp_path)
    with new_folder(folder) as scratch:
        assert not list(scratch.iterdir())
        write_text(scratch / "whole", "")
    assert names(tmp_path) == ["made"]


@pytest.mark.parametrize("replace", [False, True])
def test_a_writer_that_fails_leaves_nothing_and_its_own_error_is_seen(tmp_path, replace):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OSError) as error, replacing(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise full
    assert error.value is full
    with pytest.raises(OSError) as error, new_folder(tmp_path / "folder", replace=replace) as temporary:
        write_text(temporary / "half", "")
        raise full
    assert error.value is full
    assert not names(tmp_path)


def test_what_other_writers_are_at_stays(tmp_path):
    """A writer elsewhere cannot be seen, only how long it has not written; and a user's own file is never ours."""
    path = tmp_path / "file"
    old = tmp_path / "file.mine.tmp"
    old.write_text("the user's")
    a_day_later(tmp_path)
    with replacing(path) as theirs, replacing(path) as others:
        theirs.write_text("theirs")
        others.mkdir()
        write_text(path, "mine")
        assert names(tmp_path) == sorted(["file", old.name, theirs.name, others.name])
        others.rmdir()
        others.write_text("others'")
    assert path.read_text() == "theirs"
    assert names(tmp_path) == ["file", old.name]


def test_threads_that_write_one_file_do_not_disturb_each_other(tmp_path):
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda n: write_text(tmp_path / "file", f"{n % 4}" * 10**4), range(400)))
    assert len(set((tmp_path / "file").read_text())) == 1
    assert names(tmp_path) == ["file"]


def test_of_two_processes_that_write_at_once_one_wins_whole(tmp_path):
    path = tmp_path / "file"
    code = "import pathlib, sys; from tsrec_jax.files import write_text\n"
    code += "for _ in range(200): write_text(pathlib.Path(sys.argv[1]), sys.argv[2] * 10**5)"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), letter], cwd=ROOT) for letter in "ab"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            seen.add(path.read_text())
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen | {path.read_text()} <= {"a" * 10**5, "b" * 10**5}
    assert names(tmp_path) == ["file"]


def test_a_folder_that_exists_is_kept_or_replaced_whole(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(UserError, match="folder: exists already; nothing was written"), new_folder(folder):
        pass
    (tmp_path / "folder.old").mkdir()
    (tmp_path / "folder.old" / "older").touch()
    with new_folder(folder, replace=True) as scratch:
        (scratch / "new").touch()
        assert names(folder) == ["old"]
    assert names(folder) == ["new"]
    assert names(tmp_path) == ["folder"]


def test_a_folder_that_another_process_makes_meanwhile_is_its(tmp_path):
    folder = tmp_path / "folder"
    with pytest.raises(OSError), new_folder(folder):
        folder.mkdir()
        (folder / "theirs").touch()
    assert names(folder) == ["theirs"]
    assert names(tmp_path) == ["folder"]


def test_a_temporary_folder_is_gone_in_the_end(tmp_path):
    with temporary_folder(tmp_path / "here" / "work") as folder:
        (folder / "file").touch()
        assert folder.parent == tmp_path / "here"
    assert names(tmp_path) == ["here"]
    assert not names(tmp_path / "here")


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        (None, "not there"),
        (b'{"a": 1', "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"a": 1}', "lacks b, c, which"),
    ],
)
def test_a_record_that_cannot_be_read_is_named_with_the_way_out(contents, said, tmp_path):
    file = tmp_path / "facts.json"
    if contents is not None:
        file.write_bytes(contents)
    with pytest.raises(UserError, match=rf"facts\.json: {said}.*; delete it"):
        read_facts(file, "delete it", ("a", "b", "c"))
