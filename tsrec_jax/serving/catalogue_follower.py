"""The thread that takes over what other processes change in a catalogue's journal."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tsrec_jax.serving.live_catalogue import LiveCatalogue

FOLLOW_SECONDS = 0.2  # between two checks for changes by other processes
_MOST_SECONDS = 10.0  # between two attempts on a file that cannot be read
_LOG = logging.getLogger(__name__)


def start_following(catalogue: LiveCatalogue) -> None:
    """Starts the thread, which ends with the catalogue, or once its changes are closed."""
    threading.Thread(target=_follow, args=(weakref.ref(catalogue),), name="catalogue", daemon=True).start()


def _follow(reference: weakref.ref[LiveCatalogue]) -> None:
    wait = FOLLOW_SECONDS
    while True:
        time.sleep(wait)
        catalogue = reference()
        if catalogue is None or catalogue.changes.closed:
            return
        wait = FOLLOW_SECONDS if _followed(catalogue, wait == FOLLOW_SECONDS) else min(2 * wait, _MOST_SECONDS)
        del catalogue


def _followed(catalogue: LiveCatalogue, well: bool) -> bool:
    """Looks once; returns whether the changes could be read. The log says when this differs from before (`well`)."""
    try:
        catalogue.follow()
    except Exception:
        if not catalogue.changes.closed:
            if well:
                _LOG.exception("the changes of other processes cannot be read; trying again")
            catalogue.changes.reopen()
        return False
    if not well:
        _LOG.info("the changes of other processes are read again")
    return True
