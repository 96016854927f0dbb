"""PNG plots of semantic IDs."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot

from tsrec_jax.files import write_figure
from tsrec_jax.sid.quality import SidReport


def plot_sids(report: SidReport, codes_IC: np.ndarray, sizes: Sequence[int], path: pathlib.Path) -> None:
    """Plots items per code, most used first, one line per level; and items per node, one line per depth.

    Args:
      report: gives the title.
      codes_IC: int codes of the items.
      sizes: number of codes on each level.
      path: PNG to write.
    """
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    for level, size in enumerate(sizes):
        counts_E = np.sort(np.bincount(codes_IC[:, level], minlength=size))[::-1]
        left.step(np.arange(1, size + 1) / size, counts_E, where="mid", label=f"level {level + 1}")
        nodes = np.unique(codes_IC[:, : level + 1], axis=0, return_counts=True)[1]
        items, share = np.unique(nodes, return_counts=True)
        right.plot(items, share / share.sum(), marker=".", label=f"{level + 1} level(s)")
    left.set(title=report.summary.split(", code use")[0], xlabel="share of the codes, most used first", ylabel="items")
    right.set(title="sizes of nodes", xlabel="items of a node", ylabel="share of the nodes", xscale="log", yscale="log")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    write_figure(path, figure)
