"""PNG plots of a run."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from tsrec_jax.evaluation.report import Report
from tsrec_jax.files import write_figure

# What `plot_training` draws for the first system: title, unit, and metrics, where NAME includes all metrics NAME/...
PANELS = (
    ("learning rate", "", ("learning_rate",)),
    ("gradient norm", "", ("grad_norm",)),
    ("update norm", "", ("update_norm",)),
    ("SID embeddings against SA-Init", "cosine, relative norm", ("drift",)),
    ("tokens per second", "", ("tokens_per_second",)),
    ("padding, waiting, MFU", "share", ("padding_share", "input_wait_share", "mfu")),
)
COLUMNS = 3


def plot_training(curves: Mapping[str, Sequence[Mapping[str, float]]], path: pathlib.Path) -> None:
    """Curves against steps: the first system's loss by task and training metrics, and the validation of all systems.

    Args:
      curves: {system: rows of its metrics.jsonl}; metrics that no row holds are left out.
      path: PNG to write.
    """
    main, rows = next(iter(curves.items()))
    losses = {name: _series(rows, name) for name in _under(rows, ("loss",))}
    panels = [(f"{main}: loss", "nats per token", losses)]
    for metric, title, unit in (
        ("valid/loss", "validation, next SID", "nats per token"),
        ("valid/hr@10", "validation, HR@10", ""),
    ):
        panels.append((title, unit, {system: _series(others, metric) for system, others in curves.items()}))
    for title, unit, names in PANELS:
        panels.append((title, unit, {name: _series(rows, name) for name in _under(rows, names)}))
    shown = [(title, unit, {k: v for k, v in lines.items() if v}) for title, unit, lines in panels]
    shown = [panel for panel in shown if panel[2]]
    columns = max(min(COLUMNS, len(shown)), 1)
    height = max(-(-len(shown) // columns), 1)
    figure, axes = pyplot.subplots(height, columns, figsize=(4.6 * columns, 3.4 * height), squeeze=False)
    for axis, (title, unit, lines) in zip(axes.flat, shown, strict=False):
        for name, points in lines.items():
            axis.plot(*zip(*points, strict=True), marker="o" if len(points) < 30 else None, markersize=3, label=name)
        axis.set(title=title, xlabel="step", ylabel=unit)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    figure.tight_layout()
    write_figure(path, figure)


def _series(rows: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    """(step, value) of a metric wherever it was logged as a number; a value that is not finite is stored as text."""
    return [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]


def _under(rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> list[str]:
    """The metrics of some rows whose name is one of these, or begins with one of these and a slash."""
    folders = tuple(f"{name}/" for name in names)
    return sorted({key for row in rows for key in row if key in names or key.startswith(folders)})


def plot_metrics(report: Report, path: pathlib.Path, shown: Sequence[str] = ("HR@10", "NDCG@10")) -> None:
    """SID-level metrics of all systems as bars, best first, with 95 % intervals, and the upper bound as a line."""
    figure, axes = pyplot.subplots(1, len(shown), figsize=(5.5 * len(shown), 1.4 + 0.4 * len(report.systems)))
    for axis, metric in zip(axes, shown, strict=True):
        means = {name: means["sid"][metric] for name, means in report.systems.items()}
        names = sorted(means, key=means.__getitem__, reverse=True)
        bounds = [report.intervals[name]["sid"][metric] for name in names]
        below = [max(means[name] - low, 0.0) for name, (low, _) in zip(names, bounds, strict=True)]
        above = [max(high - means[name], 0.0) for name, (_, high) in zip(names, bounds, strict=True)]
        colours = [f"C{list(means).index(name)}" for name in names]
        axis.barh(names, [means[name] for name in names], xerr=[below, above], capsize=4, color=colours)
        axis.invert_yaxis()
        if report.upper_bound is not None:
            axis.axvline(report.upper_bound[metric], linestyle="--", color="black", label="upper bound")
            axis.legend(fontsize=8)
        axis.set(title=f"SID-level {metric}")
        axis.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    write_figure(path, figure)
