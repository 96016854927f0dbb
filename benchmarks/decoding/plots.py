"""PNG plots: latency against beams and against the number of items."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from benchmarks.decoding.comparison import OURS
from benchmarks.decoding.curves import named
from tsrec_jax.files import write_figure


def plot_latency(points: Sequence[dict[str, Any]], axis: str, title: str, path: pathlib.Path) -> None:
    """Median latency of one batch against `axis` (a key of the points), both logarithmic; one line a method.

    Latencies are multiples of ours at the first point.
    """
    ticks = [point[axis] for point in points]
    figure, plot = pyplot.subplots(figsize=(6.5, 4))
    one = points[0]["medians"][OURS]
    for name in named(list(points)):
        line = [(point[axis], point["medians"][name] / one) for point in points if name in point["medians"]]
        plot.plot(*zip(*line, strict=True), marker="o", label=name, linewidth=2.5 if name == "ours" else 1.2)
    plot.set(title=title, xlabel=axis, ylabel=f"of ours at {ticks[0]:,} {axis}", xscale="log", yscale="log")
    plot.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    plot.minorticks_off()
    plot.grid(alpha=0.3)
    plot.legend(fontsize=8)
    write_figure(path, figure)
