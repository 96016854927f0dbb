"""Goes through the cells for so many minutes: each in a process that may die, none begun that would not end in time."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

from benchmarks.device.cells import PARTS, START_GUESS, Cell, estimate
from benchmarks.device.store import CUT, DONE, FAILED, LOG, Store

LEAVE = 10.0  # seconds that a process has to end on its own
ROOT = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Options:
    """The request for a run.

    Attributes:
      minutes: after which it has ended.
      out: folder of what it measured.
      work: folder of what may be lost: the study's workdir, compiled programs.
      parts: to work on.
      data: a dataset folder; empty: none.
      missing: {part: why its cells cannot be measured here}.
      tiny: shapes that a CPU does in seconds.
      again: cells that failed are tried again.
    """

    minutes: float
    out: pathlib.Path
    work: pathlib.Path
    parts: Sequence[str] = PARTS
    data: str = ""
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tiny: bool = False
    again: bool = False


class Worker:
    """A process that measures cells one after the other."""

    def __init__(self, name: str, work: pathlib.Path, log: TextIO):
        self.name = name
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            # Two frameworks share the device.
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "MPLBACKEND": "Agg",
        }
        if name == "study":  # the other parts state how long compilation takes
            environment["JAX_COMPILATION_CACHE_DIR"] = str(work / "compiled")
        began = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.device.worker"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        self._begun = began

    def start(self, seconds: float) -> float:
        """Seconds until it had the device.

        Raises:
          TimeoutError: it did not in that time.
          RuntimeError: it ended instead.
        """
        answer = self._answer(seconds)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return time.monotonic() - self._begun

    def measure(self, cell: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """`facts` or `error` of a cell.

        Raises:
          TimeoutError: nothing came in that time.
        """
        try:
            self._process.stdin.write(json.dumps(cell) + "\n")
            self._process.stdin.flush()
        except OSError:
            return {"error": self._ended()}
        return self._answer(seconds)

    def _answer(self, seconds: float) -> dict[str, Any]:
        if not select.select([self._process.stdout], [], [], max(0.0, seconds))[0]:
            raise TimeoutError
        line = self._process.stdout.readline()
        return json.loads(line) if line.endswith("\n") else {"error": self._ended()}

    def close(self, at_once: bool = False) -> None:
        """Ends the process: when it has read its input, or by a signal, at which a training saves its step."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        if at_once:
            self._process.terminate()
        try:
            self._process.wait(LEAVE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(LEAVE)
        return f"the process ended with {self._process.poll()}: see the log"


def run(options: Options, cells: Sequence[Cell], store: Store) -> int:
    """Measures until the cells or the minutes are over.

    Returns:
      How many cells of the chosen parts are still not measured.
    """
    options.work.mkdir(parents=True, exist_ok=True)
    # The floor of decoding is made of the rates that `facts` finds.
    parts = {*options.parts, *(["facts"] if "decode" in options.parts else [])}
    wanted = [cell for cell in cells if cell.part in parts]
    with (options.out / LOG).open("a", encoding="utf-8") as log, _signals():
        _Run(options, store, log).go([cell for cell in wanted if _is_open(cell, options, store)])
    return sum(_is_open(cell, options, store) for cell in wanted)


def _is_open(cell: Cell, options: Options, store: Store) -> bool:
    status = store.status(cell.part, cell.key)
    return cell.part not in options.missing and status != DONE and (status != FAILED or options.again)


class _Run:
    """One run: its deadline, and the process that measures."""

    def __init__(self, options: Options, store: Store, log: TextIO):
        self._options, self._store, self._log = options, store, log
        self._deadline = time.monotonic() + 60 * options.minutes
        self._worker: Worker | None = None
        self._start = START_GUESS

    def go(self, cells: Sequence[Cell]) -> None:
        """Measures what fits into the minutes."""
        late = 0
        try:
            for cell in cells:
                starts = self._worker is None or self._worker.name != cell.process
                needed = estimate(cell, self._store.seconds(cell.part)) + (self._start if starts else 0.0)
                if needed > self._left():
                    late += 1
                    continue
                if not self._measure(cell, starts):
                    self._end(at_once=True)
        finally:
            self._end(at_once=True)
        if late:
            self._tell(f"{late} cells were not begun, since they would not have ended in time")

    def _left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def _end(self, at_once: bool) -> None:
        if self._worker is not None:
            self._worker.close(at_once)
        self._worker = None

    def _measure(self, cell: Cell, starts: bool) -> bool:
        """Measures and keeps a cell; False where its process is not to be used again."""
        self._say(cell, "begins")
        began = time.monotonic()
        try:
            if starts:
                self._end(at_once=False)
                self._worker = Worker(cell.process, self._options.work, self._log)
                self._start = self._worker.start(self._left())
                began = time.monotonic()
            found = self._worker.measure({"part": cell.part, "request": self._request(cell)}, self._left())
            status = DONE if "facts" in found else FAILED
        except TimeoutError:
            status, found = CUT, {"error": "the minutes were over"}
        except RuntimeError as error:
            status, found = FAILED, {"error": str(error)}
        except BaseException:
            self._store.add(cell.part, cell.key, {"status": CUT, "error": "the run was stopped"})
            raise
        seconds = time.monotonic() - began
        kept = {"status": status, "request": dict(cell.request), "seconds": seconds, "process_start": self._start}
        self._store.add(cell.part, cell.key, {**kept, **found})
        self._say(cell, f"{status} after {seconds:.1f} s" + (f": {found['error']}" if status != DONE else ""))
        return status == DONE

    def _request(self, cell: Cell) -> dict[str, Any]:
        options = self._options
        return {
            **cell.request,
            "tiny": options.tiny,
            "data": options.data,
            "rates": self._store.facts("facts", "device"),
            "kept": str(options.work / "mix.npz"),
            "workdir": str(options.work / "study"),
            "out": str(options.out),
        }

    def _say(self, cell: Cell, words: str) -> None:
        self._tell(f"{cell.part}, {cell.key}: {words}")

    def _tell(self, line: str) -> None:
        for stream in (sys.stdout, self._log):
            print(line, file=stream, flush=True)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does, its process with it."""

    def stop(number: int, _frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
