"""A process that measures: it answers each line of its input, a cell as JSON, with one line of what it found.

python -m benchmarks.device.worker

Its first line of output says that it has the device. What the cells print goes to standard error. After a cell that
failed the process ends: what is left of a device that ran out of memory is nothing to measure on.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import traceback

import jax

PARENT_DEATH = 1  # prctl: the signal that a process gets when its parent is gone


def main() -> int:
    """Measures until the input ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH, signal.SIGKILL)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    print(json.dumps({"ready": jax.devices()[0].device_kind}), file=answers, flush=True)
    for line in sys.stdin:
        cell = json.loads(line)
        try:
            found = {"facts": importlib.import_module(f"benchmarks.device.{cell['part']}").measure(cell["request"])}
        except Exception as error:
            traceback.print_exc()
            lines = str(error).splitlines()
            found = {"error": f"{type(error).__name__}: {lines[0] if lines else 'no words'}"}
        print(json.dumps(found), file=answers, flush=True)
        if "error" in found:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
