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
    """The queue holds all that it may; `retry_after` is in how many whole seconds it should be shorter."""

    def __init__(self, retry_after: int):
        super().__init__(f"the queue is full; try again in {retry_after} s")
        self.retry_after = retry_after


class Closed(Exception):
    """No request is accepted any more."""


class Expired(Exception):
    """The request's deadline passed before its turn came; nothing was computed for it."""


class BatchFailed(Exception):
    """The recommender failed on the batch; its own error is in the log."""


@dataclasses.dataclass(frozen=True)
class BatchSettings:
    """How requests are gathered.

    Attributes:
      max_batch: requests of one call of the recommender.
      max_queue: requests that may wait; those being computed do not count.
      max_wait: seconds that the oldest request waits for others to join it.
    """

    max_batch: int
    max_queue: int = 128
    max_wait: float = 0.003

    def __post_init__(self) -> None:
        if self.max_batch < 1 or self.max_queue < 1 or not 0 <= self.max_wait <= threading.TIMEOUT_MAX:
            raise UserError(f"{self}: batch and queue must be at least 1, the wait at least 0 and finite")


@dataclasses.dataclass(frozen=True)
class Answered:
    """An answer with its times in seconds: `waited` in the queue, `computed` with the batch of `batch_size`."""

    answer: Answer
    waited: float
    computed: float
    batch_size: int


@dataclasses.dataclass(frozen=True, eq=False)
class Ticket:
    """A request's place in the queue; times are of `time.monotonic`, `name` is the request's in the log."""

    request: Request
    queued_at: float
    expires_at: float
    name: str
    future: Future[Answered] = dataclasses.field(default_factory=Future)


class Batcher:
    """A queue and the one thread that empties it.

    Every accepted request ends in exactly one way: its answer, `Expired`, `BatchFailed`, a `UserError` of the
    recommender, or withdrawn by its caller.
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
          answer: of requests to their answers in the same order; called by one thread only.
          settings: sizes and times.
          on_batch: told the size and the seconds of each batch, failed ones included.
          on_failure: called from the thread where it ends by an error of its own; all that waited has failed then.
        """
        self.settings = settings
        self._answer = answer
        self._on_batch, self._on_failure = on_batch, on_failure
        self._queue: collections.deque[Ticket] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        self._batch_seconds = 0.0
        # A daemon: a recommender that hangs must not keep a process alive that was told twice to stop.
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """Requests that wait."""
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
          request: one that the recommender's `check` let pass.
          expires_at: `time.monotonic()` after which nothing is computed for it.

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
        """Takes a request back that nobody waits for any more; without effect once it is being computed."""
        if ticket.future.cancel():
            with self._changed, contextlib.suppress(ValueError):
                self._queue.remove(ticket)  # frees its place now, not when its turn comes

    def close(self) -> None:
        """Accepts nothing more. What is accepted is still answered."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    @property
    def alive(self) -> bool:
        """Whether its thread still runs; after `close` it ends with the last answer."""
        return self._thread.is_alive()

    def join(self) -> None:
        """Waits for the end of its thread, after `close`."""
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
        """Accepts nothing more and fails what was being computed and what waits."""
        with self._changed:
            self._closed = True
            waiting = [ticket for ticket in self._queue if ticket.future.set_running_or_notify_cancel()]
            self._queue.clear()
        for ticket in [*batch, *waiting]:
            if not ticket.future.done():
                ticket.future.set_exception(BatchFailed("the thread that answers has failed; the log says why"))

    def _take(self) -> list[Ticket] | None:
        """The next batch, empty where all that waited had expired; None: closed and nothing left."""
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
        """Seconds that the oldest request still waits for company; None where there is no request."""
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
        if len(answers) != len(requests):  # pairing them up would hand out the answers of others
            raise RuntimeError(f"{len(answers)} answers for {len(requests)} requests")
        return answers

    def _fail(self, batch: list[Ticket], error: Exception) -> None:
        """Ends the batch of a recommender that raised `error`.

        A UserError is one request's own: the catalogue may have changed since it was checked. The others must not
        suffer for it, so each is computed by itself.
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
