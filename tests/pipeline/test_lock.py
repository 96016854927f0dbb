"""One run at a time in a working directory, whatever became of the one before."""

import concurrent.futures
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading

import pytest

from tsrec_jax.errors import UserError
from tsrec_jax.main import main
from tsrec_jax.pipeline import lock as lock_module
from tsrec_jax.pipeline.lock import InUse, alone_in, alone_when_free

ROOT = pathlib.Path(__file__).resolve().parents[2]
QUICKSTART = f"--config={ROOT / 'configs' / 'quickstart.py'}"


def test_a_second_run_is_refused_and_told_who_is_there(tmp_path, capsys):
    with alone_in(tmp_path, "train"):
        assert main(["run", QUICKSTART, f"--workdir={tmp_path}"]) == 2
        assert main(["describe", "--dry_run", QUICKSTART, f"--workdir={tmp_path}"]) == 2
    assert not list(tmp_path.iterdir()), "a refused run writes nothing, and the first one takes its lock away"
    for line in capsys.readouterr().err.strip().splitlines():
        assert f"{tmp_path} is in use by `train`, process {os.getpid()} on {socket.gethostname()} since 2" in line
        assert "another --workdir" in line


def test_the_lock_of_a_killed_run_blocks_nobody(tmp_path):
    code = "import os, pathlib, sys; from tsrec_jax.pipeline.lock import alone_in\n"
    code += "with alone_in(pathlib.Path(sys.argv[1]), 'train'): os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert json.loads((tmp_path / "run.lock").read_text())["verb"] == "train"
    with alone_in(tmp_path, "run"):
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()


def test_a_lock_ends_with_its_run_and_a_folder_that_stayed_empty_goes(tmp_path):
    workdir = tmp_path / "runs" / "mine"
    with pytest.raises(ZeroDivisionError), alone_in(workdir, "train"):
        assert workdir.is_dir()
        raise ZeroDivisionError
    assert not (tmp_path / "runs").exists()
    with alone_in(workdir, "train"):
        (workdir / "config.json").write_text("{}")
    with alone_in(workdir, "train"), pytest.raises(UserError, match="in use"), alone_in(workdir, "train"):
        pass
    assert [path.name for path in workdir.iterdir()] == ["config.json"]


def test_one_who_waits_for_a_folder_says_so_once_and_gets_it_when_it_is_free(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lock_module, "WAIT_SECONDS", 0.05)
    free = threading.Event()

    def hold():
        with alone_in(tmp_path, "train"):
            held.set()
            free.wait(30)

    held = threading.Event()
    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(30)
    threading.Timer(0.3, free.set).start()
    with alone_when_free(tmp_path, "report"):
        assert free.is_set()
        assert json.loads((tmp_path / "run.lock").read_text())["verb"] == "report"
    holder.join()
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith("report: waiting, since")


def test_a_lock_that_changes_hands_all_the_time_is_held_by_one_at_a_time(tmp_path):
    inside, taken, clashes = [], [], []

    def run(_number):
        while len(taken) < 60:
            try:
                with alone_in(tmp_path / "workdir", "run"):
                    inside.append(1)
                    clashes.extend(inside[1:])
                    inside.pop()
                    taken.append(1)
            except InUse:
                pass

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        assert list(pool.map(run, range(3))) == [None] * 3
    assert not clashes
