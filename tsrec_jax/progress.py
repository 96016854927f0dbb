"""What a run reports: lines, and bars for long work. The first of several processes speaks for all."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from tqdm import tqdm

from tsrec_jax.processes import first

REPORT_SECONDS = 10.0  # between two lines of long work
LOGGER = logging.getLogger("tsrec_jax.run")
_STAGE = contextvars.ContextVar("stage", default="")


class _Console(logging.Handler):
    """Prints lines on the standard output, above a bar that is being shown."""

    def emit(self, record: logging.LogRecord) -> None:
        if first():
            tqdm.write(self.format(record))
            sys.stdout.flush()


tqdm.set_lock(threading.RLock())  # its own lock is shared with other processes, none of which draws
LOGGER.addHandler(_Console())
LOGGER.setLevel(logging.INFO)
LOGGER.propagate = False  # absl, which Orbax imports, gives the root logger a handler: each line would come twice


def report(line: str) -> None:
    """Reports one line, after the name of the stage."""
    LOGGER.info("%s", _STAGE.get() + line)


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Lines that this thread reports in the block begin with `name: `."""
    token = _STAGE.set(f"{name}: ")
    try:
        yield
    finally:
        _STAGE.reset(token)


class Progress:
    """Counts steps that take about the same time: on a terminal with a bar, else with a line now and then.

    Args:
      steps: how many there are.
      report: receives a line when REPORT_SECONDS have passed since the last one.
      now: a clock, in seconds from any start.
      terminal: where a bar is drawn, if it is a terminal; None: the standard error.
      unit: what the steps are, in the plural.
    """

    def __init__(
        self,
        steps: int,
        report: Callable[[str], None] = report,
        now: Callable[[], float] = time.perf_counter,
        terminal: TextIO | None = None,
        unit: str = "steps",
    ) -> None:
        self._steps, self._report, self._now, self._unit = steps, report, now, unit
        self._started = self._shown = now()
        self._done = 0
        terminal = sys.stderr if terminal is None else terminal
        self._bar = (
            tqdm(total=steps, file=terminal, leave=False, unit=f" {unit}") if terminal.isatty() and first() else None
        )

    def tick(self, name: str, count: int = 1, note: str = "") -> None:
        """Counts steps of the part `name` that are done; `note` is what else a line says about them."""
        self._done += count
        if self._bar is not None:
            self._bar.set_description(name, refresh=False)
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
            if self._done == self._steps:
                self._bar.close()
        elif self._now() - self._shown >= REPORT_SECONDS:
            self._shown = self._now()
            self._report(f"{name}: {self._done} of {self._steps} {self._unit}{note and f'; {note}'}{self.estimate}")

    @property
    def estimate(self) -> str:
        """The end of a line: the time left, if there is any worth telling."""
        left = (self._now() - self._started) / max(self._done, 1) * (self._steps - self._done)
        return f", about {left:.0f} s left" if left >= 1 else ""
