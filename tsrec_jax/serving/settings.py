"""Settings of the exported folder and of the HTTP service."""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Literal

from tsrec_jax.errors import UserError
from tsrec_jax.section import Section, setting
from tsrec_jax.serving.answers import MAX_BEAMS

_NEEDED = ("fastapi", "uvicorn", "prometheus_client")


@dataclasses.dataclass(frozen=True)
class ExportSettings(Section, key="export"):
    """The exported folder (docs/serving.md)."""

    dtype: Literal["float32", "bfloat16"] = setting("float32", "data type of the exported weights")


@dataclasses.dataclass(frozen=True)
class ServerSettings(Section):
    """How the service listens and queues: the flags of the verb `serve`.

    `keep_alive` must outlast what a load balancer before the service keeps (60 s is usual), or the balancer sends a
    request into a connection that is being closed.
    """

    host: str = setting("127.0.0.1", "address to listen on")
    port: int = setting(8000, "port to listen on; 0: a free one", least=0, most=65_535)
    max_beams: int = setting(
        MAX_BEAMS,
        "width of the widest search that a request may ask for with `beams` or `exact`; 1: none but the usual one",
        least=1,
        most=MAX_BEAMS,
    )
    queue: int = setting(128, "number of requests that may wait for their batch", least=1)
    batch_wait_ms: float = setting(
        3.0, "how long a request waits for others to share its batch, in milliseconds", least=0, most=60_000
    )
    deadline_ms: int = setting(10_000, "deadline of a request that states none, in milliseconds", least=1, most=60_000)
    keep_alive: int = setting(75, "seconds that an idle connection is kept open", least=1, most=86_400)
    connections: int = setting(1000, "number of connections that may be open; further ones are refused", least=1)
    drain_delay: float = setting(
        0.0, "seconds between a signal to stop, which /readyz tells at once, and the first refusal", least=0, most=3_600
    )
    reuse_port: bool = setting(False, "share the port with other servers that ask for it; connections are spread")
    cors: str = setting(
        "",
        "origins whose pages may ask from a browser, separated by commas (https://shop.example); none: no other",
    )
    log: Literal["text", "json"] = setting("text", "form of the log's lines")
    access_log: bool = setting(True, "a line for each finished request")

    @classmethod
    def config_key(cls, field: str) -> str:
        """As the command line spells it."""
        return f"--{field}"


def require_extra() -> None:
    """Raises UserError where what the service needs is not installed."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"serve needs {', '.join(missing)}, not installed here: pip install 'tsrec_jax[serve]'")
