"""The HTTP service of an export with uvicorn: one process from its first connection to its last answer."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import pathlib
import signal
import socket
import struct
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import uvicorn

from tsrec_jax.errors import UserError
from tsrec_jax.serving.app import make_app
from tsrec_jax.serving.connections import Config, LimitedH11Protocol, room_for
from tsrec_jax.serving.logs import logging_to_stderr
from tsrec_jax.serving.messages import MAX_DEADLINE_MS
from tsrec_jax.serving.service import Service
from tsrec_jax.serving.settings import ServerSettings

if TYPE_CHECKING:
    from tsrec_jax.serving.recommender import Recommender

TOKEN_VARIABLE = "TSREC_ADMIN_TOKEN"
_LOG = logging.getLogger(__name__)
_LEAST_TOKEN = 16  # characters: shorter ones can be guessed
_BACKLOG = 2048
# A response that its client does not read is abandoned this long after the last one was ready.
_FLUSH_SECONDS = 10
# For this long after the last accepted request is answered, requests that were on their way are answered too.
_LINGER_SECONDS = 1.0
# Linux' option that makes a socket drop the segments for which a program of the classic packet filter returns 0, and a
# program that drops requests for a connection: of their TCP flags (byte 13), SYN (2) is set and ACK (16) is not.
_SO_ATTACH_FILTER = 26
_NO_NEW_CONNECTIONS = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load the byte
        (0x54, 0, 0, 0x12),  # keep both flags
        (0x15, 0, 1, 0x02),  # if they are SYN alone,
        (0x06, 0, 0, 0),  # drop; else
        (0x06, 0, 0, 0xFFFFFFFF),  # take all
    )
)
_HANDSHAKE_SECONDS = 0.1  # time to complete connections that had begun before new ones were dropped
# No accepted request is waited for beyond its deadline; the rest of the time is for a batch that has just begun.
_DRAIN_SECONDS = MAX_DEADLINE_MS / 1000 + 15.0


def serve(folder: pathlib.Path, settings: ServerSettings, search: Mapping[str, Any]) -> None:
    """Serves an export until a signal ends it.

    Args:
      folder: what the verb `export` wrote.
      settings: those of the service.
      search: further arguments of `Recommender.load`.

    Raises:
      UserError: the folder is no export, the address cannot be bound, or the token is too short.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: not a folder; give the one that the verb `export` wrote")
    if not folder.is_dir():
        raise UserError(f"{folder}: not there; run the verb `export` (or `run`) first, or give --export=FOLDER")
    token = _token()
    with contextlib.closing(bind(settings.host, settings.port, shared=settings.reuse_port)) as listener:
        try:
            log = logging_to_stderr(settings.log, access=settings.access_log)  # for the warnings of loading
            with log, on_signals(signal.default_int_handler):
                print(f"loading {folder}", flush=True)
                from tsrec_jax.serving.recommender import Recommender  # with JAX, once the port is known to be free

                def load() -> Recommender:
                    return Recommender.load(folder, **search)

                recommender = load()
                if token:
                    recommender.catalogue.changes.require_writable()
        except KeyboardInterrupt:  # nothing has been accepted yet
            print("stopped while loading", flush=True)
            return
        run(recommender, settings, listener, load)


def _token() -> str:
    """The token that a catalogue change needs; empty: no change is accepted. Raises UserError if it is too short."""
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if 0 < len(token) < _LEAST_TOKEN:
        raise UserError(f"{TOKEN_VARIABLE} has {len(token)} characters: a token has at least {_LEAST_TOKEN}")
    return token


def run(
    recommender: Recommender,
    settings: ServerSettings,
    listener: socket.socket,
    load: Callable[[], Recommender] | None = None,
) -> None:
    """Serves a loaded recommender until SIGTERM or SIGINT, then finishes every accepted request.

    A second SIGINT ends it at once. SIGHUP reloads it, or ends the server if its terminal is gone. Catalogue changes
    need the token in TSREC_ADMIN_TOKEN.

    Args:
      recommender: the recommender, not warmed up yet.
      load: loads it again.
      settings: those of the service; host and port are those of `listener`.
      listener: the bound socket.

    Raises:
      UserError: another process has begun to listen on the same address, or the token is too short.
      RuntimeError: the warm-up or the thread that answers failed, or accepted requests were not finished in time.
    """
    try:
        listener.listen(_BACKLOG)
    except OSError as error:
        raise UserError(f"cannot listen on {_shown(listener)}: {os.strerror(error.errno or 0)}; see --port") from None
    token = _token()
    service = Service(
        recommender,
        max_queue=settings.queue,
        max_wait=settings.batch_wait_ms / 1000,
        max_beams=settings.max_beams,
        load=load,
    )
    origins = [origin.strip() for origin in settings.cors.split(",") if origin.strip()]
    app = make_app(service, admin_token=token, deadline_seconds=settings.deadline_ms / 1000, origins=origins)
    config = Config(
        app,
        http=LimitedH11Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=settings.keep_alive,
        timeout_graceful_shutdown=_FLUSH_SECONDS,
    )
    server = _Server(config, service, settings.drain_delay)
    # uvicorn has its own handlers for all signals but SIGHUP. It raises a signal again after its shutdown, when the
    # signal has already been obeyed.
    with (
        logging_to_stderr(settings.log, access=settings.access_log),
        on_signals(lambda number, frame: server.hang_up()),
    ):
        config.max_connections = room_for(settings.connections)
        server.run([listener])
    if service.failure:
        raise RuntimeError(service.failure)
    if not service.drained:
        raise RuntimeError("stopped before the warm-up had ended and every accepted request was answered")
    print("stopped; every accepted request was answered", flush=True)


