"""The report on semantic IDs: `report.json` for programs, `report.md` for people, and limits that fail a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tsrec_jax.sid.quality import Depth, SidReport
from tsrec_jax.sid.settings import IndexSettings
from tsrec_jax.sid.sizes import fitting_sizes
from tsrec_jax.text_table import fact_list, markdown_table

TOLD_APART = 0.9  # nodes per item at which the levels below have next to nothing left to group


def failed_gates(report: SidReport, settings: IndexSettings) -> list[str]:
    """One line for each limit that is not met: the value, the limit and what to do."""
    failed = []
    if report.collision_rate > settings.max_collision_rate:
        failed.append(
            f"collision rate {report.collision_rate:.4f} is above "
            f"index.max_collision_rate={settings.max_collision_rate}: use "
            "index.collisions=sinkhorn or extra_level, or more codes"
        )
    for level, use in enumerate(report.levels):
        if use.use < settings.min_code_use:
            failed.append(
                f"level {level + 1} uses {use.used} of {use.codes} codes ({use.use:.4f}), below "
                f"index.min_code_use={settings.min_code_use}: use index.method=rq_kmeans_balanced or fewer codes"
            )
    for level, use in enumerate(report.levels[: report.coded]):
        if use.perplexity < settings.min_perplexity * use.codes:
            failed.append(
                f"level {level + 1} has a perplexity of {use.perplexity:.1f} of {use.codes} codes "
                f"({use.perplexity / use.codes:.4f}; {use.items_max} items have one code), below "
                f"index.min_perplexity={settings.min_perplexity}: use index.method=rq_kmeans_balanced or fewer codes"
            )
    return failed


def counting_levels(report: SidReport) -> str:
    """One line if the last levels distinguish items but group next to nothing; empty if they do group."""
    depth = next((d for d, row in enumerate(report.depths[: report.coded], 1) if _apart(report, row)), report.coded)
    if depth == report.coded:
        return ""
    nodes, sizes = report.depths[depth - 1].nodes, [level.codes for level in report.levels[: report.coded]]
    fitting = fitting_sizes(report.items)
    first = "level 1 tells" if depth == 1 else f"the first {depth} levels tell"
    better = f"index.sizes={fitting}" if sum(fitting) < sum(sizes) else "fewer or smaller levels"
    return (
        f"{first} {nodes / report.items:.0%} of the items apart ({nodes} nodes for {report.items} items), so the codes "
        f"after that only count and group nothing; {better} would leave them more to say"
    )


def _apart(report: SidReport, depth: Depth) -> bool:
    return depth.nodes >= TOLD_APART * report.items


def to_json(report: SidReport) -> dict[str, Any]:
    """The contents of `report.json`."""
    facts = dataclasses.asdict(report)
    for level, use in zip(facts["levels"], report.levels, strict=True):
        level["use"] = use.use
    return {"collision_rate": report.collision_rate, **facts}


def to_markdown(report: SidReport, facts: Mapping[str, Any]) -> str:
    """The contents of `report.md`: the tables, examples, and how the SIDs were made."""
    collisions = (
        f"{report.items} items, {report.sids} distinct SIDs: collision rate {report.collision_rate:.4f}. "
        f"{report.colliding_items} items share {report.collision_groups} SIDs, at most {report.largest_group} one; "
        f"{report.same_text_items} of them have the title and description of another item of their group."
    )
    use = [("level", "codes", "used", "use", "perplexity", "Gini", "items of a code: min, median, max")]
    for level, row in enumerate(report.levels, 1):
        spread = f"{row.items_min}, {row.items_median:g}, {row.items_max}"
        use.append(
            (
                f"{level}",
                f"{row.codes}",
                f"{row.used}",
                f"{row.use:.1%}",
                f"{row.perplexity:.1f}",
                f"{row.gini:.3f}",
                spread,
            )
        )
    labels = list(report.depths[0].purity)
    heads = ["levels", "nodes", "items of a node: mean, max", "children, max", "error left"]
    nodes = [[*heads, *(f"{label} purity (by chance)" for label in labels)]]
    for depth, node in enumerate(report.depths, 1):
        error = "" if node.error is None else f"{node.error:.1%}"
        cells = [f"{depth}", f"{node.nodes}", f"{node.items_mean:.2f}, {node.items_max}", f"{node.children_max}", error]
        nodes.append([*cells, *(_share(node.purity[label]) for label in labels)])
    neighbours = ", ".join(f"{label} {_share(pair)}" for label, pair in report.neighbour_purity.items())
    parts = [
        f"# Semantic IDs of {facts.get('dataset', 'a catalogue')}",
        collisions,
        "## Codes\n\n" + markdown_table(use),
        "## Nodes\n\nPurity: of the other items in an item's node, the share with its label, over items with a label "
        "and company; by chance: with the labels permuted. Error: squared, as a share of the variance of what was "
        "quantised.\n\n" + markdown_table(nodes),
    ]
    if line := counting_levels(report):
        parts.append(f"{line[0].upper()}{line[1:]}.")
    if neighbours:
        queries = report.neighbour_queries
        parts.append(f"The nearest neighbour in the embeddings has the same label ({queries} items): {neighbours}.")
    lines = [f"- `{prefix}`, {count} items: {'; '.join(titles)}" for prefix, count, titles in report.examples]
    parts.append("## Examples\n\nThe largest node and a middling one of every depth.\n\n" + "\n".join(lines))
    parts.append("## How this was made\n\n" + fact_list(facts))
    return "\n\n".join(parts) + "\n"


def _share(pair: tuple[float | None, float | None]) -> str:
    return "none" if pair[0] is None else f"{pair[0]:.3f} ({_number(pair[1])})"


def _number(share: float | None) -> str:
    return "none" if share is None else f"{share:.3f}"
