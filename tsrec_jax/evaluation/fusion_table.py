"""What the fit of a fusion found, for the reports of runs and studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tsrec_jax.text_table import markdown_table

SHOWN = ("HR@10", "NDCG@10")


def fusion_section(fusions: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """The section on fusions, from (name, facts of its fit) of each; empty without fusions."""
    if not fusions:
        return ""
    columns = [f"{name}, {metric}" for name in ("model alone", "cross-fitted") for metric in SHOWN]
    rows = [["fusion", "rows", "target listed", *columns, "weight of the model"]]
    for name, facts in fusions:
        figures = [facts.get(kind, {}).get(metric) for kind in ("model alone", "cross-fitted") for metric in SHOWN]
        values = [facts.get("listed"), *figures, facts.get("weight of the model")]
        rows.append([name, str(facts["rows"]), *("n/a" if value is None else f"{value:.4f}" for value in values)])
    said = (
        "On rows of the selection split, SID level: how often a part or the model lists the target, and how good the "
        "model is by itself, and the fusion when each half of the users is scored by the weights of the other half. "
        "Settings of the parts and the model's checkpoint were chosen on both halves, so that is optimistic. The "
        "weight of the model is what log P(SID | history), in nats, is multiplied by."
    )
    without = [name for name, facts in fusions if facts.get("model at its bound")]
    if without:
        said += (
            f"\n\n**The weight of the model stands at its lower bound in {', '.join(without)}**: what the model says "
            "of SIDs counts for nothing there, and the lists are those of the other parts, of which the dense head may "
            "be one."
        )
    return f"## Fusions\n\n{said}\n\n{markdown_table(rows)}"
