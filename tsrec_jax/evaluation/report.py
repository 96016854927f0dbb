"""The report of a run: `results.json` for programs, `results.md` and a table for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tsrec_jax.evaluation.compare import Comparison
from tsrec_jax.evaluation.metrics import LEVELS, Metrics, bootstrap_interval

SHOWN = ("HR@1", "HR@3", "HR@5", "HR@10", "HR@20", "NDCG@3", "NDCG@5", "NDCG@10", "NDCG@20")


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything that is published of one evaluation.

    Attributes:
      dataset, split, rows, beams, invalid: what was evaluated; `invalid` counts predicted SIDs outside the catalogue.
      systems: {name: metrics}, the main system first, baselines after it.
      intervals: {name: {"sid" | "item": {metric: (low, high)}}}, 95 %.
      comparisons: {"A against B": comparison}.
      upper_bound: SID-level metrics of the process that generated the data, where it is known.
      training: {name: facts of its training}.
      facts: command, config, seed, data hash, commit, machine, versions.
    """

    dataset: str
    split: str
    rows: int
    beams: int
    invalid: int
    systems: Mapping[str, Metrics]
    intervals: Mapping[str, Mapping[str, Mapping[str, tuple[float, float]]]]
    comparisons: Mapping[str, Comparison]
    upper_bound: Mapping[str, float] | None
    training: Mapping[str, Any]
    facts: Mapping[str, Any]


def intervals_of(metrics: Metrics, resamples: int, seed: int) -> dict[str, dict[str, tuple[float, float]]]:
    """95 % intervals of every metric at both levels."""
    return {
        level: {
            name: bootstrap_interval(values, resamples=resamples, seed=seed)
            for name, values in metrics.per_row[level].items()
        }
        for level in LEVELS
    }


def to_json(report: Report) -> dict[str, Any]:
    """The contents of `results.json`; its top level speaks of the main system."""
    main = next(iter(report.systems))
    return {
        "dataset": report.dataset,
        "split": report.split,
        "rows": report.rows,
        "beams": report.beams,
        "invalid": report.invalid,
        "metrics": {"sid": dict(report.systems[main].sid), "item": dict(report.systems[main].item)},
        "intervals": report.intervals[main],
        "systems": {
            name: {"sid": dict(m.sid), "item": dict(m.item), "intervals": report.intervals[name]}
            for name, m in report.systems.items()
        },
        "comparisons": {name: dataclasses.asdict(comparison) for name, comparison in report.comparisons.items()},
        "upper_bound": report.upper_bound,
        "training": dict(report.training),
        **report.facts,
    }


def format_table(report: Report, level: str = "sid") -> str:
    """An aligned table of all systems at one level; also valid markdown."""
    shown = [name for name in SHOWN if name in next(iter(report.systems.values())).sid]
    rows = [["system", *shown]]
    for name, metrics in report.systems.items():
        rows.append([name, *(f"{getattr(metrics, level)[metric]:.4f}" for metric in shown)])
    if report.upper_bound is not None and level == "sid":
        rows.append(["upper bound", *(f"{report.upper_bound[metric]:.4f}" for metric in shown)])
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A markdown table whose first row is the header; all columns but the first are set to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("| " + " | ".join(cells) + " |")
        if number == 0:
            lines.append("|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|")
    return "\n".join(lines)


def to_markdown(report: Report) -> str:
    """The contents of `results.md`."""
    main = next(iter(report.systems))
    shown = [name for name in SHOWN if name in report.systems[main].sid]
    interval_rows = [["system", *shown]]
    for name in report.systems:
        bounds = report.intervals[name]["sid"]
        interval_rows.append([name, *(f"{bounds[m][0]:.4f} to {bounds[m][1]:.4f}" for m in shown)])
    parts = [
        f"# Results on {report.dataset} ({report.split}, {report.rows} rows, {report.beams} beams)",
        f"Invalid SIDs among the predictions: {report.invalid}.",
        "## SID level\n\n" + format_table(report, "sid"),
        "95 % intervals (bootstrap over rows):\n\n" + aligned(interval_rows),
        "## Item level\n\nExpected values under a uniform tie among the items of a colliding SID.\n\n"
        + format_table(report, "item"),
    ]
    if report.upper_bound is not None:
        parts.append(
            "The upper bound ranks every item by its probability under the process that generated the histories: "
            "no recommender can be better in expectation."
        )
    if report.comparisons:
        rows = [["comparison", "metric", "first", "second", "difference", "95 % interval", "p"]]
        for name, c in report.comparisons.items():
            interval = f"{c.interval[0]:+.4f} to {c.interval[1]:+.4f}"
            rows.append(
                [
                    name,
                    c.metric,
                    f"{c.first:.4f}",
                    f"{c.second:.4f}",
                    f"{c.difference:+.4f}",
                    interval,
                    f"{c.p_value:.3f}",
                ]
            )
        parts.append("## Paired comparisons (bootstrap over rows, one seed)\n\n" + aligned(rows))
    if report.training:
        rows = [["system", "steps", "best step", "best validation value", "seconds"]]
        for name, facts in report.training.items():
            value = f"{facts['best_value']:.4f}"
            rows.append([name, str(facts["steps"]), str(facts["best_step"]), value, f"{facts['seconds']:.0f}"])
        parts.append("## Training\n\n" + aligned(rows))
    facts = "\n".join(f"- {key}: {_fact(value)}" for key, value in report.facts.items() if key != "config")
    parts.append("## How this was made\n\n" + facts)
    return "\n\n".join(parts) + "\n"


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {entry}" for key, entry in value.items())
    return f"`{value}`"
