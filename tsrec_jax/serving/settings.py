"""Settings of the exported folder and of the HTTP service."""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Literal

from tsrec_jax.errors import UserError
from tsrec_jax.section import Section, setting

_NEEDED = ("fastapi", "uvicorn", "prometheus_client")


@dataclasses.dataclass(frozen=True)
class ExportSettings(Section, key="export"):
    """The exported folder (docs/serving.md)."""

    dtype: Literal["float32", "bfloat16"] = setting("float32", "data type of the exported weights")


@dataclasses.dataclass(frozen=True)
class ServerSettings:
    """How the service listens and queues.

    Attributes:
      host, port: where; port 0 takes a free one.
      queue: requests that may wait for their batch.
      batch_wait_ms: how long a request waits for others to share its batch.
      deadline_ms: of a request that states none.
      keep_alive: seconds that a connection is kept without a request. It must outlast what a load balancer before the
        service keeps (60 is usual), or the balancer sends a request into a connection that is being closed.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    queue: int = 128
    batch_wait_ms: float = 3.0
    deadline_ms: int = 10_000
    keep_alive: int = 75

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise UserError(f"--port={self.port}: a port is between 0 and 65535")
        if self.queue < 1:
            raise UserError(f"--queue={self.queue}: at least 1")
        if not 0 <= self.batch_wait_ms <= 60_000:  # which NaN is not either
            raise UserError(f"--batch_wait_ms={self.batch_wait_ms}: between 0 and 60000")
        if not 1 <= self.deadline_ms <= 60_000:
            raise UserError(f"--deadline_ms={self.deadline_ms}: between 1 and 60000")
        if not 1 <= self.keep_alive <= 86_400:
            raise UserError(f"--keep_alive={self.keep_alive}: seconds, between 1 and 86400")


def require_extra() -> None:
    """Raises UserError where what the service needs is not installed."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"serve needs {', '.join(missing)}, not installed here: pip install 'tsrec_jax[serve]'")
