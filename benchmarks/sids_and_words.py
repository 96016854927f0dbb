"""Runs on the same interactions with other SIDs or other words, side by side: one report for people and programs.

    PYTHONPATH=. python benchmarks/sids_and_words.py --out=docs/results/industrial_sids \\
        "--run=published SIDs, published words=runs/published" \\
        "--run=published SIDs, offline words=runs/published_offline" "--run=own SIDs, offline words=runs/own"

Each run is a workdir with its `predictions.json`, all on the same rows. Runs are compared with the first one, paired by
row, at item level: a SID-level hit means other things under other SIDs. Words are compared where the SIDs are equal.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from benchmarks.facts import command
from benchmarks.keyword_overlap import keyword_overlap, overlap_table
from tsrec_jax.data.dataset import Dataset, read_dataset
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.target_ranks import TargetRanks, find_targets, metric_names
from tsrec_jax.evaluation.predictions import read_predictions
from tsrec_jax.evaluation.report import comparison_table
from tsrec_jax.evaluation.statistics import compare, draw_users
from tsrec_jax.files import write_json
from tsrec_jax.pipeline.evaluate import evaluated_rows
from tsrec_jax.settings import load_saved
from tsrec_jax.sid.quality import SidReport, measure
from tsrec_jax.sid.report import to_json

FOLDERS = ("dataset", "prepare")  # sections that name folders of the machine of the run
SHOWN = ("HR@1", "HR@5", "HR@10", "HR@20", "NDCG@5", "NDCG@10", "NDCG@20")


@dataclasses.dataclass(frozen=True)
class Run:
    """One workdir: its recorded facts, its data, the rows that it evaluated and the ranks of their targets."""

    results: dict[str, Any]
    dataset: Dataset
    rows: Interactions
    ranks: TargetRanks


def read_results(workdir: pathlib.Path) -> dict[str, Any]:
    """The `results.json` of a finished run."""
    return json.loads((workdir / "results.json").read_text(encoding="utf-8"))


def read_run(workdir: pathlib.Path) -> Run:
    """Reads a finished run and scores its predictions again."""
    results = read_results(workdir)
    made = workdir / "dataset"
    dataset = read_dataset(made if made.is_dir() else results["config"]["dataset"]["path"])
    _, rows = evaluated_rows(load_saved(workdir), dataset)
    predictions = read_predictions(workdir / "predictions.json")
    if predictions.targets != [dataset.catalogue.sid(int(target)) for target in rows.targets]:
        raise SystemExit(f"{workdir}: its predictions are for other rows than its dataset holds")
    return Run(results, dataset, rows, find_targets(predictions.lists, rows.targets, dataset.catalogue))


def checked(runs: dict[str, Run]) -> None:
    """Refuses runs on other rows."""
    first = next(iter(runs.values()))
    for name, run in runs.items():
        if not np.array_equal(run.rows.targets, first.rows.targets):
            raise SystemExit(f"{name}: other rows than those of the first run")


def sid_report(dataset: Dataset):
    """The SIDs alone, without embeddings."""
    catalogue = dataset.catalogue
    sizes = [len(tokens) for tokens in catalogue.level_tokens]
    return measure(catalogue.codes_IC, sizes, catalogue.sids, catalogue.items)


def quality_table(runs: dict[str, Run], level: str) -> str:
    """Metrics of all runs at one level."""
    lines = ["| | " + " | ".join(SHOWN) + " |", "|---|" + "---:|" * len(SHOWN)]
    for name, run in runs.items():
        lines.append(f"| {name} | " + " | ".join(f"{run.ranks.mean(level, m):.4f}" for m in SHOWN) + " |")
    return "\n".join(lines)


def compare_table(reports: dict[str, SidReport]) -> str:
    """One markdown table of several catalogues' SIDs."""
    lines = ["| | SIDs | collision rate | code use | perplexity | nodes | brand purity by depth |", "|" + "---|" * 7]
    for name, report in reports.items():
        use = ", ".join(f"{level.use:.1%}" for level in report.levels)
        perplexity = ", ".join(f"{level.perplexity:.0f}" for level in report.levels)
        nodes = ", ".join(str(depth.nodes) for depth in report.depths)
        pure = ", ".join(_number(depth.purity["brand"][0]) for depth in report.depths if "brand" in depth.purity)
        rate = f"{report.collision_rate:.4f}"
        lines.append(f"| {name} | {report.sids} | {rate} | {use} | {perplexity} | {nodes} | {pure} |")
    return "\n".join(lines)


