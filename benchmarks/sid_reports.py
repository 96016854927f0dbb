"""SID reports of several index folders in one table.

    PYTHONPATH=. python benchmarks/sid_reports.py --out=docs/results/sids "NAME=WORKDIR" "NAME=WORKDIR" ...

Each WORKDIR holds `index/report.json`, as `tsrec index` writes it.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

from benchmarks.facts import command
from tsrec_jax.files import write_json

FACTS = ("dataset", "encoder", "seed", "data_hash", "commit", "machine")
SETTINGS = ("method", "sizes", "collisions", "whiten", "iterations", "epochs", "max_tokens", "text_fields")
HEADS = ("collision rate", "code use", "Gini", "nodes", "error left", "brand purity by depth", "neighbour's brand")


def cells(report: dict[str, Any]) -> list[str]:
    """One row: the columns of HEADS."""
    levels, depths = report["levels"], report["depths"]
    purity = [depth["purity"]["brand"][0] for depth in depths if "brand" in depth["purity"]]
    return [
        f"{report['collision_rate']:.4f}",
        ", ".join(f"{level['use']:.1%}" for level in levels),
        ", ".join(f"{level['gini']:.2f}" for level in levels),
        ", ".join(str(depth["nodes"]) for depth in depths),
        ", ".join(f"{depth['error']:.2f}" for depth in depths),
        ", ".join("none" if value is None else f"{value:.2f}" for value in purity),
        f"{report['neighbour_purity']['brand'][0]:.3f} ({report['neighbour_purity']['brand'][1]:.3f})",
    ]


def main() -> None:
    """Writes OUT.json and OUT.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="path without an ending")
    parser.add_argument("runs", nargs="+", metavar="NAME=WORKDIR")
    arguments = parser.parse_args()
    named = [text.rpartition("=") for text in arguments.runs]
    reports = {
        name: json.loads((pathlib.Path(folder) / "index" / "report.json").read_text(encoding="utf-8"))
        for name, _, folder in named
    }
    rows = [f"| {name} | " + " | ".join(cells(report)) + " |" for name, report in reports.items()]
    facts = {
        name: {**{key: report[key] for key in FACTS}, **{key: report["settings"][f"index.{key}"] for key in SETTINGS}}
        for name, report in reports.items()
    }
    kept = ("items", "sids", "collision_rate", "levels", "depths", "neighbour_purity")
    write_json(
        arguments.out.with_suffix(".json"),
        {name: {**{key: report[key] for key in kept}, **facts[name]} for name, report in reports.items()},
    )
    lines = [
        "# Semantic IDs by method",
        "Columns with several values: by level, or by the number of leading levels. Error: squared, as a share of the "
        "variance of what was quantised, which whitening changes: compare within one setting. Purity: of the other "
        "items in an item's node, the share with its label. The last column: items whose nearest neighbour in the "
        "embeddings has their brand (and of random ones).",
        "\n".join([f"| | {' | '.join(HEADS)} |", "|---|" + "---|" * len(HEADS), *rows]),
        f"## How this was made\n\n`tsrec index` with these settings, then `{command()}`.\n\n"
        + "\n".join(
            f"- {name}: " + ", ".join(f"{key} `{value}`" for key, value in fact.items()) for name, fact in facts.items()
        ),
    ]
    arguments.out.with_suffix(".md").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    print(lines[2])


if __name__ == "__main__":
    main()
