"""The routes of the HTTP service."""

from __future__ import annotations

import asyncio
import hmac
import pathlib
import time
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from tsrec_jax.errors import UserError
from tsrec_jax.serving.answers import Request as Wanted
from tsrec_jax.serving.batcher import Answered, BatchFailed, Closed, Expired, QueueFull, Ticket
from tsrec_jax.serving.guard import ARRIVED, BODY_SECONDS, MAX_BODY, App, Guard
from tsrec_jax.serving.messages import (
    MAX_FOUND,
    MAX_ID,
    MAX_QUERY,
    ItemBody,
    RecommendBody,
    answer_json,
    is_plain,
    item_json,
    unreadable_reason,
    validation_reason,
)
from tsrec_jax.serving.metrics import CONTENT_TYPE
from tsrec_jax.serving.service import NotReady, Service
from tsrec_jax.serving.titles import ids_of_titles

DEADLINE_SECONDS = 10.0
_PAGE = pathlib.Path(__file__).parent / "page"
_PAGE_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def make_app(
    service: Service,
    *,
    admin_token: str | None,
    deadline_seconds: float = DEADLINE_SECONDS,
    max_body: int = MAX_BODY,
    body_seconds: float = BODY_SECONDS,
) -> App:
    """The ASGI application.

    Args:
      service: started by the caller.
      admin_token: what a catalogue change must carry; None or empty: there are none over HTTP.
      deadline_seconds: of a recommendation that states none.
      max_body: bytes of a request's body.
      body_seconds: within which it must have arrived.
    """
    app = FastAPI(title="tsrec", docs_url=None, redoc_url=None, openapi_url=None)
    _add_errors(app, service)
    _add_recommend(app, service, deadline_seconds)
    _add_catalogue(app, service, admin_token or "")
    _add_watching(app, service)
    _add_page(app)
    return Guard(app, service.metrics, max_body=max_body, body_seconds=body_seconds)


