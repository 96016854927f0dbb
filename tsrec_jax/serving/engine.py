"""One recommender with the threads that answer from it: one for the usual search and one for wide searches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tsrec_jax.errors import UserError
from tsrec_jax.serving.answers import MAX_BEAMS, Answer, Request, WideRequest
from tsrec_jax.serving.batcher import Batcher, BatchSettings, Ticket
from tsrec_jax.serving.messages import MAX_HISTORY

if TYPE_CHECKING:
    from tsrec_jax.serving.live_catalogue import LiveCatalogue
    from tsrec_jax.serving.recommender import Recommender

WIDENING = 4


class NotReady(Exception):
    """Recommendations are not accepted yet, or never will be; the message says why."""


def refuse_unless_indexed(catalogue: LiveCatalogue) -> None:
    """Raises NotReady if a look-up by words or titles, and all requests behind it, would have to wait for the index."""
    catalogue.search.prepare()
    if catalogue.search.failure:
        raise NotReady(f"there is no index of the titles: {catalogue.search.failure}; name items by their ids")
    if catalogue.search.built is None:
        raise NotReady("the titles are still being indexed; name items by their ids, or ask later")


class Engine:
    """A recommender and its two queues.

    A wide search takes several times as long as a usual one. Wide searches have their own queue, and the recommender
    takes from the two in turn: a usual batch waits for one wide search at most.

    Attributes:
      recommender: the loaded recommender.
      usual: the queue of requests for the usual width.
      widths: the widths of searches, rising; the first is the usual one. Only these are compiled.
      started: `time.monotonic()` when requests were first accepted; None: not yet.
    """

    def __init__(
        self,
        recommender: Recommender,
        *,
        max_queue: int,
        max_wait: float,
        max_beams: int,
        on_batch: Callable[[int, float], None],
        on_failure: Callable[[], None],
    ) -> None:
        """Starts the threads; the arguments are those of `Batcher`, and the beams of the widest search.

        If the usual search has at least as many beams, it is the only one.
        """
        self.recommender = recommender
        self.widths = _widths(recommender.beams, max_beams)
        self._may_rise = self.widths[-1] < MAX_BEAMS
        self.started: float | None = None
        self._open: set[int] = set()
        usual = BatchSettings(recommender.max_batch, max_queue, max_wait)
        self.usual = Batcher(recommender.answer, usual, on_batch, on_failure)
        self._wide = Batcher(self._answer_wide, BatchSettings(1, max_queue, 0.0), on_batch, on_failure)

    def warm_up(self, report: Callable[[str], None], opened: Callable[[], None]) -> None:
        """Compiles all searches, the usual one first.

        Args:
          report: told what will be compiled next.
          opened: called once requests are accepted; not everything is compiled by then.
        """

        def open_width(beams: int) -> None:
            self._open.add(beams)
            if self.started is None:
                self.started = time.monotonic()
                opened()

        self.recommender.warm_up(report, max_history=MAX_HISTORY, wide=self.widths[1:], opened=open_width)
        opened_widths = tuple(width for width in self.widths if width in self._open)
        self._may_rise &= opened_widths == self.widths  # otherwise this model has no wider search
        self.widths = opened_widths

    def widths_for(self, k: int, beams: int | None, exact: bool) -> tuple[int, ...]:
        """The widths of the searches for a request; each is tried if the one before does not prove its answer.

        Args:
          k: items wanted.
          beams: the smallest width; None: the usual one.
          exact: whether to widen the search until it proves its answer, up to the greatest width.

        Raises:
          UserError: the width is too small for the items, or larger than the widest search.
          NotReady: such a search is not compiled yet.
        """
        least = self.widths[0] if beams is None else beams
        if least > self.widths[-1]:
            raise UserError(f"beams: at most {self.widths[-1]} here{' (--max_beams)' if self._may_rise else ''}")
        if k > least:
            if beams is not None:
                raise UserError(f"k: at most {least} here, as `beams` says")
            wider = ", or as many as `beams`" if len(self.widths) > 1 else ""
            raise UserError(f"k: at most {least} here (--beams){wider}")
        first = next(width for width in self.widths if width >= least)
        needed = tuple(width for width in self.widths if width == first or (exact and width > first))
        if not self._open.issuperset(needed):
            raise NotReady("wide searches are still being compiled; ask without `exact` and `beams`, or later")
        return needed

    def refuse_if_full(self) -> None:
        """As in `Batcher`, for requests of the usual width."""
        self.usual.refuse_if_full()

    def submit(self, request: Request, expires_at: float, beams: int | None, exact: bool) -> Ticket:
        """Accepts a request, as `Batcher.submit`; for the other arguments and errors see `widths_for`."""
        widths = self.widths_for(request.k, beams, exact)
        if widths != self.widths[:1]:
            request = WideRequest(**vars(request), widths=widths)
        return self._queue(request).submit(request, expires_at)

    def withdraw(self, ticket: Ticket) -> None:
        """Takes back a request that nobody is waiting for any more."""
        self._queue(ticket.request).withdraw(ticket)

    @property
    def depth(self) -> int:
        """The number of waiting requests."""
        return self.usual.depth + self._wide.depth

    def close(self) -> None:
        """Accepts nothing more. Requests already accepted are still answered."""
        self.usual.close()
        self._wide.close()

    @property
    def alive(self) -> bool:
        """Whether, after `close`, something still has to be answered."""
        return self.usual.alive or self._wide.alive

    def join(self) -> None:
        """After `close`, waits for the last answer."""
        self.usual.join()
        self._wide.join()

    def _queue(self, request: Request) -> Batcher:
        return self._wide if isinstance(request, WideRequest) else self.usual

    def _answer_wide(self, requests: Sequence[Request]) -> list[Answer]:
        """Answers the one request of a wide batch, from the first width that proves its answer or the last one."""
        (request,) = requests
        assert isinstance(request, WideRequest)
        for beams in request.widths:
            (answer,) = self.recommender.answer([request], beams=beams)
            if answer.exact:
                break
        return [answer]


def _widths(beams: int, most: int) -> tuple[int, ...]:
    """The usual width and the wider ones."""
    widths = [beams]
    while widths[-1] < most:
        widths.append(min(widths[-1] * WIDENING, most))
    return tuple(widths)
