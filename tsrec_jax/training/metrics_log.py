"""Where a run's numbers go: `metrics.jsonl`, TensorBoard events and, on request, Weights & Biases."""

from __future__ import annotations

import functools
import json
import logging
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from tsrec_jax.errors import UserError
from tsrec_jax.files import write_text
from tsrec_jax.processes import first
from tsrec_jax.training.wandb_log import WandbSettings, open_run

METRICS_FILE = "metrics.jsonl"
_LOG = logging.getLogger(__name__)


def read_metrics(folder: pathlib.Path) -> list[dict[str, float]]:
    """The rows of `metrics.jsonl` in a folder, oldest first; none if the file does not exist.

    A last line that a killed run did not finish is left out.

    Raises:
      UserError: another line is damaged.
    """
    path = folder / METRICS_FILE
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if line.endswith(b"\n"):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise UserError(f"{path}, line {number}: no JSON ({error}); delete the line") from None
    return rows


class MetricsLog:
    """Appends scalar metrics by step. With several processes, only the first one writes.

    On resume, rows of steps that will be trained again are dropped, so that the file holds each step once.
    """

    def __init__(self, folder: pathlib.Path, *, resume_step: int = 0, wandb: WandbSettings | None = None):
        self._writes = first()
        if not self._writes:
            return
        folder.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_metrics(folder) if row["step"] <= resume_step] if resume_step else []
        path = folder / METRICS_FILE
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._lines = path.open("a", encoding="utf-8")
        writer, purged = _event_writer(), resume_step + 1 if resume_step else None
        self._events = None if writer is None else writer(str(folder / "tensorboard"), purge_step=purged)
        self._wandb = None if wandb is None else open_run(wandb, folder)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Records one row; a value that is not finite is stored as its name, since JSON has no NaN."""
        if not self._writes:
            return
        row = {k: float(v) if math.isfinite(v) else str(float(v)) for k, v in values.items()}
        self._lines.write(json.dumps({"step": step, **row}) + "\n")
        self._lines.flush()
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, float(value), step)
        if self._wandb is not None:  # it leaves out a step that is behind its newest, which a resumed run repeats
            self._wandb.log({name: float(value) for name, value in values.items()}, step=step)

    def close(self) -> None:
        """Flushes and closes all of them."""
        if not self._writes:
            return
        self._lines.close()
        if self._events is not None:
            self._events.close()
        if self._wandb is not None:
            self._wandb.finish()


@functools.cache
def _event_writer() -> type[Any] | None:
    """The writer of TensorBoard events; None if it is not installed, which is logged once."""
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError as error:
        if error.name != "tensorboardX":
            raise
        _LOG.warning("tensorboardX is not installed: no TensorBoard events are written; metrics.jsonl holds the same")
        return None
    return SummaryWriter


def clock(seconds: float) -> str:
    """Seconds as `1:02:03` or `2:03`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
