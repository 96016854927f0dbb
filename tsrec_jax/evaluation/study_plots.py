"""PNG plots of a study. Where colours distinguish systems, at most MOST are drawn, the compared ones first."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tsrec_jax.evaluation.statistics import Comparison
from tsrec_jax.evaluation.study_report import TESTED, StudyReport, SystemResult
from tsrec_jax.files import write_figure

MOST = 8
COSTS = (("seconds", "seconds of training"), ("flops", "FLOPs of training"))


def plot_study(report: StudyReport, folder: pathlib.Path) -> None:
    """Writes the plots that the finished cells allow: metrics, comparisons, curves, cost, slices, calibration."""
    systems = report.compared_first
    plots = {"metrics": _metrics(report.systems), "slices": _slices(systems[:MOST])}
    if report.comparisons:
        plots["comparisons"] = _comparisons(report.comparisons)
    if drawn := [system for system in systems if system.name in report.curves and system.curves]:
        plots["curves"] = _curves(drawn[:MOST])
    if trained := [system for system in systems if all(system.cost[key] for key, _ in COSTS)]:
        plots["cost"] = _cost(trained)
    if calibrated := [system for system in systems if system.calibration]:
        plots["calibration"] = _calibration(calibrated[:MOST])
    for name, figure in plots.items():
        write_figure(folder / f"{name}.png", figure)


def _legend(figure: Figure, axis: Axes) -> None:
    """A legend for the axis's lines, to the right of all axes."""
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper", fontsize=8)


def _metrics(systems: Sequence[SystemResult]) -> Figure:
    """Means, best first, with their widest known interval: over seeds and users, or over users."""
    systems = sorted(systems, key=lambda system: system.means["sid"][TESTED[0]])
    size = (5.5 * len(TESTED), 1.2 + 0.22 * len(systems))
    figure, axes = pyplot.subplots(1, len(TESTED), figsize=size, sharey=True, layout="constrained")
    for axis, metric in zip(axes, TESTED, strict=True):
        for kind, colour in (("arm", "C0"), ("baseline", "C7")):
            for place, system in enumerate(systems):
                bounds = system.intervals[metric]["seeds and users"] or system.intervals[metric]["users"]
                if system.kind == kind:
                    _point(axis, system.means["sid"][metric], bounds, place, colour)
            axis.plot([], [], "o-", color=colour, label=kind)
        axis.set(title=f"SID-level {metric}, 95 %", yticks=range(len(systems)), yticklabels=[s.name for s in systems])
        axis.margins(y=0.02)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8, loc="lower right")
    return figure


def _point(axis: Axes, mean: float, bounds: tuple[float, float] | None, place: float, colour: str) -> None:
    low, high = bounds or (mean, mean)
    error = [[max(mean - low, 0.0)], [max(high - mean, 0.0)]]
    axis.errorbar(mean, place, xerr=error, fmt="o", color=colour, capsize=2, markersize=4)


def _comparisons(comparisons: Sequence[Comparison]) -> Figure:
    """Differences with both of their intervals, in the order of the config, the main one on top."""
    names = list(dict.fromkeys((c.first, c.second) for c in comparisons))
    size = (5.5 * len(TESTED), 1.2 + 0.24 * len(names))
    figure, axes = pyplot.subplots(1, len(TESTED), figsize=size, sharey=True, layout="constrained")
    for axis, metric in zip(axes, TESTED, strict=True):
        for c in (each for each in comparisons if each.metric == metric):
            place = names.index((c.first, c.second))
            _point(axis, c.difference, c.users.interval, place - 0.12, "C0")
            if c.seeds_and_users is not None:
                _point(axis, c.difference, c.seeds_and_users.interval, place + 0.16, "C1")
        axis.axvline(0.0, color="black", linewidth=0.8)
        axis.set(title=f"difference in {metric}, 95 %", yticks=range(len(names)))
        axis.set_yticklabels([f"{first} > {second}" for first, second in names])
        axis.margins(y=0.02)
        axis.grid(alpha=0.3)
    axes[0].invert_yaxis()
    for label, colour in (("users", "C0"), ("seeds and users", "C1")):
        axes[0].plot([], [], "o-", color=colour, label=label)
    _legend(figure, axes[0])
    return figure


def _curves(systems: Sequence[SystemResult]) -> Figure:
    """Validation against steps: the mean over seeds and the band from the lowest to the highest seed."""
    shown = [metric for metric in ("HR@10", "loss") if any(metric in system.curves for system in systems)]
    size = (4.6 * len(shown) + 2.6, 4.0)
    figure, axes = pyplot.subplots(1, len(shown), figsize=size, squeeze=False, layout="constrained")
    for axis, metric in zip(axes[0], shown, strict=True):
        for number, system in enumerate(systems):
            if points := system.curves.get(metric):
                line = {"color": f"C{number}", "marker": "o", "markersize": 3, "label": system.name}
                axis.plot(points.steps, points.mean, **line)
                axis.fill_between(points.steps, points.low, points.high, color=f"C{number}", alpha=0.15)
        axis.set(title=f"validation, next SID: {metric}", xlabel="step")
        axis.grid(alpha=0.3)
    _legend(figure, axes[0][0])
    return figure


def _cost(systems: Sequence[SystemResult]) -> Figure:
    size = (4.6 * len(COSTS) + 2.6, 4.0)
    figure, axes = pyplot.subplots(1, len(COSTS), figsize=size, sharey=True, layout="constrained")
    for axis, (key, title) in zip(axes, COSTS, strict=True):
        places = [(system.cost[key], system.means["sid"]["NDCG@10"]) for system in systems]
        for number, (system, place) in enumerate(zip(systems[:MOST], places, strict=False)):
            axis.plot(*place, "o", color=f"C{number}", label=system.name, zorder=3)
        if places[MOST:]:
            axis.plot(*zip(*places[MOST:], strict=True), "o", color="lightgrey", markersize=4, label="others")
        axis.set(xscale="log", xlabel=title)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("NDCG@10")
    _legend(figure, axes[0])
    return figure


def _slices(systems: Sequence[SystemResult]) -> Figure:
    """HR@10 by kind of row, one line per system."""
    kinds = list(systems[0].slices)
    size = (3.6 * len(kinds) + 2.6, 3.6)
    figure, axes = pyplot.subplots(1, len(kinds), figsize=size, sharey=True, layout="constrained")
    for axis, kind in zip(axes, kinds, strict=True):
        for number, system in enumerate(systems):
            parts = [part for part in system.slices[kind] if part.rows]
            values = [part.means["HR@10"] for part in parts]
            axis.plot([part.name for part in parts], values, "o-", color=f"C{number}", markersize=4, label=system.name)
        axis.set(title=f"HR@10 by {kind}")
        axis.grid(alpha=0.3)
    _legend(figure, axes[0])
    return figure


def _calibration(systems: Sequence[SystemResult]) -> Figure:
    figure, axis = pyplot.subplots(figsize=(7.2, 4.2), layout="constrained")
    for number, system in enumerate(systems):
        points = [(each.confidence, each.hits) for each in system.calibration]
        axis.plot(*zip(*points, strict=True), "o-", color=f"C{number}", markersize=4, label=system.name)
    axis.plot([0, 1], [0, 1], "--", color="black", linewidth=0.8)
    axis.set(xlabel="probability of the first SID", ylabel="HR@1", title="calibration")
    axis.grid(alpha=0.3)
    _legend(figure, axis)
    return figure
