"""The trace of a few steps, for TensorBoard or Perfetto."""

from __future__ import annotations

import pathlib
from typing import Any

import jax

from tsrec_jax.errors import UserError

PROFILE_FOLDER = "profile"


def profiled_steps(text: str) -> range:
    """The steps that a flag names: `10:13` means steps 10, 11, 12 and 13, and `10` only that step; empty: none.

    Raises:
      UserError: the text names no steps.
    """
    first, separator, last = text.partition(":")
    if not text:
        return range(0)
    try:
        steps = range(int(first), int(last if separator else first) + 1)
    except ValueError:
        steps = range(0)
    if not steps or steps[0] < 1:
        raise UserError(f"--profile={text}: give the first and the last step to trace, as in --profile=10:13")
    return steps


class Profiler:
    """Traces `steps` into `folder`/profile. It waits for the device at both ends, so that the trace holds whole steps.

    Steps that were done before a resume are not traced.
    """

    def __init__(self, folder: pathlib.Path, steps: range):
        self._folder = folder / PROFILE_FOLDER
        self._steps = steps
        self._tracing = False

    def before(self, step: int, state: Any) -> None:
        """Starts or ends the trace before a step; `step` is its number, and `state` what it will change."""
        if (step in self._steps) == self._tracing:
            return
        jax.block_until_ready(state)
        if self._tracing:
            self.close()
        else:
            jax.profiler.start_trace(str(self._folder))
            self._tracing = True

    def close(self) -> None:
        """Ends a trace that is still open."""
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False
