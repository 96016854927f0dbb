"""A thread that does one thing after another and does not keep the process alive."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class OneThread:
    """An executor for work that may hang, such as a download; a process that ends would wait for a pool's threads.

    Args:
      name: the name of the thread, which starts with the first piece of work.
    """

    def __init__(self, name: str):
        self._waiting: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._lock = threading.Lock()

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        """Queues work; it is skipped if its future is cancelled before its turn comes."""
        future: Future[Any] = Future()
        self._waiting.put((future, work))
        with self._lock:
            if self._thread.ident is None:
                self._thread.start()
        return future

    def _run(self) -> None:
        while True:
            future, work = self._waiting.get()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:
                    future.set_exception(error)
            del future, work
