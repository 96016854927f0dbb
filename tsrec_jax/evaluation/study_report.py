"""What a study found, computed from its finished cells: quality, paired tests, cost, slices, convergence."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tsrec_jax.data.target_ranks import LEVELS, SHOWN, metric_names
from tsrec_jax.evaluation.beyond import BEYOND
from tsrec_jax.evaluation.statistics import (
    RESAMPLES,
    Comparison,
    Draws,
    compare,
    draw_users,
    holm_corrected,
    interval,
    over_seeds,
    resampled,
)
from tsrec_jax.evaluation.study_cells import System
from tsrec_jax.evaluation.study_slices import (
    Confidence,
    Convergence,
    Part,
    calibration,
    calibration_error,
    convergence,
    curve,
    lost_levels,
    slices,
)
from tsrec_jax.prepare.summary import ORDERS

TESTED = ("NDCG@10", "HR@10")
COSTS = ("parameters", "steps", "examples", "tokens", "seconds", "flops", "memory", "request_flops")


@dataclasses.dataclass(frozen=True)
class CurvePoints:
    """A curve to draw: mean, lowest and highest value over seeds at each step."""

    steps: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


@dataclasses.dataclass(frozen=True)
class SystemResult:
    """One arm or baseline.

    Attributes:
      name: name of the arm or baseline.
      kind: "arm" or "baseline".
      seeds: the finished seeds; if no seed changes the system, the one that it was run with.
      seeded: whether a seed changes it.
      means: {"sid" | "item": {metric: mean over seeds and rows}}.
      deviations: {metric of TESTED: standard deviation over the seeds' means, n - 1}; None with one seed.
      intervals: {metric of TESTED: {"users" | "seeds and users": 95 % interval}}, SID level; with one seed, that over
        seeds and users is None.
      beyond: {entry of BEYOND: mean over seeds}; None if no cell has it.
      cost: {entry of COSTS: mean over seeds, but for memory the maximum}; None if it is not known.
      slices, lost, calibration, calibration_error: as in `study_slices`.
      curves: {"loss" | "HR@10": validation against steps}, as far as they were measured.
      convergence: None without a curve of HR@10.
    """

    name: str
    kind: str
    seeds: tuple[int, ...]
    seeded: bool
    means: Mapping[str, Mapping[str, float]]
    deviations: Mapping[str, float | None]
    intervals: Mapping[str, Mapping[str, tuple[float, float] | None]]
    beyond: Mapping[str, float | None]
    cost: Mapping[str, float | None]
    slices: Mapping[str, list[Part]]
    lost: list[float]
    calibration: list[Confidence]
    calibration_error: float | None
    curves: Mapping[str, CurvePoints]
    convergence: Convergence | None


@dataclasses.dataclass(frozen=True)
class StudyReport:
    """Everything that a study publishes in addition to its cells.

    Attributes:
      title: title of the study.
      split, rows, users, beams: what was evaluated.
      systems: in the order of the config, arms first.
      comparisons: the comparisons that could be made.
      explored: those that were named after some of the systems had been tested; not corrected for their number.
      notes: what a reader must know: missing cells, comparisons that could not be made.
      curves: systems whose curves are drawn together and whose convergence is compared.
      fusions: (system and seed, facts of its fit) of the arms that are fusions.
      facts: command, commits, machines, data hashes, versions.
    """

    title: str
    split: str
    rows: int
    users: int
    beams: int
    systems: list[SystemResult]
    comparisons: list[Comparison]
    explored: list[Comparison]
    notes: list[str]
    curves: list[str]
    fusions: list[tuple[str, Mapping[str, Any]]]
    facts: Mapping[str, Any]

    @property
    def compared_first(self) -> list[SystemResult]:
        """The systems in the order of the comparisons, then the others."""
        named = {system.name: system for system in self.systems}
        order = [name for each in self.comparisons for name in (each.first, each.second)]
        return [named[name] for name in dict.fromkeys([*order, *named])]

    @property
    def metrics(self) -> list[str]:
        """The metrics that lists of `beams` entries can fill."""
        return _metrics(self.beams)

    @property
    def costs(self) -> list[str]:
        """The entries of COSTS that some system has."""
        return [key for key in COSTS if any(system.cost[key] is not None for system in self.systems)]

    @property
    def beyond(self) -> list[str]:
        """The metrics of BEYOND that some system has."""
        return [key for key in BEYOND if any(system.beyond[key] is not None for system in self.systems)]


def _metrics(beams: int) -> list[str]:
    return [metric for metric in metric_names(beams) if metric in SHOWN]


def build_report(
    title: str,
    systems: Sequence[System],
    pairs: Sequence[tuple[str, str]],
    curves: Sequence[str],
    notes: Sequence[str],
    facts: Mapping[str, Any],
    resamples: int = RESAMPLES,
    explored: Sequence[tuple[str, str]] = (),
) -> StudyReport:
    """Computes the report.

    Args:
      title: title of the study.
      systems: the finished cells, at least one.
      pairs: comparisons to make.
      curves: arms whose curves are drawn together; empty: all.
      notes: notes to put first.
      facts: how the study was made.
      resamples: number of bootstrap resamples.
      explored: comparisons that were named after some of the systems had been tested.
    """
    named = {system.name: system for system in systems}
    draws: dict[str, Draws] = {}
    for system in systems:
        digest = system.rows.digest
        if digest not in draws:
            draws[digest] = draw_users(system.rows.user.tolist(), resamples)
    said = list(notes)
    if len(draws) > 1:
        said.append("Not all systems were evaluated on the same rows; those on others cannot be compared with them.")
    comparisons, refused = _comparisons(named, pairs, draws)
    later, refused_later = _comparisons(named, explored, draws)
    drawn = [name for name in curves or named if name in named]
    soon = convergence([named[name] for name in drawn])
    first = systems[0].cells[0]
    return StudyReport(
        title=title,
        split=first.split,
        rows=len(first.rank),
        users=int(first.rows.user.max()) + 1,
        beams=min(system.cells[0].beams for system in systems),
        systems=[_result(system, draws[system.rows.digest], soon.get(system.name)) for system in systems],
        comparisons=holm_corrected(comparisons),
        explored=later,
        notes=[*said, *_tied(systems), *_started(systems), *refused, *refused_later],
        curves=drawn,
        fusions=_fusions(systems),
        facts=facts,
    )


def _tied(systems: Sequence[System]) -> list[str]:
    """How many targets share their time with other items of the user, if the data's folder says so."""
    said = []
    for cell in (cell for system in systems for cell in system.cells):
        share = cell.facts.get("ties", {}).get(cell.split, 0.0)
        if share:
            said.append(
                f"{100 * share:.1f} % of the {cell.split} rows have a target that shares its second with others of its "
                f"user; the order among these is {ORDERS[cell.facts['ties']['order']]}."
            )
    return list(dict.fromkeys(said))


def _started(systems: Sequence[System]) -> list[str]:
    """The loss of each arm before its first step, in one note."""
    said = []
    for system in systems:
        starts = [cell.facts["start"] for cell in system.cells if "start" in cell.facts]
        if starts:
            means = (sum(start[name] for start in starts) / len(starts) for name in ("constrained", "vocabulary"))
            said.append(f"{system.name} {' / '.join(f'{mean:.2f}' for mean in means)}")
    note = "Before the first step, nats per SID token among the tokens that may stand there / the whole vocabulary: "
    return [note + ", ".join(said)] if said else []


def _fusions(systems: Sequence[System]) -> list[tuple[str, Mapping[str, Any]]]:
    cells = (cell for system in systems for cell in system.cells if "fusion" in cell.facts)
    return [(f"{cell.name}, seed {cell.seed}", cell.facts["fusion"]) for cell in cells]


def _comparisons(
    named: Mapping[str, System], pairs: Sequence[tuple[str, str]], draws: Mapping[str, Draws]
) -> tuple[list[Comparison], list[str]]:
    """The comparisons that can be made, and why the others cannot."""
    made: list[Comparison] = []
    refused: list[str] = []
    for pair in pairs:
        text = " > ".join(pair)
        absent = [name for name in pair if name not in named]
        if absent:
            refused.append(f"Not compared: {text}; no finished cell of {' and '.join(absent)}.")
            continue
        first, second = (named[name] for name in pair)
        if first.rows.digest != second.rows.digest:
            refused.append(f"Not compared: {text}; they were evaluated on other rows.")
            continue
        if not common_seeds(first, second):
            refused.append(f"Not compared: {text}; they have no finished seed in common.")
            continue
        made.extend(compare_systems(first, second, metric, draws[first.rows.digest]) for metric in TESTED)
    return made, refused


def common_seeds(first: System, second: System) -> tuple[int, ...]:
    """Seeds by which two systems are paired; a system that no seed changes pairs with every seed of the other."""
    if not first.seeded:
        return second.seeds
    if not second.seeded:
        return first.seeds
    return tuple(seed for seed in first.seeds if seed in second.seeds)


def compare_systems(first: System, second: System, metric: str, draws: Draws) -> Comparison:
    """The paired comparison of two systems with the same rows and with seeds in common.

    Systems with different SIDs are compared at item level, since a SID-level hit does not mean the same for both.
    """
    level = "sid" if first.cells[0].sids == second.cells[0].sids else "item"
    seeds = common_seeds(first, second)
    values = [system.values(level, metric, seeds) for system in (first, second)]
    names = first.name, second.name
    return compare(names, (values[0], values[1]), draws, metric=metric, level=level, seeds=seeds)


def _result(system: System, draws: Draws, soon: Convergence | None) -> SystemResult:
    names = _metrics(system.cells[0].beams)
    tested = {metric: system.values("sid", metric) for metric in TESTED}
    means_RS = {metric: resampled(values_SN, draws) for metric, values_SN in tested.items()}
    bins = calibration(system)
    several = len(system.cells) > 1
    return SystemResult(
        name=system.name,
        kind=system.cells[0].kind,
        seeds=system.seeds,
        seeded=system.seeded,
        means={level: {name: float(system.values(level, name).mean()) for name in names} for level in LEVELS},
        deviations={
            metric: float(values_SN.mean(axis=1).std(ddof=1)) if several else None
            for metric, values_SN in tested.items()
        },
        intervals={
            metric: {
                "users": interval(means_RS[metric].mean(axis=1)),
                "seeds and users": interval(over_seeds(means_RS[metric], draws)) if several else None,
            }
            for metric in TESTED
        },
        beyond={key: _over_seeds(key, [cell.beyond.get(key) for cell in system.cells]) for key in BEYOND},
        cost={key: _over_seeds(key, [cell.cost.get(key) for cell in system.cells]) for key in COSTS},
        slices=slices(system),
        lost=lost_levels(system),
        calibration=bins,
        calibration_error=calibration_error(bins),
        curves={metric: points for metric in ("loss", "HR@10") if (points := _points(system, metric)) is not None},
        convergence=soon,
    )


def _over_seeds(key: str, values: Sequence[float | None]) -> float | None:
    """The mean over seeds, but for memory the maximum."""
    known = [value for value in values if value is not None]
    return float(max(known) if key == "memory" else np.mean(known)) if known else None


def _points(system: System, metric: str) -> CurvePoints | None:
    found = curve(system, metric)
    if found is None:
        return None
    value_SP = found.value_SP
    bounds = (found.mean_P.tolist(), value_SP.min(axis=0).tolist(), value_SP.max(axis=0).tolist())
    return CurvePoints(found.step_P.tolist(), *bounds)


def to_json(report: StudyReport) -> dict[str, Any]:
    """The contents of `study.json`."""
    return dataclasses.asdict(report)