class _Server(uvicorn.Server):
    """Warms up while it listens; answers everything that was sent before closing its connections."""

    def __init__(self, config: uvicorn.Config, service: Service, drain_delay: float) -> None:
        super().__init__(config)
        self._service, self._drain_delay = service, drain_delay
        self._terminals = [file for file in range(3) if os.isatty(file)]
        self._reload = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, then begins the warm-up."""
        await super().startup(sockets)
        for listener in sockets or []:
            print(f"listening on http://{_shown(listener)}; warming up", flush=True)
        self._service.start(self._changed)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Announces the shutdown, serves through the drain delay, refuses new requests, closes when all is answered."""
        self._service.leave()
        if not self._service.failure:
            await self._until(lambda: False, self._drain_delay)
        self._service.drain()
        await self._until(lambda: self._service.drained, _DRAIN_SECONDS)
        await self._accept_last(sockets or [])
        # By now every answer closes its connection, so the connections left are those without a request.
        await self._until(lambda: not self.server_state.connections, _LINGER_SECONDS)
        await super().shutdown(sockets)

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        latest = time.monotonic() + seconds
        while not condition() and not self.force_exit and time.monotonic() < latest:
            await asyncio.sleep(0.02)

    async def _accept_last(self, listeners: list[socket.socket]) -> None:
        """Closes the listeners, first taking the connections that the kernel has accepted: closing would reset them.

        A connection made after the last one was taken would be reset too, so by then no more are made. Its client tries
        again after a second, and is refused or reaches another process on the port.
        """
        loop, accepted = asyncio.get_running_loop(), []
        last = [listener.dup() for listener in listeners]
        if all(map(drop_new, last)):
            await asyncio.sleep(_HANDSHAKE_SECONDS)
        for server in self.servers:
            server.close()
        for listener in last:
            listener.setblocking(False)
            with contextlib.closing(listener):
                try:
                    while True:
                        accepted.append(listener.accept()[0])
                except BlockingIOError:  # none is left
                    pass
                except OSError as error:  # such as too many open files: the connections taken so far are answered
                    _LOG.warning("connections that came last may be reset: %s", error)
        for connection in accepted:
            connection.setblocking(False)
            await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> LimitedH11Protocol:
        return LimitedH11Protocol(self.config, self.server_state, self.lifespan.state)

    def hang_up(self) -> None:
        """Obeys SIGHUP: requests a reload, or begins the shutdown if the terminal that it was started in is gone."""
        if all(map(os.isatty, self._terminals)):
            self._reload = True  # a signal may interrupt a line of the log, so the event loop does the reload
        else:
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Begins a requested reload."""
        if self._reload:
            self._reload = False
            self._service.reload()
        return await super().on_tick(counter)

    def _changed(self) -> None:
        if self._service.failure:
            self.should_exit = True
        elif self._service.compiled:
            print("compiled: all searches", flush=True)
        elif not self._service.draining:
            print(f"ready: {self._service.recommender.catalogue.num_items} items", flush=True)


def drop_new(listener: socket.socket) -> bool:
    """Makes a listener drop new requests for a connection; returns whether this system can do so, as Linux can.

    Accepted connections can still be taken, and handshakes that had begun are completed.

    Args:
      listener: a TCP socket that listens.
    """
    if sys.platform != "linux":
        return False
    program = ctypes.create_string_buffer(_NO_NEW_CONNECTIONS, len(_NO_NEW_CONNECTIONS))
    try:
        listener.setsockopt(
            socket.SOL_SOCKET,
            _SO_ATTACH_FILTER,
            struct.pack("@HP", len(program) // struct.calcsize("=HBBI"), ctypes.addressof(program)),
        )
    except OSError:  # such as in a sandbox that has no packet filters
        return False
    return True


def _shown(listener: socket.socket) -> str:
    host, port, *_ = listener.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A bound socket that does not listen yet, so that a taken port is known before the model is loaded.

    Args:
      host, port: where.
      shared: whether other processes that also set it may listen there too.

    Raises:
      UserError: the address is in use, does not belong to this machine, or is not an address.
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
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise UserError(f"cannot listen on {host} port {port}: {os.strerror(error.errno or 0)}; see --port") from None
    return listener


@contextlib.contextmanager
def on_signals(handler: Callable[[int, types.FrameType | None], None]) -> Iterator[None]:
    """Inside, SIGTERM, SIGINT and SIGHUP call the handler; an ignored SIGHUP, as under nohup, stays ignored."""
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
