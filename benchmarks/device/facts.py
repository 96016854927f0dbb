"""The part `facts`: what the device is, what its software is, and the two rates by which all else is judged."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from tsrec_jax.pipeline.provenance import commit, machine, versions

RUNS, QUEUED = 10, 8  # samples, and calls of a sample, which the device has one after the other
SIZE, COPY = 8192, 2**30  # of a square product, and elements of the array that is copied
TINY_SIZE, TINY_COPY = 256, 2**16


def measure(request: Mapping[str, Any]) -> dict[str, Any]:
    """JSON facts of this process's device.

    Returns:
      `device`, `backend`, `memory_bytes`, `machine`, `versions`, `commit`, `driver`; `product_rates`, operations a
      second of a large square product by dtype (`float32` with full precision, as the parts use it), and
      `copy_bandwidth`, bytes read and written a second.
    """
    device = jax.devices()[0]
    size, elements = (TINY_SIZE, TINY_COPY) if request["tiny"] else (SIZE, COPY)
    return {
        "device": device.device_kind,
        "backend": jax.default_backend(),
        "memory_bytes": (device.memory_stats() or {}).get("bytes_limit"),
        "machine": machine(),
        "versions": versions() | _torch(),
        "commit": commit(),
        "driver": _driver(),
        "product_rates": {dtype: _product_rate(dtype, size) for dtype in ("bfloat16", "float32")},
        "copy_bandwidth": _copy_bandwidth(elements),
    }


def _product_rate(dtype: str, size: int) -> float:
    """Of random matrices: those of zeros can be faster than data ever is."""
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (size, size), dtype) for key in keys)
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest"))
    return 2.0 * size**3 / _median_seconds(lambda: product(a, b))


def _copy_bandwidth(elements: int) -> float:
    """Of an array that is read once and written once (a copy by itself may be left out by the compiler)."""
    x = jax.random.normal(jax.random.key(0), (elements,), jnp.bfloat16)
    changed = jax.jit(lambda x: -x)
    return 2.0 * x.nbytes / _median_seconds(lambda: changed(x))


def _median_seconds(run: Callable[[], jax.Array]) -> float:
    jax.block_until_ready(run())
    taken = []
    for _ in range(RUNS):
        started = time.perf_counter()
        for _ in range(QUEUED):
            last = run()
        jax.block_until_ready(last)
        taken.append((time.perf_counter() - started) / QUEUED)
    return statistics.median(taken)


def _torch() -> dict[str, str]:
    """The peer's version, where it is here, and what it computes on."""
    if importlib.util.find_spec("torch") is None:
        return {"torch": "not installed"}
    import torch

    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"torch": f"{importlib.metadata.version('torch')} on {where}"}


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return "no nvidia-smi"
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).strip()
