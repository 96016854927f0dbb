"""A run's working directory: its recorded facts and which stages are finished."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from etils import epath

import tsrec_jax
from tsrec_jax.data.folder_files import sha256_of
from tsrec_jax.errors import UserError
from tsrec_jax.files import write_json
from tsrec_jax.pipeline.remote import Remote
from tsrec_jax.processes import Made, first, first_makes, gather, share
from tsrec_jax.section import Section
from tsrec_jax.settings import Settings, section_facts
from tsrec_jax.training.checkpoints import differences, refuse_differences

FINISHED = "stages.json"  # what is finished for what inputs
PACKAGES = (
    "jax",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "tensorflow-datasets",
    "transformers",
    "numpy",
)


def versions() -> dict[str, str]:
    """Version of Python and of each package that shapes a result."""
    found = {"python": platform.python_version(), "tsrec_jax": tsrec_jax.__version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str:
    """The git commit of the code that runs, marked when files differ from it; `unknown` outside a checkout.

    Code that was packed without its repository is told by the variable TSREC_COMMIT.
    """
    packed = os.environ.get("TSREC_COMMIT")
    if packed:
        return packed
    here = pathlib.Path(__file__).resolve().parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")


def command() -> str:
    """The command that this process was started with."""
    return shlex.join(["python", "-m", "tsrec_jax", *sys.argv[1:]])


def machine() -> str:
    """The hardware in words: devices, processor, cores and memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kind = jax.devices()[0].device_kind
    return f"{jax.device_count()} x {kind} ({platform.machine()}), {os.cpu_count()} CPU cores, {memory:.0f} GiB memory"


class Workdir:
    """The folder of one run. `config.json` records what was asked, FINISHED what is finished."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = pathlib.Path(path)
        self._remote = Remote.of(self.path)

    def record(self, config: Settings, identity: Mapping[str, Any], data_hash: str) -> None:
        """Writes `config.json`: resolved config, versions, commits, data hash, machine and the training identity.

        Of several processes the first one writes.

        `earlier_commits` names, oldest first, the other commits whose code has worked on the same training here.

        Raises:
          UserError: the folder holds the training of another identity; the message lists the differences.
        """
        if not first():
            return
        path = self.path / "config.json"
        now, earlier = commit(), []
        states = self.checkpoints(self.path) / "latest"
        if path.exists() and states.exists() and any(states.iterdir()):
            before = json.loads(path.read_text(encoding="utf-8"))
            refuse_differences(self.path, before["identity"], identity)
            earlier = [each for each in [*before.get("earlier_commits", []), before["commit"]] if each != now]
        facts = {
            "config": config.given,
            "versions": versions(),
            "commit": now,
            "earlier_commits": list(dict.fromkeys(earlier)),
            "data_hash": data_hash,
            "machine": machine(),
            "identity": dict(identity),
        }
        write_json(path, facts)
        self.push()

    def checkpoints(self, folder: pathlib.Path) -> epath.Path:
        """Where the checkpoints of a system that works in `folder`, a part of this one, lie: here or at the address."""
        if self._remote is not None:
            return self._remote.checkpoints(folder)
        return epath.Path(folder.absolute() / "checkpoints")

    def push(self) -> None:
        """Brings what the folder holds to the address that it is the copy of, if it is one; the first process does."""
        if self._remote is not None and first():
            self._remote.push()

    def first_makes(self, make: Callable[[], Made]) -> Made:
        """As `processes.first_makes`, for what is made in this folder; at an address the others fetch it from there."""

        def call() -> Made:
            if self._remote is not None and not first():
                self._remote.pull()
            made = make()
            self.push()
            return made

        made = first_makes(call)
        if self._remote is not None:
            gather(None)  # the first one goes on when the others have it, so that nothing changes under their hands
        return made

    def _stages(self) -> dict[str, Any]:
        path = self.path / FINISHED
        stages = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        # Older code left a hash of the inputs, of which nobody can say how they differ from others: not finished.
        return {name: entry for name, entry in stages.items() if isinstance(entry["inputs"], dict)}

    def finished(
        self, stage: str, inputs: Mapping[str, Any], made: pathlib.Path | None = None
    ) -> dict[str, Any] | None:
        """The facts that a finished stage left; None when it has not finished for these inputs or `made` is lost.

        Several processes ask together, and the first one looks.
        """
        entry = self._stages().get(stage) if first() else None
        if entry is None or (made is not None and not made.exists()) or differences(entry["inputs"], inputs):
            return share(None)
        return share(entry["facts"])

    def forget(self, stage: str) -> None:
        """Marks a stage as not finished, because what it made is lost."""
        if first():
            rest = {name: entry for name, entry in self._stages().items() if name != stage}
            write_json(self.path / FINISHED, rest)

    def finish(self, stage: str, inputs: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Marks a stage as finished for these inputs, with JSON facts for later stages."""
        if first():
            stages = self._stages()
            stages[stage] = {"inputs": dict(inputs), "facts": dict(facts)}
            write_json(self.path / FINISHED, stages)
        self.push()


def input_facts(section: Section, files: Sequence[str], without: Sequence[str] = ()) -> dict[str, Any]:
    """The facts of a section, in which its settings that name `files` count by what those hold.

    So a file that moved is the same input, and one that was written anew is another.

    Raises:
      UserError: a file that is named is not there.
    """
    facts = section_facts(section, (*without, *files))
    for key in files:
        path, name = getattr(section, key), section.config_key(key)
        if path and pathlib.Path(path).is_dir():
            raise UserError(f"{name}={path!r} is a folder; name the file in it")
        if path and not pathlib.Path(path).is_file():
            raise UserError(f"{name}={path!r}: no such file; name the place where it is now")
        facts[f"SHA-256 of {section.key}.{key}"] = sha256_of(pathlib.Path(path)) if path else ""
    return facts


def fingerprint(inputs: Any) -> str:
    """A hash of JSON-like inputs that does not depend on key order."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:16]
