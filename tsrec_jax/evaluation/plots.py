"""PNG plots of a run."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from tsrec_jax.evaluation.metrics import Metrics


def _save(figure: pyplot.Figure, path: pathlib.Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.stem + ".tmp.png")
    figure.savefig(temporary, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
    os.replace(temporary, path)


def plot_training(curves: Mapping[str, Sequence[Mapping[str, float]]], path: pathlib.Path) -> None:
    """Loss of every system against steps: the training terms of the first one, the validation of all.

    Args:
      curves: {system: rows of its metrics.jsonl}.
      path: PNG to write.
    """
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    main, rows = next(iter(curves.items()))
    for name in sorted({key for row in rows for key in row if key == "loss" or key.startswith("loss/")}):
        points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), float)]
        left.plot(*zip(*points, strict=True), label=name.removeprefix("loss/") if "/" in name else "combined")
    left.set(title=f"{main}: training loss", xlabel="step", ylabel="nats per token")
    for system, system_rows in curves.items():
        points = [(row["step"], row["valid/loss"]) for row in system_rows if "valid/loss" in row]
        if points:
            right.plot(*zip(*points, strict=True), marker="o", label=system)
    right.set(title="validation, next SID", xlabel="step", ylabel="nats per token")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    _save(figure, path)


def plot_metrics(
    systems: Mapping[str, Metrics],
    intervals: Mapping[str, Mapping[str, Mapping[str, tuple[float, float]]]],
    upper_bound: Mapping[str, float] | None,
    path: pathlib.Path,
    shown: Sequence[str] = ("HR@10", "NDCG@10"),
) -> None:
    """SID-level metrics of all systems as bars with their 95 % intervals, and the upper bound as a line."""
    figure, axes = pyplot.subplots(1, len(shown), figsize=(5.5 * len(shown), 4))
    for axis, metric in zip(axes, shown, strict=True):
        means = [metrics.sid[metric] for metrics in systems.values()]
        bounds = [intervals[name]["sid"][metric] for name in systems]
        below = [max(mean - low, 0.0) for mean, (low, _) in zip(means, bounds, strict=True)]
        above = [max(high - mean, 0.0) for mean, (_, high) in zip(means, bounds, strict=True)]
        axis.bar(list(systems), means, yerr=[below, above], capsize=4, color=[f"C{n}" for n in range(len(means))])
        if upper_bound is not None:
            axis.axhline(upper_bound[metric], linestyle="--", color="black", label="upper bound")
            axis.legend(fontsize=8)
        axis.set(title=f"SID-level {metric}")
        axis.tick_params(axis="x", rotation=20)
        axis.grid(axis="y", alpha=0.3)
    _save(figure, path)
