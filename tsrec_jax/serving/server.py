"""The HTTP service of an export by uvicorn: one process from its first connection to its last answer."""

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
_LEAST_TOKEN = 16  # characters: shorter ones are guessed
_BACKLOG = 2048
# A response that its client does not take is given up so long after the last one was ready.
_FLUSH_SECONDS = 10
# So long after the last accepted request is answered, requests that were on their way are answered too.
_LINGER_SECONDS = 1.0
# Linux' option by which a socket drops the segments for which a program of the classic packet filter returns 0, and a
# program that drops those which ask for a connection: of their TCP flags (byte 13), SYN (2) is set and ACK (16) is not.
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
_HANDSHAKE_SECONDS = 0.1  # so long connections that are being made have, once no new ones are
# Beyond its deadline no accepted request is waited for; the rest is for a batch that was just begun.
_DRAIN_SECONDS = MAX_DEADLINE_MS / 1000 + 15.0


def serve(folder: pathlib.Path, settings: ServerSettings, search: Mapping[str, Any]) -> None:
    """Serves an export until a signal ends it.

    Args:
      folder: what the verb `export` wrote.
      settings: of the service.
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
            log = logging_to_stderr(settings.log, access=settings.access_log)  # of what loading warns of
            with log, on_signals(signal.default_int_handler):
                print(f"loading {folder}", flush=True)
                from tsrec_jax.serving.recommender import Recommender  # with JAX, once the port is known to be free

                def load() -> Recommender:
                    return Recommender.load(folder, **search)

                recommender = load()
                if token:
                    recommender.catalogue.changes.require_writable()
        except KeyboardInterrupt:  # nothing was accepted yet
            print("stopped while loading", flush=True)
            return
        run(recommender, settings, listener, load)


def _token() -> str:
    """What a catalogue change must carry; empty: none is taken. Raises UserError where it is too short."""
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

    A second SIGINT ends it at once. SIGHUP loads it anew, and ends the server where its terminal is gone. Catalogue
    changes need the token in TSREC_ADMIN_TOKEN.

    Args:
      recommender: not warmed up yet.
      load: loads it anew.
      settings: of the service; its host and port are those of `listener`.
      listener: bound.

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
    # uvicorn has handlers of its own for all but SIGHUP. It raises a signal again after its shutdown; by then it has
    # been obeyed.
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
    """Warms up while it listens; answers everything that was sent before it closes its connections."""

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
        """Says that it leaves, serves on for the drain delay, refuses what is new, and closes when all is answered."""
        self._service.leave()
        if not self._service.failure:
            await self._until(lambda: False, self._drain_delay)
        self._service.drain()
        await self._until(lambda: self._service.drained, _DRAIN_SECONDS)
        await self._accept_last(sockets or [])
        # Every answer closes its connection by now, so what is left are connections on which nothing was asked.
        await self._until(lambda: not self.server_state.connections, _LINGER_SECONDS)
        await super().shutdown(sockets)

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        latest = time.monotonic() + seconds
        while not condition() and not self.force_exit and time.monotonic() < latest:
            await asyncio.sleep(0.02)

    async def _accept_last(self, listeners: list[socket.socket]) -> None:
        """Closes the listeners, and takes the connections that the kernel had accepted: closing would reset them.

        A connection made after the last one was taken would be reset too, so none is made any more by then. Its client
        asks again after a second, and is refused or comes to another process of the port.
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
                except BlockingIOError:  # there is none left
                    pass
                except OSError as error:  # such as no file left to open: those that were accepted are answered
                    _LOG.warning("connections that came last may be reset: %s", error)
        for connection in accepted:
            connection.setblocking(False)
            await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> LimitedH11Protocol:
        return LimitedH11Protocol(self.config, self.server_state, self.lifespan.state)

    def hang_up(self) -> None:
        """Obeys SIGHUP: asks for a reload, or begins the shutdown where the terminal that it was started in is gone."""
        if all(map(os.isatty, self._terminals)):
            self._reload = True  # a signal may come in the middle of a line of the log: the loop does what is asked
        else:
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Begins a reload that was asked for."""
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
    """Makes a listener drop whatever asks it for a connection; says whether this system can: Linux does.

    What was accepted can still be taken, and handshakes that had begun are completed.

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
      shared: whether other processes that ask for it too may listen there as well.

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
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
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
