"""Micro-batching: requests of many callers wait in one bounded queue and are answered a batch at a time."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from tsrec_jax.errors import UserError
from tsrec_jax.serving.answers import Answer, Request
from tsrec_jax.serving.logs import REQUEST_ID

_LOG = logging.getLogger(__name__)


class QueueFull(Exception):
    """The queue is full; it should be shorter in `retry_after` whole seconds."""

    def __init__(self, retry_after: int):
        super().__init__(f"the queue is full; try again in {retry_after} s")
        self.retry_after = retry_after


class Closed(Exception):
    """Requests are no longer accepted."""


class Expired(Exception):
    """The request's deadline passed before its turn came; nothing was computed for it."""


class BatchFailed(Exception):
    """The recommender failed on the batch; its own error is in the log."""


@dataclasses.dataclass(frozen=True)
class BatchSettings:
    """How requests are gathered.

    Attributes:
      max_batch: most requests in one call of the recommender.
      max_queue: most requests that may wait; those being computed do not count.
      max_wait: most seconds that the oldest request waits for others to join it.
    """

    max_batch: int
    max_queue: int = 128
    max_wait: float = 0.003

    def __post_init__(self) -> None:
        if self.max_batch < 1 or self.max_queue < 1 or not 0 <= self.max_wait <= threading.TIMEOUT_MAX:
            raise UserError(f"{self}: batch and queue must be at least 1, the wait at least 0 and finite")


@dataclasses.dataclass(frozen=True)
class Answered:
    """An answer and its times in seconds: `waited` in the queue, then `computed` in a batch of `batch_size`."""

    answer: Answer
    waited: float
    computed: float
    batch_size: int


@dataclasses.dataclass(frozen=True, eq=False)
class Ticket:
    """A request's place in the queue; times are from `time.monotonic`, `name` is the request's name in the log."""

    request: Request
    queued_at: float
    expires_at: float
    name: str
    future: Future[Answered] = dataclasses.field(default_factory=Future)


