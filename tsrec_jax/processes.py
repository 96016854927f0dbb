"""Several processes that are one run: how they start, share work and results, and end when one of them dies.

Everything here also holds for a single process, where it costs nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from tsrec_jax.errors import UserError

HEARTBEAT_SECONDS = 60
LONGEST_WAIT = 7 * 24 * 3600  # seconds that processes wait for what the first one makes
GRACE = 2.0  # seconds in which the others can say what went wrong before process 0, which connects them, exits
AGAIN = "Give the same command on all hosts again: training goes on from its newest checkpoint"
Made = TypeVar("Made")
# How errors of collectives begin; their Python types differ.
_BROKEN = ("UNKNOWN:", "INTERNAL:", "UNAVAILABLE:", "ABORTED:", "CANCELLED:", "DEADLINE_EXCEEDED:")
_turns = itertools.count()  # of `first_makes`: a barrier's name is used once, and all processes count alike


@dataclasses.dataclass(frozen=True)
class Launch:
    """How the processes of a run find each other.

    Attributes:
      multi_host: let JAX find them (TPU pods, Slurm, Open MPI).
      coordinator: otherwise HOST:PORT of process 0,
      num_processes, process_id: how many there are and which one this is, from 0.
      heartbeat_seconds: a process that is silent for this long is taken for dead; None: HEARTBEAT_SECONDS.

    Raises:
      UserError: a combination that makes no sense.
    """

    multi_host: bool = False
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    heartbeat_seconds: int | None = None

    def __post_init__(self):
        named = {
            "--coordinator": self.coordinator,
            "--num_processes": self.num_processes,
            "--process_id": self.process_id,
        }
        given = [name for name, value in named.items() if value is not None]
        missing = [name for name, value in named.items() if value is None]
        if self.multi_host and given:
            raise UserError(
                f"--multi_host finds the other processes itself; leave out {', '.join(given)}, or leave it out"
            )
        if given and missing:
            raise UserError(f"{', '.join(given)} without {', '.join(missing)}: give all three, or --multi_host alone")
        if self.heartbeat_seconds is not None and not self.several:
            raise UserError("--heartbeat_seconds is for several processes: give --multi_host or --coordinator as well")
        if self.coordinator is None or self.num_processes is None or self.process_id is None:
            return
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdigit():
            raise UserError(f"--coordinator={self.coordinator}: it takes HOST:PORT of process 0")
        if not 0 <= self.process_id < self.num_processes:
            raise UserError(
                f"--process_id={self.process_id} is not one of the {self.num_processes} of --num_processes, from 0"
            )

    @property
    def several(self) -> bool:
        """Whether the run is to have several processes."""
        return self.multi_host or self.coordinator is not None


class Group:
    """This process as one of several; a context manager around all of their work.

    When the coordinator is gone, or another process has not been heard from for `heartbeat_seconds`, JAX ends a process
    from C++, where nothing can be caught. A shell on the other end of a pipe therefore has the last word: if the
    process ends without having said why, the shell says what has happened.

    Raises:
      UserError: the other processes cannot be found.
    """

    def __init__(self, launch: Launch):
        seconds = launch.heartbeat_seconds or HEARTBEAT_SECONDS
        try:
            jax.distributed.initialize(
                launch.coordinator, launch.num_processes, launch.process_id, heartbeat_timeout_seconds=seconds
            )
        except (ValueError, RuntimeError, OSError, ImportError) as error:  # the last two: a TPU's metadata server
            way = (
                "--multi_host found no TPU pod, Slurm or Open MPI job; give --coordinator and the rest instead, or "
                "leave it out where this process is the only one"
                if launch.multi_host
                else f"--coordinator={launch.coordinator} cannot be used; start all processes with the same one"
            )
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise UserError(f"{way} ({reason})") from None
        self.name = f"process {jax.process_index()} of {jax.process_count()}"
        words = (
            f"tsrec: {self.name} was ended before its work was done. If JAX says above that it has ended it, another "
            f"process has died or was silent for {seconds} s, and its own log says why. {AGAIN}"
        )
        self._witness = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _ || printf "%s\\n" "$0" >&2', words],
            stdin=subprocess.PIPE,
            start_new_session=True,  # what ends this process must not end it too
        )

    def leave(self, code: int) -> None:
        """Ends the work of this process: with 0 once all have finished, else at once and without returning."""
        if code == 0:
            jax.distributed.shutdown()
        self._witness.communicate(b"done\n")
        if code == 0:
            return
        sys.stdout.flush()
        sys.stderr.flush()
        if first():
            time.sleep(GRACE)
        os._exit(code)  # an orderly end would wait for processes that wait for this one


def several() -> bool:
    """Whether this process is one of several."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def first() -> bool:
    """Whether this is the process that prints and writes for all."""
    return not several() or jax.process_index() == 0


def lost(error: Exception) -> str:
    """What to say if work that the processes share has failed in this one; empty for other errors."""
    if not several() or not str(error).startswith(_BROKEN):
        return ""
    return (
        f"process {jax.process_index()} of {jax.process_count()}: work that the processes share has failed, as it does "
        f"when one of them has died; the log of that one says why. {AGAIN}"
    )


def first_makes(make: Callable[[], Made]) -> Made:
    """Calls `make` in the first process, and in the others after it, so that they find what it has made.

    An error in `make` ends the first process, and with it the others.
    """
    if not several():
        return make()
    from orbax.checkpoint import multihost  # takes long to import

    barrier = functools.partial(
        multihost.get_barrier_sync_fn(), key=f"tsrec/{next(_turns)}", timeout_ms=LONGEST_WAIT * 1000
    )
    if not first():
        barrier()
        return make()
    made = make()
    barrier()
    return made


def share(value: Any) -> Any:
    """The first process's JSON value, returned in all processes."""
    return gather(value)[0]


def agree(array: np.ndarray) -> np.ndarray:
    """The first process's array, returned in all processes; each passes one of the same shape and type."""
    return np.asarray(multihost_utils.broadcast_one_to_all(array)) if several() else array


def gather(value: Any) -> list[Any]:
    """The JSON values of all processes, in their order."""
    if not several():
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(data)))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(data)] = data
    parts = multihost_utils.process_allgather(padded)
    return [json.loads(part[:size].tobytes()) for part, size in zip(parts, sizes, strict=True)]
