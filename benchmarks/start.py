"""How long `tsrec serve` takes to start, with no compiled program kept and with all of them.

    PYTHONPATH=. python benchmarks/start.py --export=runs/quickstart/export --out=runs/benchmark_start.md

Starts the server in pairs, the first of a pair with an empty folder for its programs. `ready`: usual requests are
answered; `compiled`: nothing is left to compile.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.table_report import write_table_report

MARKS = ("loading", "listening", "ready", "compiled")  # lines of the server begin so


def parser() -> argparse.ArgumentParser:
    """The flags."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--export", required=True, help="folder that is served")
    flags.add_argument("--max_beams", type=int, default=512, help="of the server: how many programs it has")
    flags.add_argument("--pairs", type=int, default=3, help="of starts")
    flags.add_argument("--out", type=pathlib.Path, required=True, help="Markdown that is written")
    return flags


def start(export: str, max_beams: int, programs: str) -> dict[str, float]:
    """Seconds from the command to each of MARKS; the server is ended after the last."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": programs}
    begun, seconds = time.perf_counter(), {}
    flags = [f"--export={export}", "--port=0", f"--max_beams={max_beams}"]
    server = [sys.executable, "-m", "tsrec_jax", "serve", *flags]
    with subprocess.Popen(server, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            for mark in MARKS:
                if line.startswith(mark):
                    seconds[mark] = time.perf_counter() - begun
            if line.startswith(MARKS[-1]):
                process.send_signal(signal.SIGTERM)
    if process.returncode or MARKS[-1] not in seconds:
        raise SystemExit(f"the server ended with {process.returncode}")
    return seconds


def main(arguments: list[str] | None = None) -> None:
    """Measures and writes the report."""
    options = parser().parse_args(arguments)
    starts: dict[str, list[dict[str, float]]] = {"first": [], "second": []}
    for _ in range(options.pairs):
        with tempfile.TemporaryDirectory() as programs:
            for each in starts.values():
                each.append(start(options.export, options.max_beams, programs))
    medians = {
        name: {mark: statistics.median(one[mark] for one in each) for mark in MARKS} for name, each in starts.items()
    }
    rows = [["start", *MARKS]]
    rows += [[name, *(f"{median[mark]:.2f} s" for mark in MARKS)] for name, median in medians.items()]
    rows.append(["second / first", *(f"{medians['second'][mark] / medians['first'][mark]:.2f}" for mark in MARKS)])
    measured = f"Medians of {options.pairs} pairs of starts."
    write_table_report(options.out, "Starts of the service", measured, rows)


if __name__ == "__main__":
    main()
