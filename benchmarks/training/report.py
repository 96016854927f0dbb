"""The measurements of `benchmarks/train.py` as markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.decoding.report import table

GOALS = {"float32": (2.0, 0.5), "bfloat16": (2.5, 0.4)}  # rows per second and peak memory against transformers
GOAL_USEFUL, GOAL_WARM = 0.95, 0.30
REFERENCE = "transformers"


def report(facts: Mapping[str, Any]) -> str:
    """The page."""
    request, systems = facts["request"], facts["systems"]
    layers = f"first {request['layers']} layers" if request["layers"] else "all layers"
    speed, memory = GOALS[request["dtype"]]
    parts = [
        "# Training speed",
        f"{request['base']}, {layers}, {request['dtype']}, the task mix of {request['dataset'].split('/')[-1]}, "
        f"batches of {request['rows']} rows, AdamW; {facts['threads']} thread(s). {facts['machine']}. "
        f"Commit {facts['commit']}.",
        f"    {facts['command']}",
        "Rows per second and peak memory as multiples of transformers' (medians of "
        f"{systems[REFERENCE]['steps']} steps, the systems' processes take turns; memory is the most that a process, "
        f"or the device, held while it trained). Goals for `ours`: rows at least x{speed}, memory at most x{memory}, "
        f"useful tokens at least {GOAL_USEFUL:.0%}.",
        _table(systems),
        "The loss of the same first rows, before any step: "
        + "; ".join(f"{name} {found['loss_of_the_first_rows']:.5f}" for name, found in systems.items())
        + ".",
    ]
    if facts["long_header"]:
        parts += [
            "With a constant header as long as the reference's (74 tokens) before every prompt, in multiples of "
            "transformers with the short prompts above:",
            _table(facts["long_header"], systems[REFERENCE]),
        ]
    if facts["start"]:
        parts.append(_start(facts["start"]))
    return "\n\n".join(parts) + "\n"


def _table(systems: Mapping[str, Mapping[str, Any]], one: Mapping[str, Any] | None = None) -> str:
    one = one or systems[REFERENCE]
    rows = [
        [
            name,
            f"{found['rows_per_second'] / one['rows_per_second']:.2f}",
            f"{found['rows_per_cpu_second'] / one['rows_per_cpu_second']:.2f}",
            f"{found['peak_bytes'] / one['peak_bytes']:.2f}",
            f"{found['useful_share']:.1%}",
            str(found["compiles"] or "-"),
        ]
        for name, found in systems.items()
    ]
    return table(["system", "rows/s", "rows per CPU second", "peak memory", "useful tokens", "compiles"], rows)


def _start(start: Mapping[str, Mapping[str, float]]) -> str:
    cold, warm = start["cold"], start["warm"]
    step = warm["second_step"]
    compiling = (warm["first_step"] - step) / (cold["first_step"] - step)
    return (
        "A second process that finds the compilation cache of the first: from loaded weights to the end of the first "
        f"step it takes {warm['first_step'] / cold['first_step']:.0%} of the first one's time, of which the step "
        f"itself is {step / cold['first_step']:.0%}; without the step {compiling:.0%} (goal {GOAL_WARM:.0%}). With "
        f"reading the dataset, tokenising and loading the weights, which no cache shortens, it is "
        f"{(warm['loading'] + warm['first_step']) / (cold['loading'] + cold['first_step']):.0%}."
    )
