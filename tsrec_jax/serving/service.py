"""One recommender with its queue and counters, from warm-up to the last answer before shutdown."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from tsrec_jax.serving.batcher import Batcher, BatchSettings
from tsrec_jax.serving.messages import MAX_HISTORY, MAX_K
from tsrec_jax.serving.metrics import Metrics

if TYPE_CHECKING:
    from tsrec_jax.serving.recommender import Recommender

_LOG = logging.getLogger(__name__)


class NotReady(Exception):
    """Recommendations are not accepted yet, or never will be; the message says why."""


class _Stopped(Exception):
    """Ends a warm-up between two programs."""


class Service:
    """What the HTTP routes share.

    States, in this order: warming up (or failed to), ready, leaving, draining. Recommendations are accepted while it is
    ready or leaving; of these two only the first invites them.
    """

    def __init__(self, recommender: Recommender, *, max_queue: int, max_wait: float) -> None:
        """Starts the batcher's thread; the warm-up starts with `start`.

        Args:
          recommender: loaded.
          max_queue: requests that may wait.
          max_wait: seconds that a request waits for others to share its batch.
        """
        self.recommender = recommender
        self.metrics = Metrics(
            queue_depth=lambda: self.batcher.depth,
            items=lambda: recommender.catalogue.num_items,
            ready=lambda: not self.not_ready,
        )
        settings = BatchSettings(recommender.max_batch, max_queue, max_wait)
        self.failure = ""  # what has ended it for good
        self._when_changed: Callable[[], None] = lambda: None
        self.batcher = Batcher(recommender.answer, settings, self.metrics.batch, self._answers_no_more)
        self.leaving = self.draining = False
        self._warm = False
        self._progress = "the warm-up has not begun"
        self._warm_up: threading.Thread | None = None

    def start(self, when_changed: Callable[[], None] = lambda: None) -> None:
        """Warms up in a thread of its own, then accepts recommendations.

        Args:
          when_changed: called from another thread once the warm-up is over, or where `failure` is set.
        """
        self._when_changed = when_changed
        self._warm_up = threading.Thread(target=self._run_warm_up, name="warm-up", daemon=True)
        self._warm_up.start()

    @property
    def not_ready(self) -> str:
        """Why no recommendation should be sent here; empty where it should."""
        return "the server is shutting down" if self.leaving else self._refusal

    @property
    def _refusal(self) -> str:
        """Why recommendations are not accepted now; empty where they are."""
        if self.draining:
            return "the server is shutting down"
        if self.failure:
            return f"{self.failure}; the server's log says why"
        return "" if self._warm else self._progress

    @property
    def max_k(self) -> int:
        """The most items that a request may ask for."""
        return min(self.recommender.beams, MAX_K)

    def refuse_unless_ready(self) -> None:
        """Raises NotReady with the reason where recommendations are not accepted."""
        if reason := self._refusal:
            raise NotReady(reason)

    def leave(self) -> None:
        """Announces the shutdown; requests are still accepted, and every answer closes its connection."""
        self.leaving = True

    def drain(self) -> None:
        """Begins the shutdown: nothing new is accepted, all that was accepted is answered. Returns at once."""
        self.leaving = self.draining = True
        self.batcher.close()

    @property
    def drained(self) -> bool:
        """Whether, after `drain`, the last answer is given and the warm-up has ended."""
        warming = self._warm_up is not None and self._warm_up.is_alive()
        return self.draining and not warming and not self.batcher.alive

    def _run_warm_up(self) -> None:
        try:
            self.recommender.warm_up(self._report, max_history=MAX_HISTORY)
            # JAX, the model and the catalogue are a great many objects that stay for good. A full collection looks at
            # each of them and stops every answer meanwhile, again and again under load; what is frozen it passes by.
            gc.collect()
            gc.freeze()
            self._warm = True
        except _Stopped:
            pass
        except Exception:
            _LOG.exception("the warm-up failed")
            self.failure = "the warm-up failed"
        self._when_changed()

    def _answers_no_more(self) -> None:
        self.failure = "the thread that answers has failed"
        self._when_changed()

    def _report(self, line: str) -> None:
        """What the warm-up says of itself; between two of its programs it can be stopped."""
        if self.draining:
            raise _Stopped
        self._progress = line
        _LOG.info(line)
