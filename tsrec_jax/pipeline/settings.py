"""Settings that say what is done: the stages of a run, the arms of a study."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal

from tsrec_jax.baselines.names import BASELINES
from tsrec_jax.errors import UserError
from tsrec_jax.section import Section, near, setting

UPSTREAM = ("prepare", "index", "describe")
STAGES = (*UPSTREAM, "train", "rl", "evaluate", "export")


def cells_folder(name: str) -> str:
    """The name of the folder in which the cells of an arm or a baseline are made."""
    return name.replace(" ", "_")


@dataclasses.dataclass(frozen=True)
class RunSettings(Section, key="run"):
    """The verb `run`."""

    stages: tuple[str, ...] = setting(STAGES, "stages to run; those already finished are skipped", choices=STAGES)


@dataclasses.dataclass(frozen=True)
class StudySettings(Section, key="study"):
    """The verb `study`: every arm with every seed, and one report (docs/studies.md)."""

    arms: Mapping[str, Mapping[str, Any]] = dataclasses.field(
        default_factory=dict,
        metadata={
            "doc": "NAME -> the settings that the arm changes, in any section but study and run, such as {'train': "
            "{'epochs': 3.0}}"
        },
    )
    seeds: tuple[int, ...] = setting(
        (1, 2, 3), "seeds to train every arm with; what comes before training has the seed `seed`", least=0
    )
    comparisons: tuple[str, ...] = setting(
        (), "paired tests to report, each written as `ARM > OTHER`; either may be a baseline"
    )
    explored: tuple[str, ...] = setting(
        (), "as `comparisons`, but named after some of the systems had been tested: a table of its own, without Holm"
    )
    baselines: tuple[str, ...] = setting((), "baselines to compare the arms with", choices=BASELINES)
    curves: tuple[str, ...] = setting((), "arms whose training curves are drawn in one plot; empty: all")
    keep_weights: bool = setting(False, "keep the checkpoints and records of finished cells")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"config.study.seeds={self.seeds} must name at least one seed, and each only once")
        for name, changes in self.arms.items():
            if not re.fullmatch(r"[\w-]+", name):
                raise UserError(f"config.study.arms: {name!r} names a folder; use letters, digits, '_' and '-'")
            if not isinstance(changes, Mapping):
                raise UserError(
                    f"config.study.arms.{name}={changes!r} must be settings, such as {{'train': {{'epochs': 3.0}}}}"
                )
            decided = [key for key in ("study", "run", "seed") if key in changes]
            if decided:
                raise UserError(
                    f"config.study.arms.{name}: {decided[0]!r} is the same for all arms of a study "
                    "(config.study.seeds are the seeds of training); use another --workdir for another one"
                )
        self._refuse_shared_folders()
        if unknown := [name for name in self.curves if name not in self.arms]:
            raise UserError(f"config.study.curves: {unknown[0]!r} is not one of the arms, {', '.join(self.arms)}")
        self.pairs("comparisons")
        self.pairs("explored")

    def _refuse_shared_folders(self) -> None:
        """Refuses two systems whose cells would be made in one folder, be it only where a file system ignores case."""
        owners: dict[str, str] = {}
        for kind, names in (("arm", self.arms), ("baseline", self.baselines)):
            for name in names:
                folder, system = cells_folder(name), f"the {kind} {name!r}"
                if other := owners.get(folder.casefold()):
                    raise UserError(
                        f"config.study: {other} and {system} would share the folder cells/{folder} (some file systems "
                        "ignore case); rename an arm, and name each baseline once"
                    )
                owners[folder.casefold()] = system

    def pairs(self, key: Literal["comparisons", "explored"]) -> list[tuple[str, str]]:
        """The pairs of `comparisons` or `explored`; the first of each is to be the better one.

        Raises:
          UserError: a text that is not "ARM > OTHER", or a name that is neither an arm nor a baseline.
        """
        known = [*self.arms, *self.baselines]
        pairs = []
        for text in getattr(self, key):
            names = [name.strip() for name in text.split(">")]
            if len(names) != 2 or names[0] == names[1]:
                raise UserError(f"config.study.{key}: {text!r} must be 'ARM > OTHER'")
            for name in names:
                if name not in known:
                    raise UserError(
                        f"config.study.{key}: {name!r} is neither in config.study.arms nor in "
                        f"config.study.baselines ({', '.join(known)}){near(name, known)}"
                    )
            pairs.append((names[0], names[1]))
        return pairs
