"""The verb `serve`: settings checked and the port taken before a model is loaded, then the HTTP service."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import pathlib
import signal
import socket
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tsrec_jax.errors import UserError

_NEEDED = ("fastapi", "uvicorn", "prometheus_client")


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


def serve(folder: pathlib.Path, settings: ServerSettings, search: Mapping[str, Any]) -> None:
    """Serves an export until a signal ends it.

    Args:
      folder: what the verb `export` wrote.
      settings: of the service.
      search: further arguments of `Recommender.load`.

    Raises:
      UserError: the extra is not installed, the folder is no export, or the address cannot be bound.
    """
    require_extra()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: not a folder; give the one that the verb `export` wrote")
    if not folder.is_dir():
        raise UserError(f"{folder}: not there; run the verb `export` (or `run`) first, or give --export=FOLDER")
    with contextlib.closing(bind(settings.host, settings.port)) as listener:
        try:
            with on_signals(signal.default_int_handler):
                print(f"loading {folder}", flush=True)
                from tsrec_jax.serving.http import run
                from tsrec_jax.serving.recommender import Recommender

                recommender = Recommender.load(folder, **search)
        except KeyboardInterrupt:  # nothing was accepted yet
            print("stopped while loading", flush=True)
            return
        run(recommender, settings, listener)


def require_extra() -> None:
    """Raises UserError where what the service needs is not installed."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"serve needs {', '.join(missing)}, not installed here: pip install 'tsrec_jax[serve]'")


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet, so that a taken port is known before the model is loaded.

    Raises:
      UserError: the address is in use, not this machine's, or not one at all.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host={host}: {error}") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise UserError(f"cannot listen on {host} port {port}: {os.strerror(error.errno or 0)}; see --port") from None
    return listener


@contextlib.contextmanager
def on_signals(handler: Callable[[int, types.FrameType | None], None]) -> Iterator[None]:
    """Within, SIGTERM, SIGINT and SIGHUP call the handler; a SIGHUP that is ignored, as under nohup, stays so."""
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
