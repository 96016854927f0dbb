"""The report of a run: `results.json` for programs, `results.md` and a table for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tsrec_jax.data.target_ranks import SHOWN
from tsrec_jax.evaluation.before_after import BeforeAfter
from tsrec_jax.evaluation.beyond import BEYOND, CUT, Beyond
from tsrec_jax.evaluation.fusion_table import fusion_section
from tsrec_jax.evaluation.statistics import Comparison, PairedTest
from tsrec_jax.text_table import fact_list, markdown_table

Means = Mapping[str, Mapping[str, float]]  # {"sid" | "item": {metric: mean}}
Intervals = Mapping[str, Mapping[str, tuple[float, float]]]  # {"sid" | "item": {metric: 95 % interval}}
UNKNOWN = "n/a"
UNITS = (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
ACCURACY = ("HR@10", "NDCG@10")  # shown next to the metrics beyond accuracy


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything that is published about one evaluation.

    Attributes:
      dataset, split, rows, users, beams, invalid: what was evaluated; `invalid` counts predicted SIDs outside the
        catalogue.
      systems: {name: means}, the main system first, baselines after it.
      intervals: {name: 95 % intervals over users}.
      beyond: {name: coverage, popularity bias and the like, as in `beyond`}.
      comparisons: comparisons of the main system with each other system.
      upper_bound: SID-level metrics of the process that generated the data, if it is known.
      training: {name: facts of its training, with the model FLOPs of training (`flops`) and of one request
        (`request_flops`)}.
      facts: command, config, seed, data hash, commit, machine, versions.
      before_after: what the training has changed, if it continued from an earlier run.
      fusion: facts of the main system's fusion, if it is one.
    """

    dataset: str
    split: str
    rows: int
    users: int
    beams: int
    invalid: int
    systems: Mapping[str, Means]
    intervals: Mapping[str, Intervals]
    beyond: Mapping[str, Beyond]
    comparisons: Sequence[Comparison]
    upper_bound: Mapping[str, float] | None
    training: Mapping[str, Mapping[str, Any]]
    facts: Mapping[str, Any]
    before_after: BeforeAfter | None = None
    fusion: Mapping[str, Any] | None = None


def to_json(report: Report) -> dict[str, Any]:
    """The contents of `results.json`; its top level is about the main system."""
    main = next(iter(report.systems))
    found = {field.name: getattr(report, field.name) for field in dataclasses.fields(report)}
    return found | {
        "metrics": report.systems[main],
        "intervals": report.intervals[main],
        "systems": {
            name: {**means, "intervals": report.intervals[name], "beyond": report.beyond[name]}
            for name, means in report.systems.items()
        },
        "comparisons": [dataclasses.asdict(comparison) for comparison in report.comparisons],
        "before_after": None if report.before_after is None else dataclasses.asdict(report.before_after),
        **found.pop("facts"),
    }


def format_table(report: Report, level: str = "sid") -> str:
    """An aligned table of all systems at one level; also valid markdown."""
    shown = _shown(report)
    rows = [["system", *shown]]
    for name, means in report.systems.items():
        rows.append([name, *(f"{means[level][metric]:.4f}" for metric in shown)])
    if report.upper_bound is not None and level == "sid":
        rows.append(["upper bound", *(f"{report.upper_bound[metric]:.4f}" for metric in shown)])
    return markdown_table(rows)


def _shown(report: Report) -> list[str]:
    return [metric for metric in SHOWN if metric in next(iter(report.systems.values()))["sid"]]


def to_markdown(report: Report) -> str:
    """The contents of `results.md`."""
    shown = _shown(report)
    ranges = [["system", *shown]]
    for name, intervals in report.intervals.items():
        ranges.append([name, *("{:.4f} to {:.4f}".format(*intervals["sid"][metric]) for metric in shown)])
    parts = [
        f"# Results on {report.dataset} ({report.split}, {report.rows} rows of {report.users} users, "
        f"{report.beams} beams)",
        f"Invalid SIDs among the predictions: {report.invalid}.",
        "## SID level\n\n" + format_table(report, "sid"),
        "95 % intervals (bootstrap over users):\n\n" + markdown_table(ranges),
        "## Item level\n\nExpected values under a uniform tie among the items of a colliding SID.\n\n"
        + format_table(report, "item"),
    ]
    if report.upper_bound is not None:
        parts.append(
            "The upper bound ranks every item by its probability under the process that generated the histories: "
            "no recommender can be better in expectation."
        )
    parts.append(beyond_section((name, means, report.beyond[name]) for name, means in report.systems.items()))
    if report.comparisons:
        parts.append(
            "## Paired comparisons (bootstrap over users, one seed)\n\n" + comparison_table(report.comparisons)
        )
    if report.before_after is not None:
        parts.append(_before_after_section(report.before_after))
    if report.fusion is not None:
        parts.append(fusion_section([(next(iter(report.systems)), report.fusion)]))
    if report.training:
        rows = [["system", "loss at the start", "steps", "best step", "best validation value", "seconds", "FLOPs",
                 "FLOPs of a request"]]  # fmt: skip
        for name, facts in report.training.items():
            losses = [facts["start"][name] for name in ("constrained", "vocabulary") if name in facts["start"]]
            start = " / ".join(f"{loss:.4f}" for loss in losses) or UNKNOWN
            value = f"{facts['best_value']:.4f}"
            costs = [f"{facts['seconds']:.0f}", amount(facts["flops"]), amount(facts["request_flops"])]
            rows.append([name, start, str(facts["steps"]), str(facts["best_step"]), value, *costs])
        note = (
            "The loss at the start is in nats per SID token of the selection split: among the tokens that may stand "
            "there in the catalogue / among the whole vocabulary. FLOPs are those of matrix products: of all steps, "
            "without what is computed twice, and of the search for one prompt of mean length."
        )
        parts.append(f"## Training\n\n{markdown_table(rows)}\n\n{note}")
    facts = {key: value for key, value in report.facts.items() if key != "config"}
    parts.append("## How this was made\n\n" + fact_list(facts))
    return "\n\n".join(parts) + "\n"


