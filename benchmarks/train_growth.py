"""How the cost of a training step grows with the sizes of model and step: tokens per second, memory, compilation.

    PYTHONPATH=. python benchmarks/train_growth.py --out=docs/results/train_growth

On a CPU: a small Llama in float32 on one pinned thread, one size changed at a time, everything as a multiple of the
first line. On a GPU or TPU: the shapes of SmolLM2-135M, Qwen2.5-0.5B and Qwen2.5-1.5B in bfloat16 with random weights,
absolute figures, MFU, and the estimate of memory against the device's own count. Every line is measured in a process of
its own. --only=NAME,NAME measures some lines (--only=tiny: a moment, to try it); writes FILE.md and FILE.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks.decoding.threads import pin_to_one_core
from benchmarks.facts import backend_and_machine, command
from benchmarks.growth.cell import Cell, measure
from tsrec_jax.files import write_json, write_text
from tsrec_jax.pipeline.provenance import commit, versions
from tsrec_jax.planning.accounting import StepShape

SMALL = {
    "model_type": "llama",
    "vocab_size": 32_768,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
SMALL_STEP = StepShape(rows=4, sequence_length=256, loss_slots=64)
TINY = {**SMALL, "vocab_size": 1024, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
SMOLLM2 = {**SMALL, "vocab_size": 50_048, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
           "num_attention_heads": 9, "num_key_value_heads": 3}  # fmt: skip
QWEN_05 = {**SMALL, "model_type": "qwen2", "vocab_size": 152_704, "hidden_size": 896, "intermediate_size": 4864,
           "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2}  # fmt: skip
QWEN_15 = {**QWEN_05, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
           "num_attention_heads": 12}  # fmt: skip
LARGE_STEP = StepShape(rows=64, sequence_length=512, loss_slots=128, loss_chunk=32, dtype="bfloat16")


def cpu_lines() -> dict[str, dict[str, Any]]:
    """{name: the facts of a `Cell`}: the small model, and it with one size changed."""

    def line(model: Mapping[str, Any] | None = None, **step: int) -> dict[str, Any]:
        shape = dataclasses.replace(SMALL_STEP, **step)
        return {"model": {**SMALL, **(model or {})}, "step": dataclasses.asdict(shape), "repeats": 3}

    lines = {"base": line()}
    lines |= {f"{layers} layers": line({"num_hidden_layers": layers}) for layers in (2, 8, 16)}
    lines |= {
        f"{length} tokens a row": line(sequence_length=length, loss_slots=length // 4) for length in (128, 512, 1024)
    }
    lines |= {f"{rows} rows": line(rows=rows) for rows in (1, 8, 16)}
    lines |= {f"{rows // 1024}k table rows": line({"vocab_size": rows}) for rows in (65_536, 131_072, 262_144)}
    lines["256k table rows, loss in chunks of 16"] = line({"vocab_size": 262_144}, loss_chunk=16)
    return lines


def accelerator_lines() -> dict[str, dict[str, Any]]:
    """The shapes of real models, each with two batches."""
    lines = {}
    for name, model, sizes in (
        ("SmolLM2-135M", SMOLLM2, (64, 256)),
        ("Qwen2.5-0.5B", QWEN_05, (64, 128)),
        ("Qwen2.5-1.5B", QWEN_15, (32, 64)),
    ):
        for rows in sizes:
            step = dataclasses.asdict(dataclasses.replace(LARGE_STEP, rows=rows))
            lines[f"{name}, {rows} rows"] = {"model": model, "step": step, "repeats": 10}
    return lines


def measured(name: str, cell: Mapping[str, Any]) -> dict[str, float]:
    """What a process of its own measures of a line."""
    print(f"{name}: measuring", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, __file__, f"--cell={json.dumps(cell)}"], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def report(results: Mapping[str, Mapping[str, float]], absolute: bool, facts: Mapping[str, str]) -> str:
    """The page: multiples of the first line on a CPU, absolute figures on an accelerator."""
    if absolute:
        header = ["shape", "tokens/s", "s/step", "MFU", "peak, GiB", "estimate / peak", "compilation, s"]
        rows = [
            [
                name,
                f"{found['tokens_per_second']:,.0f}",
                f"{found['step_seconds']:.3f}",
                f"{found['mfu']:.1%}" if "mfu" in found else "-",
                f"{found['peak_bytes'] / 2**30:.2f}",
                f"{found['estimated_bytes'] / found['peak_bytes']:.2f}",
                f"{found['compile_seconds']:.1f}",
            ]
            for name, found in results.items()
        ]
        scale = "bfloat16, packed rows of 512 tokens with 128 loss slots, rematerialised layers, random weights."
    else:
        one = next(iter(results.values()))
        header = ["changed", "tokens/s", "peak memory", "compilation", "estimate / peak"]
        rows = [
            [
                name,
                *(f"{found[key] / one[key]:.2f}" for key in ("tokens_per_second", "peak_bytes", "compile_seconds")),
                f"{found['estimated_bytes'] / found['peak_bytes']:.2f}",
            ]
            for name, found in results.items()
        ]
        scale = (
            f"{SMALL['num_hidden_layers']} layers of width {SMALL['hidden_size']}, {SMALL_STEP.rows} rows of "
            f"{SMALL_STEP.sequence_length} tokens with {SMALL_STEP.loss_slots} loss slots, a table of "
            f"{SMALL['vocab_size']} rows, float32, rematerialised layers, one pinned thread; one size changed a line. "
            "All columns but the last are multiples of the first line."
        )
    table = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in table)
    made = "Made by " + ", ".join(f"{key} `{value}`" for key, value in facts.items()) + "."
    memory = (
        "The peak is what the device counts."
        if absolute
        else "The peak is by how much the process grows while it trains; the estimate is what `tsrec plan` prints."
    )
    return "\n\n".join(["# How the cost of a training step grows", scale, lines, memory, made]) + "\n"


def main() -> None:
    """Measures the lines and writes the report; with --cell, one line in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names of lines, separated by commas; the first one is the measure")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cell:
        print(json.dumps(measure(Cell.of(json.loads(arguments.cell)))))
        return
    backend, machine = backend_and_machine()
    absolute = backend != "cpu"
    if not absolute:
        pin_to_one_core(sys.argv)
    lines = accelerator_lines() if absolute else cpu_lines()
    names = arguments.only.split(",") if arguments.only else list(lines)
    lines["tiny"] = {"model": TINY, "step": dataclasses.asdict(SMALL_STEP), "repeats": 1}
    unknown = [name for name in names if name not in lines]
    if unknown:
        parser.error(f"no line {unknown[0]!r}; they are {', '.join(lines)}")
    facts = {"command": command(), "commit": commit(), "machine": machine}
    results = {name: measured(name, lines[name]) for name in names}
    page = report(results, absolute, facts)
    print(page)
    if arguments.out:
        write_json(arguments.out.with_suffix(".json"), {**facts, "versions": versions(), "results": results})
        write_text(arguments.out.with_suffix(".md"), page)


if __name__ == "__main__":
    main()
