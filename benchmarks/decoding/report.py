"""The measurements as markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.decoding.comparison import OURS, PEERS
from benchmarks.decoding.curves import named

# Ratios to reach, by (case, beams): as shipped, expert HF, usual JAX.
GOALS = {
    ("tiny", 20): (22, 2.8, 2.2),
    ("tiny", 50): (28, 2.8, 2.2),
    ("smollm2_short", 20): (19, 2.3, 1.8),
    ("smollm2_short", 50): (36, 2.3, 1.8),
    ("smollm2_long", 20): (19, 2.3, 1.8),
    ("smollm2_long", 50): (36, 2.3, 1.8),
    ("qwen2_5", 20): (12, 2, 1.5),
}
GOAL_FLOOR, GOAL_CONSTRAINT = 0.80, 0.03
GOAL_BUILD_SECONDS, GOAL_BUILD_MB = 3.0, 200.0


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table; the first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def count(number: int) -> str:
    """1000000 -> 1,000,000."""
    return f"{number:,}"


def cases_report(cases: Mapping[str, Mapping[str, Any]], accelerator: bool) -> str:
    """Ratios, parity, floors and rates of the cases, {"name/beams": facts}."""
    return "\n\n".join(
        [
            "## Cases",
            "Ratios of medians to ours, the goal in brackets; methods take turns in one process, all pad prompts to "
            "the longest of the batch. Only ours keeps the keys and values of the cached tokens. A method marked * had "
            "fewer rounds, since its runs are long. The floor is the arithmetic that no exact search avoids, 2 x "
            "multiply-adds at the true lengths: one prefill of the uncached tokens (of the last layer only keys and "
            "values, but for the last position), the steps of the beams, and the output rows over which scores are "
            "normalised, at the rate of the best square product. 'At own shapes' takes each product at the rate that "
            "its own shape reaches.",
            _ratios(cases, accelerator),
            "Lists against ours: equal in every place, and equal wherever neighbouring scores are more than 1e-4 nats "
            "apart.",
            _parity(cases),
            "Rates of the products of each program, 10^9 operations a second.",
            _rates(cases),
        ]
    )


def _ratios(cases: Mapping[str, Mapping[str, Any]], accelerator: bool) -> str:
    head = ["case", "beams", "batch", "tokens (cached)", *PEERS, "floor / ours", "floor at own shapes / ours"]
    if accelerator:  # on a CPU that others use too, milliseconds mean nothing beyond the run
        head += ["ours, ms", "floor, ms", "usual JAX, ms"]
    rows = []
    for key, facts in cases.items():
        goals = dict(zip(PEERS, GOALS.get((key.split("/")[0], facts["beams"]), (None,) * 3), strict=True))
        most = max(len(timing["wall"]) for timing in facts["timings"].values())
        cells = []
        for name in PEERS:
            if name not in facts["ratios"]:
                cells.append("not run")
                continue
            fewer = "*" if len(facts["timings"][name]["wall"]) < most else ""
            goal = f" ({goals[name]})" if goals[name] else ""
            cells.append(f"x{facts['ratios'][name]:.2f}{fewer}{goal}")
        mine = facts["medians"][OURS]
        lengths = facts["prompt_tokens"]
        shown = f"{min(lengths)}-{max(lengths)}" if min(lengths) != max(lengths) else str(lengths[0])
        row = [facts["case"], str(facts["beams"]), str(facts["batch"]), f"{shown} ({facts['cached_tokens']})", *cells]
        row += [f"{facts['floor_share']:.1%} ({GOAL_FLOOR:.0%})", f"{facts['own_shapes_seconds'] / mine:.1%}"]
        if accelerator:
            row += [f"{1e3 * s:.1f}" for s in (mine, facts["floor_seconds"], facts["medians"]["usual JAX"])]
        rows.append(row)
    return table(head, rows)


def _parity(cases: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [
            f"{facts['case']}, {facts['beams']} beams",
            name,
            str(parity["lists"]),
            str(parity["identical"]),
            str(parity["agreeing"]),
            f"{parity['score_difference']:.1e}",
        ]
        for facts in cases.values()
        for name, parity in facts["parity"].items()
    ]
    return table(["case", "method", "lists", "identical", "equal where apart", "largest score difference"], rows)


def _rates(cases: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for facts in cases.values():
        rows.append([f"{facts['case']}, {facts['beams']} beams", "best square", "", f"{facts['gemm_rate'] / 1e9:.1f}"])
        for name, (shape, rate) in facts["rates"].items():
            rows.append(["", name, " x ".join(map(str, shape)), f"{rate / 1e9:.1f}"])
    return table(["case", "product", "rows x inner x columns", "rate"], rows)


def constraint_report(facts: Mapping[str, Any]) -> str:
    """Overhead and builds."""
    step = facts["step_seconds"]
    rows = []
    for cell in facts["cells"]:
        row = [" x ".join(map(str, cell["level_sizes"])), count(cell["items"])]
        for name in ("ours", "STATIC", "host trie"):
            added = cell["added"].get(name)
            if added is None:
                row.append("not built")
                continue
            share, low, high = (f"{added[key] / step:+.3%}" for key in ("seconds", "low", "high"))
            row.append(f"{share} ({low} to {high})")
        rows.append(row)
    builds = [
        [
            " x ".join(map(str, build["level_sizes"])),
            count(build["items"]),
            {"host": "host trie"}.get(build["method"], build["method"]),
            f"{build['seconds']:.2f}",
            f"{build['peak_mb']:.0f}",
            f"{build['final_mb']:.1f}",
        ]
        for build in facts["builds"]
    ]
    return "\n\n".join(
        [
            "## Constraint",
            "What the constraint adds to a step of 8 requests x 20 beams, against the same search with no constraint "
            "(median of paired differences of processor time and its 95 % interval), as a share of the model's step of "
            f"SmolLM2-135M's shape (goal: at most {GOAL_CONSTRAINT:.0%}). Ours is "
            "taken out of the library's own search; STATIC (arXiv 2602.22647, written from its description) and the "
            "host's dictionary run in a plain search of their own. Negative: the constraint leaves fewer candidates to "
            "rank than it costs.",
            table(
                ["codes", "items", "ours", "STATIC", "host trie"],
                rows,
            ),
            f"Building the index on all {facts['cores']} cores, in a process of its own; memory is what it adds to the "
            f"codes that it is given. Goal at {count(20_000_000)} items: {GOAL_BUILD_SECONDS:.0f} s and "
            f"{GOAL_BUILD_MB:.0f} MB. The host trie is not built beyond a million items: a dictionary of more prefixes "
            "takes minutes and gigabytes.",
            table(["codes", "items", "index", "seconds", "peak, MB", "final, MB"], builds),
        ]
    )


def curves_report(facts: Mapping[str, Any], images: Mapping[str, str]) -> str:
    """Tables of relative latencies and the plots."""
    parts = [
        "## Latency",
        "Medians for one batch of 8 prompts of 150 tokens on the tiny Qwen2 shape, as multiples of ours at the first "
        "point of a table.",
    ]
    for axis, points in (("beams", facts["beams"]), ("items", facts["items"])):
        if not points:
            continue
        names = named(points)
        one = points[0]["medians"][OURS]
        rows = [
            [count(point[axis]), *(f"{point['medians'][n] / one:.2f}" if n in point["medians"] else "-" for n in names)]
            for point in points
        ]
        parts.append(table([axis, *names], rows))
        if axis in images:
            parts.append(f"![Latency against {axis}]({images[axis]})")
    return "\n\n".join(parts)