def _number(share: float | None) -> str:
    return "none" if share is None else f"{share:.3f}"


def main() -> None:
    """Writes OUT.json and OUT.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="append", required=True, help="NAME=WORKDIR")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="path without an ending")
    arguments = parser.parse_args()
    named = [text.rpartition("=") for text in arguments.run]
    runs = {name: read_run(pathlib.Path(folder)) for name, _, folder in named}
    checked(runs)
    names = list(runs)
    first = runs[names[0]]
    rows = len(first.rows)
    reports = {name: sid_report(run.dataset) for name, run in runs.items()}
    draws = draw_users(first.rows.users)
    ndcg_SN = {name: run.ranks.values("item", "NDCG@10")[None] for name, run in runs.items()}
    comparisons = [
        compare((name, names[0]), (ndcg_SN[name], ndcg_SN[names[0]]), draws, metric="NDCG@10", level="item",
                seeds=(runs[name].results["seed"],))
        for name in names[1:]
    ]  # fmt: skip
    overlaps = {
        name: keyword_overlap(
            first.dataset.catalogue, runs[name].dataset.token_descriptions, first.dataset.token_descriptions
        )
        for name in names[1:]
        if runs[name].dataset.catalogue.sids == first.dataset.catalogue.sids
    }
    facts = {
        name: {
            "training": run.results["training"],
            "commit": run.results["commit"],
            "data_hash": run.results["data_hash"],
            "seed": run.results["seed"],
            "machine": run.results["machine"],
            "config": {key: value for key, value in run.results["config"].items() if key not in FOLDERS},
        }
        for name, run in runs.items()
    }
    write_json(
        arguments.out.with_suffix(".json"),
        {
            "rows": rows,
            "split": first.results["split"],
            "systems": {name: run.ranks.means(metric_names(run.results["beams"])) for name, run in runs.items()},
            "comparisons": [dataclasses.asdict(found) for found in comparisons],
            "sids": {name: to_json(report) for name, report in reports.items()},
            "words": {name: [dataclasses.asdict(level) for level in levels] for name, levels in overlaps.items()},
            "runs": facts,
        },
    )
    steps = ", ".join(f"{name}: {run.results['training']['TS-Rec']['steps']}" for name, run in runs.items())
    parts = [
        f"# SIDs and words on {first.dataset.name} ({first.results['split']}, {rows} rows)",
        f"The same training budget (optimiser steps: {steps}), one seed each.",
        "## SIDs\n\n" + compare_table(reports),
        "## Recommendation, item level\n\n" + quality_table(runs, "item"),
        "## Recommendation, SID level\n\nA hit under colliding SIDs counts for every item of the group.\n\n"
        + quality_table(runs, "sid"),
        "## Paired comparisons (bootstrap over users, one seed)\n\n" + comparison_table(comparisons),
        *(
            f"## Words: {name}, beside those of {names[0]}\n\n" + overlap_table(levels, "these", "the first")
            for name, levels in overlaps.items()
        ),
        f"## How this was made\n\n- command: `{command()}`\n"
        + "\n".join(
            f"- {name}: commit `{fact['commit']}`, data hash `{fact['data_hash']}`, seed {fact['seed']}, "
            f"{fact['machine']}, {fact['training']['TS-Rec']['seconds']:.0f} s of training on a shared machine"
            for name, fact in facts.items()
        ),
    ]
    arguments.out.with_suffix(".md").write_text("\n\n".join(parts).rstrip() + "\n", encoding="utf-8")
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()
