"""Where a run's numbers go: `metrics.jsonl`, TensorBoard events and a line on the terminal."""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Mapping

from tensorboardX import SummaryWriter

from tsrec_jax.processes import first

METRICS_FILE = "metrics.jsonl"


def read_metrics(folder: pathlib.Path) -> list[dict[str, float]]:
    """The rows of `metrics.jsonl` in a folder, oldest first; none when the file is not there.

    A last line that a killed run did not finish is left out.
    """
    path = folder / METRICS_FILE
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


class MetricsLog:
    """Appends scalar metrics by step. Of several processes the first one writes, and the others write nothing.

    On resume, rows of steps that will be trained again are dropped, so that the file holds each step once.
    """

    def __init__(self, folder: pathlib.Path, *, resume_step: int = 0):
        self._writes = first()
        if not self._writes:
            return
        folder.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_metrics(folder) if row["step"] <= resume_step]
        path = folder / METRICS_FILE
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        os.replace(temporary, path)
        self._lines = path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step + 1 if resume_step else None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Records one row; a value that is not finite is stored as its name, since JSON has no NaN."""
        if not self._writes:
            return
        row = {k: float(v) if math.isfinite(v) else str(float(v)) for k, v in values.items()}
        self._lines.write(json.dumps({"step": step, **row}) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._events.add_scalar(name, float(value), step)

    def close(self) -> None:
        """Flushes and closes both files."""
        if not self._writes:
            return
        self._lines.close()
        self._events.close()


def clock(seconds: float) -> str:
    """Seconds as `1:02:03` or `2:03`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
