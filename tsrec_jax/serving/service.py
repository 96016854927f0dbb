"""One service with its counters, from warm-up through reloads to the last answer before shutdown."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from tsrec_jax.errors import UserError
from tsrec_jax.serving.answers import MAX_BEAMS, Request
from tsrec_jax.serving.batcher import Batcher, Closed, Ticket
from tsrec_jax.serving.engine import Engine, NotReady
from tsrec_jax.serving.metrics import Metrics

if TYPE_CHECKING:
    from tsrec_jax.serving.recommender import Recommender

_BEHIND_SECONDS = 5.0  # how long items blocked or removed by other processes may still be recommended
_Found = TypeVar("_Found")
_LOG = logging.getLogger(__name__)


class _Stopped(Exception):
    """Ends a warm-up between two programs."""


class Service:
    """The state that the HTTP routes share.

    States, in this order: warming up (or failed to), ready, leaving, draining. Recommendations are accepted while it is
    ready or leaving, but are invited only while it is ready.
    """

    def __init__(
        self,
        recommender: Recommender,
        *,
        max_queue: int,
        max_wait: float,
        max_beams: int = MAX_BEAMS,
        load: Callable[[], Recommender] | None = None,
    ) -> None:
        """Starts the threads that answer; the warm-up starts with `start`.

        Args:
          recommender: the loaded recommender.
          max_queue: most requests that may wait.
          max_wait: most seconds that a request waits for others to share its batch.
          max_beams: width of the widest search.
          load: loads the recommender again, for `reload`; None: it cannot be reloaded.
        """
        self.metrics = Metrics(
            queue_depth=lambda: self._engine.depth,
            items=lambda: self.recommender.catalogue.num_items,
            ready=lambda: not self.not_ready,
            behind=lambda: self.recommender.catalogue.behind,
        )
        self._max_queue, self._max_wait, self._max_beams = max_queue, max_wait, max_beams
        self._load = load
        self.failure = ""  # why the service has failed for good
        self.compiled = False  # whether the warm-up is over; requests are accepted earlier
        self.leaving = self.draining = False
        self._when_changed: Callable[[], None] = lambda: None
        self._progress = "the warm-up has not begun"
        self._engine = self._engine_of(recommender)
        self._former: list[Engine] = []  # engines still answering what they accepted
        self._work: threading.Thread | None = None  # the thread that warms up or reloads
        self.metrics.serves(recommender.version)

    @property
    def recommender(self) -> Recommender:
        """The recommender that answers new requests."""
        return self._engine.recommender

    @property
    def batcher(self) -> Batcher:
        """Its queue of requests for the usual search."""
        return self._engine.usual

    def start(self, when_changed: Callable[[], None] = lambda: None) -> None:
        """Warms up in a separate thread; recommendations are accepted once the first search is compiled.

        Args:
          when_changed: called from another thread when this happens, when everything is compiled, and if `failure` is
            set.
        """
        self._when_changed = when_changed
        self._work = threading.Thread(target=self._run_warm_up, name="warm-up", daemon=True)
        self._work.start()

    def reload(self) -> None:
        """Loads the export again in a separate thread and takes it over once it is warm; nothing is lost meanwhile.

        The former one answers the requests accepted before. If loading fails, the former one stays.
        """
        if self._load is None or self.leaving or self._engine.started is None:
            _LOG.warning("asked to reload, which only a service that is ready can do")
        elif self._work is not None and self._work.is_alive():
            _LOG.warning("asked to reload while it is still compiling or reloading; ask again when it is done")
        else:
            self._work = threading.Thread(target=self._run_reload, args=(self._load,), name="reload", daemon=True)
            self._work.start()

    @property
    def not_ready(self) -> str:
        """Why no recommendation request should be sent here; empty if one should."""
        if self.leaving:
            return "the server is shutting down"
        if self.recommender.catalogue.behind > _BEHIND_SECONDS:
            return "the changes of the catalogue cannot be read; the server's log says why"
        return self._refusal

    @property
    def _refusal(self) -> str:
        """Why recommendations are not accepted now; empty if they are."""
        if self.draining:
            return "the server is shutting down"
        if self.failure:
            return f"{self.failure}; the server's log says why"
        return "" if self._engine.started is not None else self._progress

    @property
    def max_k(self) -> int:
        """The most items that a request may ask for without asking for a wider search."""
        return min(self.recommender.beams, MAX_BEAMS)

    @property
    def max_beams(self) -> int:
        """Width of the widest search, which may be the usual one."""
        return self._engine.widths[-1]

    def refuse_unless_ready(self) -> None:
        """Raises NotReady with the reason if recommendations are not accepted."""
        if reason := self._refusal:
            raise NotReady(reason)

    def refuse_if_full(self) -> None:
        """Cheap refusal before a request is checked; raises as `Batcher.refuse_if_full`."""
        self._of_now(Engine.refuse_if_full)

    def refuse_width(self, k: int, beams: int | None, exact: bool) -> None:
        """Refuses a search that does not exist, or not yet; raises as `Engine.widths_for`."""
        self._engine.widths_for(k, beams, exact)

    def submit(self, request: Request, expires_at: float, beams: int | None = None, exact: bool = False) -> Accepted:
        """Accepts a request, as `Batcher.submit`; `beams` and `exact` as in `Engine.widths_for`.

        Raises:
          UserError: there is no such search.
        """

        def accept(engine: Engine) -> Accepted:
            return Accepted(engine, engine.submit(request, expires_at, beams, exact))

        return self._of_now(accept)

    def leave(self) -> None:
        """Announces the shutdown; requests are still accepted, and every answer closes its connection."""
        self.leaving = True

    def drain(self) -> None:
        """Begins the shutdown: nothing new is accepted, everything accepted is answered. Returns at once."""
        self.leaving = self.draining = True
        self._engine.close()

    @property
    def drained(self) -> bool:
        """Whether, after `drain`, the last answer has been given and the warm-up or reload has ended."""
        working = self._work is not None and self._work.is_alive()
        return self.draining and not working and not any(engine.alive for engine in (self._engine, *self._former))

    def _of_now(self, ask: Callable[[Engine], _Found]) -> _Found:
        """The reply of the engine that answers now; an engine that a reload has just closed is not asked twice."""
        while True:
            engine = self._engine
            try:
                return ask(engine)
            except Closed:
                if engine is self._engine:
                    raise

    def _engine_of(self, recommender: Recommender) -> Engine:
        return Engine(
            recommender,
            max_queue=self._max_queue,
            max_wait=self._max_wait,
            max_beams=self._max_beams,
            on_batch=self.metrics.batch,
            on_failure=self._answers_no_more,
        )

    def _run_warm_up(self) -> None:
        try:
            self._engine.warm_up(self._report, self._when_changed)
            _keep_from_collector()
            self.compiled = True
            self._when_changed()
        except _Stopped:
            pass
        except Exception:
            _LOG.exception("the warm-up failed")
            self._fail("the warm-up failed")

    def _run_reload(self, load: Callable[[], Recommender]) -> None:
        try:
            _LOG.info("reloading")
            engine = self._engine_of(load())
        except Exception as error:
            _LOG.error(
                "the reload failed, the former model stays: %s", error, exc_info=not isinstance(error, UserError)
            )
            self.metrics.reloaded("failed")
            return
        try:
            engine.warm_up(self._report, lambda: None)
            if self.draining:
                raise _Stopped
        except Exception as error:
            engine.close()
            if not isinstance(error, _Stopped):
                _LOG.error("the warm-up of the new model failed, the former one stays", exc_info=error)
                self.metrics.reloaded("failed")
            return
        former, self._engine = self._engine, engine
        self._former.append(former)
        former.close()
        self.metrics.serves(engine.recommender.version)
        self.metrics.reloaded("done")
        _LOG.info("serves model %s in the place of %s", engine.recommender.version, former.recommender.version)
        if self.draining:  # it began between the last check and the change
            engine.close()
        former.join()
        self._former.remove(former)
        del former
        gc.unfreeze()
        _keep_from_collector()

    def _answers_no_more(self) -> None:
        self._fail("the thread that answers has failed")

    def _fail(self, reason: str) -> None:
        self.failure = reason
        self._when_changed()

    def _report(self, line: str) -> None:
        """Reports the progress of the warm-up, which can be stopped between two of its programs."""
        if self.draining:
            raise _Stopped
        self._progress = line
        _LOG.info(line)


class Accepted:
    """A request that was accepted, and the engine that answers it.

    Attributes:
      ticket: its place in the queue.
      model: the version of the model that answers it.
    """

    def __init__(self, engine: Engine, ticket: Ticket) -> None:
        self.ticket, self.model, self._engine = ticket, engine.recommender.version, engine

    def withdraw(self) -> None:
        """Takes it back; has no effect once it is being computed."""
        self._engine.withdraw(self.ticket)


def _keep_from_collector() -> None:
    """Hides the present objects from Python's garbage collector.

    JAX, the model and the catalogue are a great many objects that stay for good. A full collection looks at each of
    them and stops every answer meanwhile, again and again under load. It skips frozen objects.
    """
    gc.collect()
    gc.freeze()
