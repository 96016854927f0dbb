"""What a run says, for tests."""

import contextlib
import logging

from tsrec_jax.progress import LOGGER


@contextlib.contextmanager
def said():
    """A list that receives the lines said inside the block."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    LOGGER.addHandler(handler)
    try:
        yield lines
    finally:
        LOGGER.removeHandler(handler)
