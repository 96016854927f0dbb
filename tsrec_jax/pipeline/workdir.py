"""A run's working directory: its recorded facts and which stages are finished."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from tsrec_jax.files import read_facts, write_json
from tsrec_jax.pipeline.provenance import command, commit, machine, versions
from tsrec_jax.pipeline.remote import Remote
from tsrec_jax.processes import Made, first, first_makes, gather, share
from tsrec_jax.settings import Settings
from tsrec_jax.training.checkpoints import differences, refuse_differences

FINISHED = "stages.json"  # which stages are finished, and for which inputs
ANOTHER = "what was made here cannot be told without it; give a new --workdir"


class Workdir:
    """The folder of one run. `config.json` records what was requested, FINISHED what is finished."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = pathlib.Path(path)
        self._remote = Remote.of(self.path)

    def record(self, settings: Settings, identity: Mapping[str, Any], data_hash: str) -> None:
        """Writes `config.json`: resolved config, versions, commits, data hash, machine and the training identity.

        If there are several processes, the first one writes.

        `earlier_commits` names, oldest first, the other commits whose code has worked on the same training here.

        Raises:
          UserError: the folder holds a training with another identity; the message lists the differences.
        """
        if not first():
            return
        path = self.path / "config.json"
        now, earlier = commit(), []
        states = self.checkpoints(self.path) / "latest"
        if path.exists() and states.exists() and any(states.iterdir()):
            before = read_facts(path, ANOTHER, ("identity", "commit"))
            refuse_differences(self.path, before["identity"], identity)
            earlier = [each for each in [*before.get("earlier_commits", []), before["commit"]] if each != now]
        facts = {
            "config": settings.resolved(),
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
        """The place of the checkpoints of a system that works in `folder`, inside this one: here or at the address."""
        if self._remote is not None:
            return self._remote.checkpoints(folder)
        return epath.Path(folder.absolute() / "checkpoints")

    def push(self) -> None:
        """Copies what the folder holds to its address, if it is the copy of one; only the first process does this."""
        if self._remote is not None and first():
            self._remote.push()

    def first_makes(self, make: Callable[[], Made]) -> Made:
        """Like `processes.first_makes`, for what is made in this folder; if it has an address, the other processes
        fetch it from there.
        """

        def call() -> Made:
            if self._remote is not None and not first():
                self._remote.pull()
            made = make()
            self.push()
            return made

        made = first_makes(call)
        if self._remote is not None:
            gather(None)  # the first one continues once the others have it, so that nothing changes while they fetch
        return made

    def _stages(self) -> dict[str, Any]:
        path = self.path / FINISHED
        stages = read_facts(path, "delete it, and what is finished is made again") if path.exists() else {}
        # Older code left a hash of the inputs, which cannot say how they differ from others: not finished.
        return {name: entry for name, entry in stages.items() if _has_inputs(entry)}

    def finished(self, stage: str, inputs: Mapping[str, Any], *made: pathlib.Path) -> dict[str, Any] | None:
        """The facts that a finished stage left; None if it has not finished for these inputs or lost what it made.

        If there are several processes, all of them call this together, and the first one looks.
        """
        entry = self._stages().get(stage) if first() else None
        if entry is None or not all(each.exists() for each in made) or differences(entry["inputs"], inputs):
            return share(None)
        return share(entry["facts"])

    def forget(self, stage: str) -> None:
        """Marks a stage as not finished, because what it made is lost or about to be replaced."""
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


def _has_inputs(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("inputs"), dict) and "facts" in entry


def run_facts(path: pathlib.Path) -> dict[str, Any]:
    """Command, config, seed, data hash, commits, machine and versions of the run in a workdir."""
    keys = ("config", "data_hash", "commit", "earlier_commits", "machine", "versions")
    recorded = read_facts(path / "config.json", ANOTHER, keys)
    return {
        "command": command(),
        "seed": recorded["config"]["seed"],
        "data_hash": recorded["data_hash"],
        "commit": ", after ".join([recorded["commit"], *reversed(recorded["earlier_commits"])]),
        "machine": recorded["machine"],
        "versions": recorded["versions"],
        "config": recorded["config"],
    }