def _before_after_section(found: BeforeAfter) -> str:
    parts = [
        "## Before and after this training",
        f"The model went on from {found.earlier}. Before and after are the model alone, without a fusion or a dense "
        "head. Before: as that run left it; SID tokens that it did not know have the rows that they start with, and it "
        f"recommends new items by their SIDs. New are those of the {found.rows} rows that the earlier run had in none "
        "of its splits; of an export alone the rows are not known, and all count as new. SID level.",
    ]
    if not found.groups:
        parts.append("None of the rows is new.")
    for group in found.groups:
        parts.append(f"{group.rows} {group.name}:\n\n{comparison_table(group.comparisons)}")
    return "\n\n".join(parts)


def beyond_section(systems: Iterable[tuple[str, Means, Beyond]]) -> str:
    """The section on metrics beyond accuracy, next to accuracy, from (name, means, metrics of BEYOND)."""
    rows = [["system", *ACCURACY, *BEYOND]]
    for name, means, beyond in systems:
        values = [*(means["item"][metric] for metric in ACCURACY), *(beyond.get(metric) for metric in BEYOND)]
        rows.append([name, *(UNKNOWN if value is None else f"{value:.4f}" for value in values)])
    return (
        f"## Beyond accuracy\n\nItem level. Of the first {CUT} items of each list: the share of the catalogue that is "
        "shown to anybody; the Gini coefficient of how often items are shown (0: all alike); their popularity, as a "
        "multiple of that of the items that users took in train; their novelty, the information in bits of an item's "
        "share of train; the diversity of a list, 1 - the mean TF-IDF cosine of its pairs; repeats, the share that the "
        "row's history holds. docs/running.md defines them.\n\n" + markdown_table(rows)
    )


def amount(value: float | None) -> str:
    """A large number with four digits and its unit."""
    if value is None:
        return UNKNOWN
    unit, size = next(((unit, size) for unit, size in UNITS if value >= size), ("", 1.0))
    return f"{value / size:.4g}{unit}"


def comparison_table(comparisons: Sequence[Comparison]) -> str:
    """Paired comparisons as a markdown table, without columns about seeds if none has more than one seed."""
    several = any(each.seeds_and_users is not None for each in comparisons)
    columns = {
        "comparison": lambda c: f"{c.first} > {c.second}",
        "metric": lambda c: c.metric,
        "level": lambda c: c.level,
        "first": lambda c: f"{c.first_mean:.4f}",
        "second": lambda c: f"{c.second_mean:.4f}",
        "difference": lambda c: f"{c.difference:+.4f}",
        "relative": relative,
        "95 %, users": lambda c: test_interval(c.users),
        "p, users": lambda c: p_value(c.users),
    }
    if several:
        columns |= {
            "95 %, seeds and users": lambda c: test_interval(c.seeds_and_users),
            "p, seeds and users": lambda c: p_value(c.seeds_and_users),
            "seeds with first above": lambda c: f"{c.better} of {len(c.seeds)}",
        }
    if any(each.holm is not None for each in comparisons):
        columns["p, Holm"] = holm
    return markdown_table([list(columns), *([cell(each) for cell in columns.values()] for each in comparisons)])


def holm(comparison: Comparison) -> str:
    """The corrected p-value."""
    return UNKNOWN if comparison.holm is None else f"{comparison.holm:.3f}"


def relative(comparison: Comparison) -> str:
    """The difference as a percentage of the second system's mean."""
    return UNKNOWN if comparison.relative is None else f"{100 * comparison.relative:+.2f} %"


def test_interval(test: PairedTest | None) -> str:
    """The interval of a difference."""
    return UNKNOWN if test is None else "{:+.4f} to {:+.4f}".format(*test.interval)


def p_value(test: PairedTest | None) -> str:
    """The p-value of no difference."""
    return UNKNOWN if test is None else f"{test.p_value:.3f}"
