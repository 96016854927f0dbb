"""How long a process takes to its first step and how many steps it compiles, with a compilation cache and without."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.training import ours
from benchmarks.training.problem import Request, make_problem


def measure_start(request: Request) -> dict[str, Any]:
    """Seconds of two processes that share a cache, the first of which finds it empty, and the ratios between them."""
    with tempfile.TemporaryDirectory(prefix="tsrec-bench-") as cache:
        environment = {
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        command = [sys.executable, "-m", "benchmarks.training.start", json.dumps(dataclasses.asdict(request))]
        cold, warm = (
            json.loads(
                subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                .stdout.strip()
                .splitlines()[-1]
            )
            for _ in range(2)
        )
    return {"cold": cold, "warm": warm}


def main(request: Request) -> None:
    """Prints the seconds until the model and the rows are there, from there to the end of the first step, and of a
    second one."""
    begun = time.perf_counter()
    problem = make_problem(request)
    ready = time.perf_counter()
    step, compiles = ours.make_step(problem, request.rows, ours.Layout())
    step()
    first = time.perf_counter()
    step()
    second = time.perf_counter()
    facts = {"loading": ready - begun, "first_step": first - ready, "second_step": second - first}
    print(json.dumps({**facts, "compiles": compiles()}))


if __name__ == "__main__":
    main(Request(**json.loads(sys.argv[1])))