def _error(status: int, reason: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": reason}, status, headers)


def _add_errors(app: FastAPI, service: Service) -> None:
    """Every exception that leaves a route becomes a JSON error with its reason."""

    @app.exception_handler(StarletteHTTPException)
    async def http_error(request: Request, error: StarletteHTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code == 400:  # FastAPI's, for a body that Python's JSON reader gives up on
            return _error(422, f"the body is not valid JSON: {unreadable_reason(error.__cause__)}", headers)
        reasons = {404: "no such address", 405: f"no such method here; there is {headers.get('Allow', 'none')}"}
        return _error(error.status_code, reasons.get(error.status_code, str(error.detail)), headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return _error(422, validation_reason(error.errors()))

    @app.exception_handler(UserError)
    async def mistake(request: Request, error: UserError) -> Response:
        return _error(422, str(error))

    @app.exception_handler(QueueFull)
    async def full(request: Request, error: QueueFull) -> Response:
        service.metrics.refused("queue_full")
        return _error(429, str(error), {"Retry-After": str(error.retry_after)})

    @app.exception_handler(Expired)
    async def expired(request: Request, error: Expired) -> Response:
        service.metrics.refused("expired")
        return _error(504, str(error))

    @app.exception_handler(Closed)
    async def closed(request: Request, error: Closed) -> Response:
        service.metrics.refused("draining")
        return _error(503, str(error))

    @app.exception_handler(NotReady)
    async def not_ready(request: Request, error: NotReady) -> Response:
        service.metrics.refused("draining" if service.draining else "not_ready")
        return _error(503, str(error), {"Retry-After": "5"})

    @app.exception_handler(BatchFailed)
    async def failed(request: Request, error: BatchFailed) -> Response:
        service.metrics.refused("failed")
        return _error(500, str(error))

    @app.exception_handler(Exception)  # raised again after the answer, so that the server logs it
    async def ours(request: Request, error: Exception) -> Response:
        return _error(500, "an error of the server; its log says more")


def _add_recommend(app: FastAPI, service: Service, deadline_seconds: float) -> None:
    recommender, batcher = service.recommender, service.batcher

    def checked(body: RecommendBody) -> Wanted:
        if body.k > service.max_k:
            raise UserError(f"k: at most {service.max_k} here (--beams)")
        history = body.history or ids_of_titles(recommender.catalogue, body.titles or [])
        allow = None if body.allow is None else tuple(body.allow)
        wanted = Wanted(tuple(history), body.k, body.exclude_history, tuple(body.exclude), allow)
        recommender.check(wanted)
        return wanted

    @app.post("/recommend")
    async def recommend(request: Request, body: RecommendBody) -> Response:
        arrived = request.scope[ARRIVED]
        service.refuse_unless_ready()
        batcher.refuse_if_full()  # before the work of looking at the request
        wanted = await run_in_threadpool(checked, body)
        seconds = deadline_seconds if body.deadline_ms is None else body.deadline_ms / 1000
        ticket = batcher.submit(wanted, arrived + seconds)
        found = await _wait(request, ticket, service)
        if found is None:
            service.metrics.refused("client_gone")
            return Response(status_code=499)  # nobody reads it
        service.metrics.waited(found.waited)
        return JSONResponse(answer_json(found, time.monotonic() - arrived))


async def _wait(request: Request, ticket: Ticket, service: Service) -> Answered | None:
    """The answer; None: the client has left. A request that nobody waits for any more leaves the queue."""
    answer = asyncio.wrap_future(ticket.future)
    client_gone = asyncio.ensure_future(request.receive())  # the body is read: all that can come is a disconnect
    try:
        await asyncio.wait(
            (answer, client_gone),
            timeout=max(0.0, ticket.expires_at - time.monotonic()),
            return_when=asyncio.FIRST_COMPLETED,
        )
        if answer.done():
            return answer.result()
        if client_gone.done():
            return None
        raise Expired("the deadline passed before the answer was there")
    finally:
        client_gone.cancel()
        service.batcher.withdraw(ticket)
        answer.cancel()


def _add_catalogue(app: FastAPI, service: Service, admin_token: str) -> None:
    catalogue = service.recommender.catalogue

    def may_change(authorization: Annotated[str, Header()] = "") -> None:
        if not admin_token:
            raise HTTPException(403, "this server takes no catalogue changes: it was started without TSREC_ADMIN_TOKEN")
        scheme, _, token = authorization.partition(" ")
        # Headers arrive as Latin-1 text; comparing bytes takes any token.
        right = hmac.compare_digest(token.strip().encode("latin-1"), admin_token.encode())
        if scheme.lower() != "bearer" or not right:
            reason = "a catalogue change needs the header `Authorization: Bearer TOKEN` with the server's token"
            raise HTTPException(401, reason, {"WWW-Authenticate": "Bearer"})

    @app.put("/items/{item_id:path}", dependencies=[Depends(may_change)])
    def put(item_id: str, body: ItemBody) -> Response:
        if not 1 <= len(item_id) <= MAX_ID or not item_id.strip() or not is_plain(item_id):
            raise UserError(f"an item's id has 1 to {MAX_ID} characters, none of them a control character or broken")
        new = catalogue.put(item_id, body.title, body.sid, blocked=body.blocked)
        return JSONResponse({"id": item_id, "new": new, "items": catalogue.num_items}, 201 if new else 200)

    @app.delete("/items/{item_id:path}", dependencies=[Depends(may_change)])
    def delete(item_id: str) -> Response:
        try:
            catalogue.remove(item_id)
        except UserError as error:
            return _error(404, str(error))
        return JSONResponse({"id": item_id, "items": catalogue.num_items})

    @app.get("/items/{item_id:path}")
    def get(item_id: str) -> Response:
        try:
            return JSONResponse(item_json(catalogue.item(item_id)))
        except UserError as error:
            return _error(404, str(error))

    @app.get("/items")
    def find(
        q: Annotated[str, Query(max_length=MAX_QUERY)] = "", limit: Annotated[int, Query(ge=1, le=MAX_FOUND)] = 20
    ) -> Response:
        found = catalogue.find(q, limit)
        return JSONResponse({"items": [item_json(item) for item in found], "of": catalogue.num_items})


def _add_watching(app: FastAPI, service: Service) -> None:
    recommender = service.recommender

    @app.get("/health")
    async def health() -> Response:
        if reason := service.not_ready:
            return _error(503, reason)
        catalogue = recommender.catalogue
        facts = {"items": catalogue.num_items, "levels": catalogue.num_levels, "max_k": service.max_k}
        return JSONResponse({"status": "ok", **facts})

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)


def _add_page(app: FastAPI) -> None:
    for address, (name, media_type) in _PAGE_FILES.items():
        app.api_route(address, methods=["GET", "HEAD"])(_file_route((_PAGE / name).read_bytes(), media_type))


def _file_route(content: bytes, media_type: str) -> Callable[[], Awaitable[Response]]:
    async def route() -> Response:
        return Response(content, media_type=media_type)

    return route
