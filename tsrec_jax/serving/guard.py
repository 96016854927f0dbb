"""The layer around every HTTP request: its id, limits on its body, response headers, counters, the log."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from tsrec_jax.serving.logs import ACCESS, REQUEST_ID
from tsrec_jax.serving.metrics import Metrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY = 1 << 20
BODY_SECONDS = 10.0
_PATIENCE = 8  # how many times the limit is read from a body that is refused
HEAD = "tsrec.head"  # in the scope: true if no body is wanted, so that a long one need not be made
ARRIVED = "tsrec.arrived"  # in the scope: time.monotonic() of the request's arrival
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
_ID = re.compile(rb"[!-~]{1,128}")  # a request id accepted from the client: it goes into headers and the log
_LOG = logging.getLogger(ACCESS)
# Allows the page's own files, and pictures of items if the catalogue has their addresses.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' https: http:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_CLOSE = (b"connection", b"close")
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


class _Refused(Exception):
    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


class Guard:
    """Wraps the application, so that even its own failures are counted and carry the headers.

    The whole body is read here, with an announced length or in chunks, and passed on in one piece.
    """

    def __init__(
        self,
        app: App,
        metrics: Metrics,
        closing: Callable[[], bool] = lambda: False,
        *,
        max_body: int = MAX_BODY,
        body_seconds: float = BODY_SECONDS,
    ):
        """Args:
        app: the application.
        metrics: counts every request that got a response. closing: whether every response now closes its connection.
        max_body: most bytes of a body. body_seconds: the time within which the body must have arrived.
        """
        self._app = app
        self._metrics = metrics
        self._closing = closing
        self._max_body = max_body
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope[ARRIVED] = arrived = time.monotonic()
        method, request_id = scope["method"], _request_id(scope)
        REQUEST_ID.set(request_id.decode())
        if method == "HEAD":
            scope = {**scope, "method": "GET", HEAD: True}  # the same answer; its body is left out below
        status = 0

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", []), *_HEADERS, (b"x-request-id", request_id)]
                if self._closing() and _CLOSE not in headers:
                    headers.append(_CLOSE)
                message = {**message, "headers": headers}
            elif method == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        try:
            try:
                async with asyncio.timeout(self._body_seconds):
                    body = await self._body(scope, receive)
            except TimeoutError:
                raise _Refused(408, f"the body did not arrive within {self._body_seconds:g} s") from None
            if body is not None:
                await self._app(scope, _replay(body, receive), send_with_headers)
        except _Refused as refused:
            await _send_error(send_with_headers, refused)
        finally:
            if status:
                seconds = time.monotonic() - arrived
                self._metrics.request(_route(scope), method if method in _METHODS else "other", status, seconds)
                _log(scope, method, status, seconds)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The request's body; None: the client left before it was complete.

        A body that is slightly too large is read to its end and thrown away before it is refused: most clients see an
        answer only after they have sent everything.
        """
        headers = dict(scope["headers"])
        if b"content-length" in headers and b"transfer-encoding" in headers:
            # A proxy may have used the other header, and taken the rest of the body for a request (RFC 9112, 6.1).
            raise _Refused(400, "both Content-Length and Transfer-Encoding: a body's length is said once")
        announced = int(headers.get(b"content-length", b"0"))
        too_large = announced > self._max_body
        body, received, complete = bytearray(), 0, too_large and b"expect" in headers
        while not complete and max(announced, received) <= _PATIENCE * self._max_body:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            received += len(chunk)
            too_large = too_large or received > self._max_body
            if not too_large:
                body += chunk
            complete = not message.get("more_body", False)
        if too_large:
            raise _Refused(413, f"the body is larger than {self._max_body} bytes")
        return bytes(body)


def _request_id(scope: Scope) -> bytes:
    """The client's id of the request (`X-Request-ID`), or an id of our own."""
    given = dict(scope["headers"]).get(b"x-request-id", b"")
    return given if _ID.fullmatch(given) else b"%032x" % random.getrandbits(128)


def _log(scope: Scope, method: str, status: int, seconds: float) -> None:
    """A line of the access log; the path is as it was sent, so that no character in it can break the line."""
    client, path = (scope.get("client") or ("-",))[0], scope.get("raw_path", b"").decode("ascii", "backslashreplace")
    milliseconds = round(1000 * seconds, 1)
    facts = {"client": client, "method": method, "path": path, "status": status, "ms": milliseconds}
    _LOG.info("%s %s %s %d %.1f ms", client, method, path, status, milliseconds, extra={"facts": facts})


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that first gives the body already read, then the server's messages (that the client has left)."""
    given = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _route(scope: Scope) -> str:
    """The route's pattern, never the requested path: paths would make as many series as there are callers."""
    return getattr(scope.get("route"), "path", "none")


async def _send_error(send: Send, refused: _Refused) -> None:
    body = json.dumps({"error": str(refused)}).encode()
    # The rest of the body is still arriving and nobody will read it, so the connection cannot be reused.
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        _CLOSE,
    ]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
