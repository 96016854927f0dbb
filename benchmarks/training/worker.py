"""One system in a process of its own: it trains as many steps as each line of its input says, and writes what it saw.

python -m benchmarks.training.worker SYSTEM REQUEST_AS_JSON
"""

from __future__ import annotations

import json
import pathlib
import re
import sys
import time

import jax

from benchmarks.training import ours
from benchmarks.training.problem import Request, make_problem, shuffled

LAYOUTS = {
    "ours": ours.Layout(),
    "ours, logits in chunks": ours.Layout(chunk=160),
    "ours, layers recomputed": ours.Layout(remat=True, chunk=160),
    "slots of its own for every row": ours.Layout(shared=False),
    "logits at every token": ours.Layout(slots=False),
    "padded rows, logits at loss tokens": ours.Layout(packed=False, shared=False),
    "padded rows, logits at every token": ours.Layout(packed=False, slots=False, shared=False),
}
TORCH = {"transformers": False, "transformers, sorted by length": True}  # name -> by length


def peak_bytes() -> int:
    """Most memory that this process has held since `forget_peak`, or the device, where it counts."""
    counted = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    if counted is not None:
        return counted
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())[1])


def forget_peak() -> None:
    """Lets the count of most memory begin anew, where Linux counts it."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def main(name: str, request: Request) -> None:
    """Answers each line of standard input with one of JSON."""
    layout = LAYOUTS.get(name)
    problem = make_problem(request, remat=bool(layout and layout.remat))
    epoch = problem.epoch()
    first = next(shuffled(epoch, request.rows))
    if layout is None:
        from benchmarks.training import torch_peer

        model = torch_peer.torch_model(problem, request.dtype)
        start, compiles = torch_peer.loss_of(model, first), lambda: 0
        step = torch_peer.make_step(epoch, model, request.rows, TORCH[name])
    else:
        start = ours.loss_of(problem, first, request.rows)
        step, compiles = ours.make_step(problem, request.rows, layout)
    del problem
    forget_peak()
    print(json.dumps({"loss_of_the_first_rows": start}), flush=True)
    for line in sys.stdin:
        seen = []
        for _ in range(int(line)):
            wall, cpu = time.perf_counter(), time.process_time()
            loss, examples, useful = step()
            seen.append(
                {
                    "seconds": time.perf_counter() - wall,
                    "cpu_seconds": time.process_time() - cpu,
                    "loss": loss,
                    "examples": examples,
                    "useful": useful,
                }
            )
        print(json.dumps({"steps": seen, "peak_bytes": peak_bytes(), "compiles": compiles()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Request(**json.loads(sys.argv[2])))
