"""Requests to stop: SIGTERM (a preemption, a scheduler) and Ctrl-C end training after the current step.

Several processes all stop after the same step: JAX's own preemption service takes a SIGTERM sent to any of them, and
through it they agree on the step.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from jax.experimental import multihost_utils

from tsrec_jax.processes import several


class StopSignals:
    """A context manager in which SIGTERM and a first SIGINT are noted; a second SIGINT interrupts at once.

    Only the main thread may handle signals; in other threads nothing is noted.
    """

    def __init__(self) -> None:
        self.name = ""  # name of the signal received
        self._several = several()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT,) if self._several else (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, self._before.pop(signal.SIGINT))
            if self._several:
                os.kill(os.getpid(), signal.SIGTERM)  # to JAX's preemption service, which tells the other processes

    def reached(self, step: int) -> bool:
        """Whether to stop after `step`; every process asks after every step, and all get the same answer."""
        if self._several and multihost_utils.reached_preemption_sync_point(step):
            self.name = self.name or signal.SIGTERM.name
            return True
        return self.asked

    @property
    def asked(self) -> bool:
        """Whether a run of one process has received a signal; several processes can agree only after a step."""
        return bool(self.name) and not self._several
