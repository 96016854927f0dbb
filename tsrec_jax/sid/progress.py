"""How far a long fit is and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable

REPORT_SECONDS = 10.0  # between two lines


class Progress:
    """Counts steps that take about the same time, and says now and then how many are left.

    Args:
      steps: all of them.
      report: receives a line when REPORT_SECONDS have passed since the last one.
      now: seconds from any start.
    """

    def __init__(self, steps: int, report: Callable[[str], None], now: Callable[[], float] = time.perf_counter) -> None:
        self._steps, self._report, self._now = steps, report, now
        self._started = self._shown = now()
        self._done = 0

    def tick(self, name: str) -> None:
        """One step of the part `name` is done."""
        self._done += 1
        if self._now() - self._shown >= REPORT_SECONDS:
            self._shown = self._now()
            self._report(f"{name}: {self._done} of {self._steps} steps{self.estimate}")

    @property
    def estimate(self) -> str:
        """The end of a line: the time left, where there is any worth telling."""
        left = (self._now() - self._started) / max(self._done, 1) * (self._steps - self._done)
        return f", about {left:.0f} s left" if left >= 1 else ""
