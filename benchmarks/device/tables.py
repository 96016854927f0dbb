"""The measurements as one page of markdown tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.decoding.report import table

GIB = 2**30
Cells = Mapping[str, Mapping[str, Any]]


def page(parts: Mapping[str, Cells]) -> str:
    """All parts that have cells.

    Args:
      parts: {part: {key: cell as the store keeps it}}.
    """
    makers = {"facts": _facts, "decode": _decode, "train": _train, "study": _study}
    texts = ["# On an accelerator"]
    for part, cells in parts.items():
        done = {key: cell["facts"] for key, cell in cells.items() if cell["status"] == "done"}
        if done:
            texts += [f"## {part}", makers[part](done)]
        others = [f"- {part}, {key}: {cell['status']}: {cell['error']}" for key, cell in cells.items()
                  if cell["status"] != "done"]  # fmt: skip
        if others:
            texts += ["Without figures:", "\n".join(others)]
    return "\n\n".join(texts) + "\n"


def _facts(cells: Cells) -> str:
    (facts,) = cells.values()
    rates = facts["product_rates"]
    return "\n".join(
        [
            f"- {facts['machine']}; {facts['driver']}; commit `{facts['commit']}`",
            "- " + ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
            f"- square products: bfloat16 {rates['bfloat16'] / 1e12:.4g} TFLOP/s, "
            f"float32 {rates['float32'] / 1e12:.4g} TFLOP/s; copy, bytes read and written: "
            f"{facts['copy_bandwidth'] / 1e9:.4g} GB/s",
        ]
    )


def _decode(cells: Cells) -> str:
    head = ["case", "ms", "requests/s", "floor / ours", "compile, s"]
    for name in ("expert HF", "generate"):
        head += [f"{name} / ours", "lists that agree", "overlap"]
    rows = []
    for key, facts in cells.items():
        mine = facts["systems"]["ours"]
        row = [
            key,
            f"{1e3 * mine['seconds']:.2f}",
            f"{mine['requests_per_second']:.1f}",
            _share(facts["floor_share"]),
            f"{mine['first_seconds']:.1f}",
        ]
        for name in ("expert HF", "generate"):
            if name in facts["ratios"]:
                parity = facts["parity"][name]
                row += [f"{facts['ratios'][name]:.2f}", f"{parity['agreeing']} of {parity['lists']}"]
                row.append(f"{parity['overlap']:.1%}")
            else:
                row += [facts["systems"].get(name, {"why": "not asked for"})["why"], "-", "-"]
        rows.append(row)
    return (
        table(head, rows)
        + "\n\nLists agree where they are equal in every place whose score is 1e-4 nats or more from its neighbours'; "
        "in bfloat16 the overlap of the lists is what counts."
    )


def _train(cells: Cells) -> str:
    head = ["case", "rows/s", "tokens/s", "s/step", "MFU", "peak, GiB", "estimate / peak", "compile, s", "step"]
    rows = []
    for key, facts in cells.items():
        step = facts.get("step")
        row = [
            key,
            f"{facts['rows_per_second']:.1f}",
            f"{facts['tokens_per_second']:,.0f}",
            f"{facts['step_seconds']:.4f}",
            _share(facts.get("mfu")),
            f"{facts['peak_bytes'] / GIB:.2f}" + (" (process)" if facts["peak_of"] == "process" else ""),
            f"{facts['estimated_bytes'] / facts['peak_bytes']:.2f}" if step else "-",
            f"{facts['compile_seconds']:.1f}" if step else "-",
        ]
        if step:
            row.append(f"{step['rows']} x {step['sequence_length']}" + (", recomputed" if step["remat"] else ""))
        else:
            row.append(f"{facts['examples']} examples of {facts['asked_examples']}")
        rows.append(row)
    mixes = "; ".join(dict.fromkeys(facts["mix"] for facts in cells.values()))
    return table(head, rows) + f"\n\nRows: {mixes}."


def _study(cells: Cells) -> str:
    metrics = ("HR@1", "HR@10", "NDCG@10")
    head = ["cell", *metrics, "steps", "training, s"]
    rows = [
        [
            key,
            *(f"{facts[metric]:.4f}" for metric in metrics),
            str(facts["steps"]),
            f"{facts['train_seconds']:.0f}",
        ]
        for key, facts in cells.items()
    ]
    return table(head, rows) + "\n\nThe study's own report with intervals and tests is in study_cells.tar.gz."


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
