"""A study's report as markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from tsrec_jax.data.target_ranks import LEVELS
from tsrec_jax.evaluation.fusion_table import fusion_section
from tsrec_jax.evaluation.report import (
    UNKNOWN,
    amount,
    beyond_section,
    comparison_table,
    holm,
    p_value,
    relative,
    test_interval,
)
from tsrec_jax.evaluation.statistics import RESAMPLES, Comparison
from tsrec_jax.evaluation.study_report import TESTED, StudyReport, SystemResult
from tsrec_jax.evaluation.study_slices import SHARE_OF_BEST, SLICED
from tsrec_jax.text_table import fact_list, markdown_table

COST_TITLES = {"flops": "FLOPs", "memory": "peak memory", "request_flops": "FLOPs of a request"}  # others: their name
LATEX_SIGNS = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def _value(value: float | None, form: str = ".4f") -> str:
    return UNKNOWN if value is None else format(value, form)


def _range(bounds: tuple[float, float] | None, form: str = ".4f") -> str:
    return UNKNOWN if bounds is None else f"{bounds[0]:{form}} to {bounds[1]:{form}}"


def _cost(key: str, value: float | None) -> str:
    if key == "memory":
        return UNKNOWN if value is None else f"{value / 2**30:.2f} GiB"
    return (
        amount(value) if key in ("parameters", "tokens", "flops", "request_flops", "examples") else _value(value, ".0f")
    )


def to_markdown(report: StudyReport) -> str:
    """The contents of `study.md`."""
    head = f"# {report.title}: {report.split} split, {report.rows} rows of {report.users} users, {report.beams} places"
    parts = [
        head,
        *((_main(report.comparisons[0]), _comparisons(report.comparisons)) if report.comparisons else ()),
        _explored(report.explored) if report.explored else "",
        "\n".join(f"- {note}" for note in report.notes),
        "## Quality\n\nSID level, means over seeds.\n\n" + _quality(report, "sid"),
        _spread(report),
        "Item level, the expected value under a uniform tie among the items of a colliding SID:\n\n"
        + _quality(report, "item"),
        _beyond(report),
        fusion_section(report.fusions),
        _costs(report),
        *_slices(report),
        _lost(report),
        _calibration(report),
        _convergence(report),
    ]
    parts.append("## How this was made\n\n" + fact_list(report.facts))
    return "\n\n".join(part for part in parts if part) + "\n"


def _main(c: Comparison) -> str:
    """The first comparison in a sentence."""
    text = (
        f"**{c.first} against {c.second}**: {c.metric} {c.first_mean:.4f} against {c.second_mean:.4f} at {c.level} "
        f"level ({relative(c)}); over users 95 % {test_interval(c.users)}, p = {p_value(c.users)}"
    )
    if c.seeds_and_users is None:
        return f"{text}. One seed."
    return (
        f"{text}; over seeds and users {test_interval(c.seeds_and_users)}, p = {p_value(c.seeds_and_users)}; "
        f"above in {c.better} of {len(c.seeds)} seeds."
    )


def _quality(report: StudyReport, level: str) -> str:
    rows = [["system", "seeds", *report.metrics]]
    for system in report.systems:
        rows.append([system.name, _seeds(system), *(f"{system.means[level][name]:.4f}" for name in report.metrics)])
    return markdown_table(rows)


def _seeds(system: SystemResult) -> str:
    return str(len(system.seeds)) if system.seeded else "any"


def _spread(report: StudyReport) -> str:
    header = ["system"]
    for metric in TESTED:
        header += [f"{metric} std over seeds", f"{metric} 95 %, users", f"{metric} 95 %, seeds and users"]
    rows = [header]
    for system in report.systems:
        row = [system.name]
        for metric in TESTED:
            bounds = system.intervals[metric]
            row += [_value(system.deviations[metric]), _range(bounds["users"]), _range(bounds["seeds and users"])]
        rows.append(row)
    return f"Spread (SID level, {RESAMPLES} resamples; with one seed that of seeds is not known):\n\n" + markdown_table(
        rows
    )


def _comparisons(comparisons: Sequence[Comparison]) -> str:
    return (
        "## Paired tests\n\nOf the means over the seeds that both have. p is two-sided; that over users speaks of "
        "these trained models, that over seeds and users of the method (docs/studies.md). The last column is "
        "corrected for the number of comparisons in the same metric. Systems with other SIDs are compared at item "
        "level.\n\n" + comparison_table(comparisons)
    )


def _explored(comparisons: Sequence[Comparison]) -> str:
    return (
        "### Named later\n\nNamed after some of the systems had been tested: they suggest what other seeds or "
        "data would have to confirm; nothing is corrected for their number.\n\n" + comparison_table(comparisons)
    )


def _beyond(report: StudyReport) -> str:
    if not report.beyond:
        return ""
    return beyond_section((system.name, system.means, system.beyond) for system in report.systems)


def _costs(report: StudyReport) -> str:
    rows = [["system", *TESTED, *(COST_TITLES.get(key, key) for key in report.costs)]]
    for system in report.systems:
        costs = [_cost(key, system.cost[key]) for key in report.costs]
        rows.append([system.name, *(f"{system.means['sid'][metric]:.4f}" for metric in TESTED), *costs])
    return (
        "## Cost\n\nOf one seed, the mean over seeds, and of training but for the last column. Seconds hold the "
        "validations. FLOPs are those of the matrix products of all steps, without what is computed twice, and of the "
        "search for one prompt of mean length; peak memory is that of the process on the host, "
        "evaluation included, the most of all seeds.\n\n" + markdown_table(rows)
    )


def _slices(report: StudyReport) -> list[str]:
    sections = []
    for kind, parts in report.systems[0].slices.items():
        title = {"target": "Cold and warm targets"}.get(kind, f"By {kind}")
        rows = [["system", *(f"{part.name}: {metric}" for part in parts for metric in SLICED)]]
        for system in report.systems:
            rows.append([system.name, *(_value(p.means[m]) for p in system.slices[kind] for m in SLICED)])
        counts = ", ".join(f"{part.name}: {part.rows}" for part in parts)
        cold = " Cold: never a target in train." if kind == "target" else ""
        text = f"{title}\n\nSID level.{cold} Rows ({report.systems[0].name}): {counts}."
        sections.append(f"## {text}\n\n{markdown_table(rows)}")
    return sections


def _lost(report: StudyReport) -> str:
    levels = max(len(system.lost) for system in report.systems) - 1
    rows = [["system", *(f"level {level}" for level in range(1, levels + 1)), "listed"]]
    for system in report.systems:
        shares = [*system.lost[:-1], *[None] * (levels + 1 - len(system.lost)), system.lost[-1]]
        rows.append([system.name, *(_value(share, ".3f") for share in shares)])
    return (
        f"## Where the target is lost\n\nShare of rows by the first level at which none of the {report.beams} listed "
        "SIDs goes on as the target's SID.\n\n" + markdown_table(rows)
    )


def _calibration(report: StudyReport) -> str:
    systems = [system for system in report.systems if system.calibration]
    if not systems:
        return ""
    rows = [["system", "probability of the first SID", "rows", "mean", "HR@1"]]
    for system in systems:
        for each in system.calibration:
            bounds = f"{each.low:.2f} to {each.high:.2f}"
            rows.append([system.name, bounds, str(each.rows), f"{each.confidence:.3f}", f"{each.hits:.3f}"])
    errors = ", ".join(f"{system.name} {system.calibration_error:.4f}" for system in systems)
    return (
        "## Calibration\n\nThe probability that a system gives its first SID, against how often it is right, over all "
        f"seeds. Expected calibration error: {errors}.\n\n" + markdown_table(rows)
    )


def _convergence(report: StudyReport) -> str:
    found = {system.name: system.convergence for system in report.systems if system.convergence is not None}
    if not found:
        return ""
    rows = [["system", "final HR@10", "step, mean of seeds", "step of each seed"]]
    for name, each in found.items():
        steps = ["none" if step is None else str(step) for step in (each.step, *each.of_seeds)]
        rows.append([name, f"{each.final:.4f}", steps[0], ", ".join(steps[1:])])
    threshold = next(iter(found.values())).threshold
    return (
        f"## Convergence\n\nThe first validation with HR@10 of {threshold:.4f} or more: {SHARE_OF_BEST:.0%} of the "
        "best final value; `plots/curves.png`. A curve ends where the first seed stopped.\n\n" + markdown_table(rows)
    )


def to_csv(report: StudyReport) -> str:
    """The contents of `study.csv`: one row per system, with everything about it that is a single number."""
    found = [_columns(system, report) for system in report.systems]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(found[0])
    for columns in found:
        writer.writerow(
            ["" if v is None else format(v, ".6g") if isinstance(v, float) else v for v in columns.values()]
        )
    return text.getvalue()


def _columns(system: SystemResult, report: StudyReport) -> dict[str, Any]:
    columns: dict[str, Any] = {"system": system.name, "kind": system.kind, "seeds": " ".join(map(str, system.seeds))}
    columns |= {f"{level} {metric}": system.means[level][metric] for level in LEVELS for metric in report.metrics}
    columns |= {metric: system.beyond[metric] for metric in report.beyond}
    for metric in TESTED:
        columns[f"std {metric}"] = system.deviations[metric]
        for over in ("users", "seeds and users"):
            low, high = system.intervals[metric][over] or (None, None)
            columns |= {f"{metric} {over} low": low, f"{metric} {over} high": high}
    columns |= {key: system.cost[key] for key in report.costs}
    return columns | {
        f"{part.name} {metric}": part.means[metric] for part in system.slices["target"] for metric in SLICED
    }


def to_latex(report: StudyReport) -> str:
    r"""The contents of `study.tex`: the tables of quality and of paired tests, for a document with `booktabs`."""
    rows = [["System", "Seeds", *report.metrics]]
    for system in report.systems:
        rows.append([system.name, _seeds(system), *(f"{system.means['sid'][m]:.4f}" for m in report.metrics)])
    caption = f"{report.title}: {report.split} split, {report.rows} rows, SID level, means over seeds."
    parts = ["% Needs \\usepackage{booktabs}.", _latex(rows, caption)]
    if report.comparisons:
        rows = [
            [
                "Comparison",
                "Metric",
                "Seeds",
                "Difference",
                "Relative",
                "95 % (users)",
                "p",
                "p (seeds, users)",
                "p (Holm)",
            ]
        ]
        for c in report.comparisons:
            row = [f"{c.first} > {c.second}", f"{c.metric} ({c.level})", str(len(c.seeds)), f"{c.difference:+.4f}"]
            tests = test_interval(c.users), p_value(c.users), p_value(c.seeds_and_users), holm(c)
            rows.append([*row, relative(c), *tests])
        parts.append(_latex(rows, "Paired tests, bootstrap over users, and over seeds and users."))
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Text as LaTeX writes it."""
    return "".join(LATEX_SIGNS.get(sign, sign) for sign in text)


def _latex(rows: Sequence[Sequence[str]], caption: str) -> str:
    lines = [" & ".join(map(escaped, row)) + r" \\" for row in rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escaped(caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )
