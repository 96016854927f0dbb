"""A small checkout with the launch scripts, and a world in which they run: a fake gcloud, hosts and a fake tsrec."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """A repository of one commit with the launch scripts in it, and the commit."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "launch", folder / "launch")
    who = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    who |= {f"GIT_{role}_{what}": "test" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    for command in (["init"], ["add", "--all"], ["commit", "--message=launch"]):
        subprocess.run(["git", *command], cwd=folder, env=os.environ | who, check=True, capture_output=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True)
    return folder, head.stdout.strip()


@dataclasses.dataclass
class Cloud:
    """What the fake gcloud has, and a way to call launch/tpu.sh in front of it."""

    folder: pathlib.Path
    checkout: pathlib.Path
    environment: dict[str, str]

    def program(self, text: str) -> None:
        """What stands for the hosts' Python: called with `-m tsrec_jax` and tsrec's arguments."""
        path = self.folder / "program"
        path.write_text(f"#!/usr/bin/env bash\n{text}")
        path.chmod(0o755)

    def call(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """launch/tpu.sh with these arguments."""
        return self.shell(["bash", str(self.checkout / "launch" / "tpu.sh"), *arguments], **variables)

    def shell(self, command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
        """Any command that may call gcloud."""
        environment = self.environment | variables
        return subprocess.run(
            command, env=environment, cwd=self.folder, capture_output=True, text=True, check=False, timeout=60
        )

    def calls(self) -> list[list[str]]:
        """The arguments of each call of gcloud so far."""
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def verbs(self) -> list[str]:
        """The calls in words, without the looks at the machine and at the run."""
        words = []
        for call in self.calls():
            command = next((part for part in call if part.startswith("--command=")), "")
            done = [word for word in ("install", "start", "status", "stop") if f"tpu_worker.sh {word}" in command]
            words.append((done or [command])[0] if call[3] == "ssh" else call[3])
        return [word for word in words if word not in ("describe", "status")]


@pytest.fixture
def cloud(tmp_path, checkout):
    """An empty cloud; TMPDIR is a folder of the test."""
    programs = tmp_path / "bin"
    programs.mkdir()
    gcloud = programs / "gcloud"
    gcloud.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {HERE / "fake_gcloud.py"} "$@"\n')
    gcloud.chmod(0o755)
    (tmp_path / "tmp").mkdir()
    kept = {key: value for key, value in os.environ.items() if not key.startswith("TPU_")}
    environment = kept | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "FAKE_CLOUD": str(tmp_path),
        "TMPDIR": str(tmp_path / "tmp"),
    }
    return Cloud(tmp_path, checkout[0], environment)