class Batcher:
    """A queue and the one thread that empties it.

    Every accepted request ends in exactly one way: with its answer, with `Expired`, `BatchFailed` or a `UserError` of
    the recommender, or withdrawn by its caller.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Request]], Sequence[Answer]],
        settings: BatchSettings,
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        """Starts the thread.

        Args:
          answer: maps requests to their answers in the same order; called by one thread only.
          settings: sizes and times.
          on_batch: called with the size and the seconds of each batch, failed ones included.
          on_failure: called from the thread if an error of its own ends it; by then all waiting requests have failed.
        """
        self.settings = settings
        self._answer = answer
        self._on_batch, self._on_failure = on_batch, on_failure
        self._queue: collections.deque[Ticket] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        self._batch_seconds = 0.0
        # A daemon: a recommender that hangs must not keep alive a process that was told twice to stop.
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """The number of waiting requests."""
        return len(self._queue)

    def refuse_if_full(self) -> None:
        """Cheap refusal before a request is looked at; `submit` decides.

        Raises:
          Closed: shutdown has begun.
          QueueFull: the queue is full.
        """
        with self._changed:
            self._check_room()

    def submit(self, request: Request, expires_at: float) -> Ticket:
        """Accepts a request.

        Args:
          request: a request that passed the recommender's `check`.
          expires_at: the `time.monotonic()` after which nothing is computed for it.

        Returns:
          A ticket whose future yields an `Answered`.

        Raises:
          Closed: shutdown has begun.
          QueueFull: the queue is full.
        """
        with self._changed:
            self._check_room()
            ticket = Ticket(request, time.monotonic(), expires_at, REQUEST_ID.get())
            self._queue.append(ticket)
            self._changed.notify()
        return ticket

    def withdraw(self, ticket: Ticket) -> None:
        """Takes back a request that nobody is waiting for any more; has no effect once it is being computed."""
        if ticket.future.cancel():
            with self._changed, contextlib.suppress(ValueError):
                self._queue.remove(ticket)  # frees its place now, not when its turn comes

    def close(self) -> None:
        """Accepts nothing more. Requests already accepted are still answered."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    @property
    def alive(self) -> bool:
        """Whether its thread still runs; after `close` it ends with the last answer."""
        return self._thread.is_alive()

    def join(self) -> None:
        """After `close`, waits for its thread to end."""
        self._thread.join()

    def _check_room(self) -> None:
        if self._closed:
            raise Closed("the server is shutting down and accepts no new requests")
        if len(self._queue) >= self.settings.max_queue:
            batches = math.ceil(len(self._queue) / self.settings.max_batch)
            raise QueueFull(max(1, math.ceil(batches * self._batch_seconds)))

    def _run(self) -> None:
        batch: list[Ticket] | None = []
        try:
            while (batch := self._take()) is not None:
                if batch:
                    self._compute(batch)
        except BaseException:
            _LOG.critical("the thread that answers has failed; nothing is answered any more", exc_info=True)
            self._give_up(batch or [])
            self._on_failure()

    def _give_up(self, batch: list[Ticket]) -> None:
        """Accepts nothing more, and fails the requests that were being computed and those that wait."""
        with self._changed:
            self._closed = True
            waiting = [ticket for ticket in self._queue if ticket.future.set_running_or_notify_cancel()]
            self._queue.clear()
        for ticket in [*batch, *waiting]:
            if not ticket.future.done():
                ticket.future.set_exception(BatchFailed("the thread that answers has failed; the log says why"))

    def _take(self) -> list[Ticket] | None:
        """The next batch, empty if all waiting requests had expired; None: closed and nothing left."""
        with self._changed:
            while not self._complete():
                self._changed.wait(self._patience())
            if not self._queue:
                return None
            batch: list[Ticket] = []
            late: list[Ticket] = []
            while self._queue and len(batch) < self.settings.max_batch:
                ticket = self._queue.popleft()
                if ticket.future.set_running_or_notify_cancel():
                    (batch if time.monotonic() < ticket.expires_at else late).append(ticket)
        for ticket in late:
            ticket.future.set_exception(Expired("the deadline passed while the request waited"))
        return batch

    def _complete(self) -> bool:
        """Whether there is no reason to wait for more requests."""
        patience = self._patience()
        return self._closed or len(self._queue) >= self.settings.max_batch or (patience is not None and patience <= 0)

    def _patience(self) -> float | None:
        """Seconds that the oldest request still waits for others; None if there is no request."""
        if not self._queue:
            return None
        return self._queue[0].queued_at + self.settings.max_wait - time.monotonic()

    def _compute(self, batch: list[Ticket]) -> None:
        started = time.monotonic()
        try:
            answers = self._answers([ticket.request for ticket in batch])
        except Exception as error:
            self._fail(batch, error)
            return
        finally:
            computed = time.monotonic() - started
            self._batch_seconds = 0.8 * self._batch_seconds + 0.2 * computed if self._batch_seconds else computed
            self._on_batch(len(batch), computed)
        for ticket, answer in zip(batch, answers, strict=True):
            ticket.future.set_result(Answered(answer, started - ticket.queued_at, computed, len(batch)))

    def _answers(self, requests: list[Request]) -> Sequence[Answer]:
        answers = self._answer(requests)
        if len(answers) != len(requests):  # pairing them up would give requests the answers to others
            raise RuntimeError(f"{len(answers)} answers for {len(requests)} requests")
        return answers

    def _fail(self, batch: list[Ticket], error: Exception) -> None:
        """Ends a batch on which the recommender raised `error`.

        A UserError belongs to one request: the catalogue may have changed since it was checked. The others must not
        suffer for it, so each request is computed separately.
        """
        if isinstance(error, UserError) and len(batch) > 1:
            for ticket in batch:
                self._compute([ticket])
            return
        if isinstance(error, UserError):
            batch[0].future.set_exception(error)
            return
        names = [ticket.name for ticket in batch]
        _LOG.error("a batch of %d requests failed", len(batch), exc_info=error, extra={"facts": {"requests": names}})
        for ticket in batch:
            ticket.future.set_exception(
                BatchFailed("the recommender failed on this request; the server's log says why")
            )
