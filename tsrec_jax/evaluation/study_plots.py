"""PNG plots of a study."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from matplotlib import pyplot

from tsrec_jax.evaluation.statistics import Comparison
from tsrec_jax.evaluation.study_report import TESTED, StudyReport, SystemResult
from tsrec_jax.files import write_figure

COSTS = (("seconds", "seconds of training"), ("flops", "FLOPs of training"))


def plot_study(report: StudyReport, folder: pathlib.Path) -> None:
    """Writes the plots that the finished cells allow: metrics, comparisons, curves, cost, slices, calibration."""
    _metrics(report.systems, folder / "metrics.png")
    if report.comparisons:
        _comparisons(report.comparisons, folder / "comparisons.png")
    drawn = [system for system in report.systems if system.name in report.curves and system.curves]
    if drawn:
        _curves(drawn, folder / "curves.png")
    trained = [system for system in report.systems if all(system.cost[key] for key, _ in COSTS)]
    if trained:
        _cost(trained, folder / "cost.png")
    _slices(report.systems, folder / "slices.png")
    calibrated = [system for system in report.systems if system.calibration]
    if calibrated:
        _calibration(calibrated, folder / "calibration.png")


def _metrics(systems: Sequence[SystemResult], path: pathlib.Path) -> None:
    """Means with their widest known interval: over seeds and users, or over users."""
    figure, axes = pyplot.subplots(1, len(TESTED), figsize=(5.5 * len(TESTED), 1.2 + 0.35 * len(systems)), sharey=True)
    places = range(len(systems))
    for axis, metric in zip(axes, TESTED, strict=True):
        for place, system in zip(places, systems, strict=True):
            mean, bounds = system.means["sid"][metric], system.intervals[metric]
            _point(
                axis, mean, bounds["seeds and users"] or bounds["users"], place, "C0" if system.kind == "arm" else "C7"
            )
        axis.set(title=f"SID-level {metric}, 95 %", yticks=list(places), yticklabels=[s.name for s in systems])
        axis.grid(axis="x", alpha=0.3)
    axes[0].invert_yaxis()
    write_figure(path, figure)


def _point(axis: pyplot.Axes, mean: float, bounds: tuple[float, float], place: float, colour: str) -> None:
    error = [[max(mean - bounds[0], 0.0)], [max(bounds[1] - mean, 0.0)]]
    axis.errorbar(mean, place, xerr=error, fmt="o", color=colour, capsize=3)


def _comparisons(comparisons: Sequence[Comparison], path: pathlib.Path) -> None:
    """Differences with both of their intervals."""
    names = list(dict.fromkeys((c.first, c.second) for c in comparisons))
    figure, axes = pyplot.subplots(1, len(TESTED), figsize=(5.5 * len(TESTED), 1.4 + 0.45 * len(names)), sharey=True)
    for axis, metric in zip(axes, TESTED, strict=True):
        for c in (each for each in comparisons if each.metric == metric):
            place = names.index((c.first, c.second))
            _point(axis, c.difference, c.users.interval, place - 0.1, "C0")
            if c.seeds_and_users is not None:
                _point(axis, c.difference, c.seeds_and_users.interval, place + 0.15, "C1")
        axis.axvline(0.0, color="black", linewidth=0.8)
        axis.set(title=f"difference in {metric}, 95 %", yticks=range(len(names)))
        axis.set_yticklabels([f"{first} > {second}" for first, second in names])
        axis.grid(axis="x", alpha=0.3)
    axes[0].invert_yaxis()
    axes[0].plot([], [], "o-", color="C0", label="users")
    axes[0].plot([], [], "o-", color="C1", label="seeds and users")
    axes[0].legend(fontsize=7)
    write_figure(path, figure)


def _curves(systems: Sequence[SystemResult], path: pathlib.Path) -> None:
    """Validation against steps: the mean over seeds and the band from the lowest to the highest seed."""
    shown = [metric for metric in ("HR@10", "loss") if any(metric in system.curves for system in systems)]
    figure, axes = pyplot.subplots(1, len(shown), figsize=(6.0 * len(shown), 4.2), squeeze=False)
    for axis, metric in zip(axes[0], shown, strict=True):
        for number, system in enumerate(systems):
            points = system.curves.get(metric)
            if points is not None:
                colour = f"C{number % 10}"
                style = ("-", "--", ":")[number // 10 % 3]
                axis.plot(points.steps, points.mean, style, color=colour, marker="o", markersize=3, label=system.name)
                axis.fill_between(points.steps, points.low, points.high, color=colour, alpha=0.15)
        axis.set(title=f"validation, next SID: {metric}", xlabel="step")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    write_figure(path, figure)


def _cost(systems: Sequence[SystemResult], path: pathlib.Path) -> None:
    figure, axes = pyplot.subplots(1, len(COSTS), figsize=(6.0 * len(COSTS), 4.2), sharey=True)
    for axis, (key, title) in zip(axes, COSTS, strict=True):
        for number, system in enumerate(systems):
            place = system.cost[key], system.means["sid"]["NDCG@10"]
            axis.plot(*place, "o", color=f"C{number % 10}")
            axis.annotate(system.name, place, textcoords="offset points", xytext=(4, 4), fontsize=7)
        axis.set(xscale="log", xlabel=title, ylabel="NDCG@10")
        axis.grid(alpha=0.3)
    write_figure(path, figure)


def _slices(systems: Sequence[SystemResult], path: pathlib.Path) -> None:
    """HR@10 by kind of row, a line a system."""
    kinds = list(systems[0].slices)
    figure, axes = pyplot.subplots(1, len(kinds), figsize=(4.6 * len(kinds), 4.0), sharey=True)
    for axis, kind in zip(axes, kinds, strict=True):
        for number, system in enumerate(systems):
            parts = [part for part in system.slices[kind] if part.rows]
            values = [part.means["HR@10"] for part in parts]
            style = ("o-", "s--", "^:")[number // 10 % 3]
            axis.plot([part.name for part in parts], values, style, color=f"C{number % 10}", label=system.name)
        axis.set(title=f"HR@10 by {kind}")
        axis.grid(alpha=0.3)
    axes[-1].legend(fontsize=6)
    write_figure(path, figure)


def _calibration(systems: Sequence[SystemResult], path: pathlib.Path) -> None:
    figure, axis = pyplot.subplots(figsize=(5.0, 4.6))
    for number, system in enumerate(systems):
        points = [(each.confidence, each.hits) for each in system.calibration]
        axis.plot(*zip(*points, strict=True), "o-", color=f"C{number % 10}", label=system.name)
    axis.plot([0, 1], [0, 1], "--", color="black", linewidth=0.8)
    axis.set(xlabel="probability of the first SID", ylabel="HR@1", title="calibration")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    write_figure(path, figure)
