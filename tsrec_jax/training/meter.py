"""Turns the device metrics of a step into the numbers that are logged."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from tsrec_jax.planning.accounting import flops_utilisation
from tsrec_jax.planning.chips import GIB, chip_of
from tsrec_jax.training.metrics_log import clock


class Meter:
    """Turns device metrics into log values: losses and norms of a step, rates over the steps since the last row.

    Args:
      parts: names of the loss terms that are logged separately.
      step: the last step done before this process began.
      max_steps: number of steps of the whole run.
      step_flops: model FLOPs of one optimiser step over all devices; 0: not known, no MFU.
    """

    def __init__(self, parts: tuple[str, ...], step: int, max_steps: int, step_flops: float = 0.0):
        self._parts = parts
        self._first = step
        self._max_steps = max_steps
        self._step_flops = step_flops
        self._last = time.perf_counter()
        self._durations: list[float] = []
        self._window = _Window()

    def next_of(self, batches: Iterator[Any]) -> Any:
        """The next batch; the time it takes counts as waiting."""
        started = time.perf_counter()
        batch = next(batches)
        self._window.waited += time.perf_counter() - started
        return batch

    def pause(self) -> None:
        """Excludes the time since the last step (validation, checkpoints) from the step times."""
        self._last = time.perf_counter()

    def add(self, step: int, metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
        """One step's metrics: every scalar under its own name, and the mean loss and the loss tokens of each part."""
        now = time.perf_counter()
        duration, self._last = now - self._last, now
        if step > self._first + 1:  # the first step of a process compiles
            self._durations = [*self._durations[-49:], duration]
        if step == self._first + 2 and self._window.steps:  # the first one is in no mean with others
            self._window = _Window(waited=self._window.waited - self._window.waited_before)
        values = {name: float(value) for name, value in metrics.items() if np.ndim(value) == 0}
        self._window.add(duration, values["tokens"], values["examples"])
        for index, name in enumerate(self._parts):
            count = float(metrics["part_counts"][index])
            values[f"loss_tokens/{name}"] = count
            if count:
                values[f"loss/{name}"] = float(metrics["part_sums"][index]) / count
        return values

    def rates(self) -> dict[str, float]:
        """Means over the steps since the last call; MFU and memory only on devices that report them.

        `input_wait_share` is the share of the time in which the loop waited for a batch. Meanwhile the device works on
        the previous step, so the share is at least as large as that in which the device had nothing to do.
        """
        window, self._window = self._window, _Window()
        values = {
            "step_seconds": window.seconds / window.steps,
            "tokens_per_second": window.tokens / window.seconds,
            "examples_per_second": window.examples / window.seconds,
            "input_wait_share": min(window.waited / window.seconds, 1.0),
        }
        chip = chip_of(jax.devices()[0].device_kind)
        if chip is not None and self._step_flops:
            flops = self._step_flops * window.steps
            values["mfu"] = flops_utilisation(flops, window.seconds, jax.device_count(), chip.tflops)
        peak = peak_memory()
        return values if peak is None else values | {"device_memory_gib": peak / GIB}

    def line(self, step: int, values: Mapping[str, float]) -> str:
        """One line for the terminal, from the values of `add` and `rates`."""
        tasks = " ".join(f"{name} {values[f'loss/{name}']:.3f}" for name in self._parts if f"loss/{name}" in values)
        left = np.median(self._durations) * (self._max_steps - step) if self._durations else float("nan")
        eta = clock(left) if math.isfinite(left) else "?"
        mfu = f"MFU {values['mfu']:.1%}  " if "mfu" in values else ""
        return (
            f"step {step}/{self._max_steps}  loss {values['loss']:.4f} ({tasks})  "
            f"{values['step_seconds']:.2f} s/step  {values['tokens_per_second']:.0f} tokens/s  {mfu}"
            f"padding {values['padding_share']:.1%}  left {eta}"
        )


class _Window:
    """Sums over the steps since the last row."""

    def __init__(self, waited: float = 0.0):
        self.steps = 0
        self.seconds = self.tokens = self.examples = 0.0
        self.waited = waited
        self.waited_before = 0.0  # the newest step ended

    def add(self, seconds: float, tokens: float, examples: float) -> None:
        self.steps += 1
        self.seconds += seconds
        self.tokens += tokens
        self.examples += examples
        self.waited_before = self.waited


def peak_memory() -> int | None:
    """Most bytes that any local device has held since the process began; None if the backend does not say (CPU)."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    known = [peak for peak in peaks if peak is not None]
    return max(known) if known else None
