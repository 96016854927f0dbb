"""The service's log: lines for people or JSON for collectors, each with the id of its request."""

from __future__ import annotations

import contextlib
import contextvars
import datetime
import json
import logging
import sys
from collections.abc import Iterator

# The request being served, in the tasks and threads that serve it; empty elsewhere.
REQUEST_ID: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")
ACCESS = "tsrec_jax.access"  # the logger with one line for each finished request
_LOGGERS = ("tsrec_jax", "uvicorn")


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (UTC), level, logger, message, and if present request_id, facts, error."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for a record; its `facts` (`extra={"facts": {...}}`) become separate keys."""
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **({"request_id": found} if (found := REQUEST_ID.get()) else {}),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """Lines for people, with the request's id at the end."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line without a traceback."""
        line = super().formatMessage(record)
        return f"{line} [{found}]" if (found := REQUEST_ID.get()) else line


@contextlib.contextmanager
def logging_to_stderr(form: str, *, access: bool) -> Iterator[None]:
    """Writes the service's own lines and uvicorn's to standard error.

    Args:
      form: "text" or "json".
      access: whether each finished request gets a line.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False  # absl, which Orbax imports, gives the root logger a handler that would repeat lines
    logging.getLogger(ACCESS).setLevel(logging.INFO if access else logging.WARNING)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.propagate = True
        logging.getLogger(ACCESS).setLevel(logging.NOTSET)
