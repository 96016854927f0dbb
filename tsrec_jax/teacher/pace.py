"""When the next request may start: an even rate, and pauses requested by a server or due after a failure."""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from collections.abc import Callable

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds to wait after failures


class PaceEnded(Exception):
    """The run ends, and no thread waits any longer."""


@dataclasses.dataclass(frozen=True)
class Clock:
    """Time as the waiting code sees it; tests give it another one.

    Attributes:
      now: seconds since an arbitrary start.
      wait: waits some seconds, or less if the event is set meanwhile.
    """

    now: Callable[[], float] = time.monotonic
    wait: Callable[[threading.Event, float], object] = threading.Event.wait


class Pace:
    """Hands out starting times to the threads of one run.

    With a limit of r requests per minute, starts are 60 / r seconds apart, so that no minute has more than r of them
    (and there is no burst at the beginning).
    """

    def __init__(self, requests_per_minute: float, clock: Clock) -> None:
        self._gap = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._clock = clock
        self._lock = threading.Lock()
        self._next = clock.now()
        self._stop = threading.Event()

    def await_turn(self) -> None:
        """Returns when a request may start.

        Raises:
          PaceEnded: the run ends.
        """
        while True:
            with self._lock:
                left = self._next - self._clock.now()
                if left <= 0:
                    self._next = self._clock.now() + self._gap
            if self._stop.is_set():
                raise PaceEnded
            if left <= 0:
                return
            self._clock.wait(self._stop, left)

    def pause_all(self, seconds: float) -> None:
        """Lets no request start for this long: when a server names a time, it applies to the whole account."""
        with self._lock:
            self._next = max(self._next, self._clock.now() + seconds)

    def back_off(self, failures: int) -> None:
        """Waits before the next attempt at one question, twice as long after every failure, give or take a third.

        The variation keeps questions that failed together from being repeated together.

        Raises:
          PaceEnded: the run ends.
        """
        wait = min(FIRST_WAIT * 2 ** (failures - 1), LONGEST_WAIT) * random.uniform(2 / 3, 4 / 3)
        self._clock.wait(self._stop, wait)
        if self._stop.is_set():
            raise PaceEnded

    def stop(self) -> None:
        """Ends every wait."""
        self._stop.set()
