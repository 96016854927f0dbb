"""From the device metrics of a step to the numbers that are logged."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import numpy as np

from tsrec_jax.training.metrics_log import clock


class Meter:
    """Turns device metrics into log values: per-task losses, rates, padding and the time left."""

    def __init__(self, task_names: tuple[str, ...], step: int, max_steps: int):
        self._names = task_names
        self._first = step
        self._max_steps = max_steps
        self._last = time.perf_counter()
        self._durations: list[float] = []

    def pause(self) -> None:
        """Leaves the time since the last step out of the step times (validation, checkpoints)."""
        self._last = time.perf_counter()

    def add(self, step: int, metrics: Mapping[str, np.ndarray], batch: Mapping[str, np.ndarray]) -> dict[str, float]:
        now = time.perf_counter()
        duration, self._last = now - self._last, now
        if step > self._first + 1:  # the first step of a process compiles
            self._durations = [*self._durations[-49:], duration]
        useful = int(np.count_nonzero(batch["segment_ids_BT"]))
        values = {name: float(metrics[name]) for name in ("loss", "grad_norm", "update_norm", "learning_rate")}
        for index, name in enumerate(self._names):
            count = float(metrics["token_counts"][index])
            values[f"loss_tokens/{name}"] = count
            if count:
                values[f"loss/{name}"] = float(metrics["nll_sums"][index]) / count
        return values | {
            "step_seconds": duration,
            "tokens_per_second": useful / duration,
            "padding_share": 1.0 - useful / batch["segment_ids_BT"].size,
        }

    def line(self, step: int, values: Mapping[str, float]) -> str:
        tasks = " ".join(f"{name} {values[f'loss/{name}']:.3f}" for name in self._names if f"loss/{name}" in values)
        left = np.median(self._durations) * (self._max_steps - step) if self._durations else float("nan")
        eta = clock(left) if math.isfinite(left) else "?"
        return (
            f"step {step}/{self._max_steps}  loss {values['loss']:.4f} ({tasks})  "
            f"{values['step_seconds']:.2f} s/step  {values['tokens_per_second']:.0f} tokens/s  "
            f"padding {values['padding_share']:.1%}  left {eta}"
        )
