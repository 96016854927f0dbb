"""HTTP/1.1 connections with limits, refused in JSON like all other errors."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import time

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

_LOG = logging.getLogger(__name__)
# Within this time of its first byte, the head of a request must have arrived.
HEAD_SECONDS = 10.0
# For this time the client of a request that was refused here may still send; what it sends is thrown away.
_LINGER_SECONDS = 2.0
_TELL_SECONDS = 10.0  # refusals for lack of room are logged at most this often
_LINGERING = 64  # connections refused for lack of room whose clients may still send; any more are closed at once
_OTHER_FILES = 64 + _LINGERING  # opened by the process in addition to the connections that it serves


class Config(uvicorn.Config):
    """uvicorn's configuration, with limits on connections.

    Attributes:
      max_connections: most connections open at once.
      head_seconds: most seconds from the first byte of a request to the end of its head, and before the first byte of a
        connection.
      lingering: number of connections that were refused for lack of room and are not closed yet.
    """

    max_connections = 1000
    head_seconds = HEAD_SECONDS
    lingering = 0
    told_at = -_TELL_SECONDS  # time.monotonic() of the last log line about lack of room


class LimitedH11Protocol(H11Protocol):
    """One connection: no request head takes longer than its time, and none beyond the limit is served.

    uvicorn waits for a head for ever. Connections that send one byte and stop would take every file that the process
    may open, and so shut out everybody else.
    """

    config: Config
    _refused = _lingers = False
    _head_limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuses the connection if there are too many, and closes it if nothing arrives."""
        super().connection_made(transport)
        if len(self.connections) - self.config.lingering > self.config.max_connections:
            self._refuse_for_want_of_room()
            return
        # Silent connections would otherwise keep everybody else out for as long as idle ones are kept.
        silent = min(self.config.head_seconds, self.timeout_keep_alive)
        self.timeout_keep_alive_task = self.loop.call_later(silent, self.timeout_keep_alive_handler)

    def _refuse_for_want_of_room(self) -> None:
        if time.monotonic() - self.config.told_at > _TELL_SECONDS:
            self.config.told_at = time.monotonic()
            _LOG.warning("%d connections are open; further ones are refused", self.config.max_connections)
        reason = "too many connections are open; try again later"
        if self.config.lingering < _LINGERING:
            self.config.lingering += 1
            self._lingers = True
            self._refuse(503, reason)
        else:
            self._answer(503, reason)
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the time limit."""
        self._limit_head(False)
        self.config.lingering -= self._lingers
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Hands the bytes on, unless the request they belong to was refused."""
        if self._refused:
            return
        super().data_received(data)
        if not self._refused:
            self._limit_head(self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0]))

    def send_400_response(self, msg: str) -> None:
        """Refuses what is not an HTTP request, or has too large a head."""
        self._refuse(400, msg)

    def _limit_head(self, begun: bool) -> None:
        if not begun and self._head_limit is not None:
            self._head_limit.cancel()
            self._head_limit = None
        elif begun and self._head_limit is None:
            seconds = self.config.head_seconds
            reason = f"the head of the request did not arrive within {seconds:g} s"
            self._head_limit = self.loop.call_later(seconds, self._refuse, 408, reason)

    def _refuse(self, status: int, reason: str) -> None:
        """Answers and ends the connection.

        Meanwhile it reads what the client is still sending: a connection that is closed with unread bytes is reset, and
        the client may lose the response (RFC 9112, section 9.6).
        """
        self._answer(status, reason)
        self.transport.write_eof()
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def _answer(self, status: int, reason: str) -> None:
        body = json.dumps({"error": reason}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self._refused = True


def room_for(connections: int) -> int:
    """How many of the wanted connections this process may open files for; the soft limit is raised if possible.

    Args:
      connections: the number wanted.
    """
    wanted = connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < wanted:
            connections = max(1, soft - _OTHER_FILES)
            _LOG.warning("this process may open %d files: no more than %d connections", soft, connections)
    return connections
