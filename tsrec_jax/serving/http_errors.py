"""How the exceptions of the routes become answers: JSON with a reason, each with its status."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from tsrec_jax.errors import UserError
from tsrec_jax.serving.answers import NoEncoder
from tsrec_jax.serving.batcher import BatchFailed, Closed, Expired, QueueFull
from tsrec_jax.serving.catalogue_changes import NotKept, NotRead
from tsrec_jax.serving.engine import NotReady
from tsrec_jax.serving.live_catalogue import AlreadyThere
from tsrec_jax.serving.messages import unreadable_reason, validation_reason
from tsrec_jax.serving.service import Service


def error_response(status: int, reason: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error in the form that all routes use."""
    return JSONResponse({"error": reason}, status, headers)


def add_errors(app: FastAPI, service: Service) -> None:
    """Makes every exception that leaves a route a JSON error with its reason."""

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code == 400:  # raised by FastAPI for a body that Python's JSON reader gives up on
            return error_response(422, f"the body is not valid JSON: {unreadable_reason(error.__cause__)}", headers)
        reasons = {404: "no such address", 405: f"no such method here; there is {headers.get('Allow', 'none')}"}
        return error_response(error.status_code, reasons.get(error.status_code, str(error.detail)), headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return error_response(422, validation_reason(error.errors()))

    @app.exception_handler(UserError)
    async def mistake(request: Request, error: UserError) -> Response:
        return error_response(422, str(error))

    @app.exception_handler(AlreadyThere)
    async def there(request: Request, error: AlreadyThere) -> Response:
        return error_response(412, str(error))

    @app.exception_handler(NotKept)
    @app.exception_handler(NotRead)
    async def unable(request: Request, error: NotKept | NotRead) -> Response:
        return error_response(503, str(error))

    @app.exception_handler(NoEncoder)
    async def uncoded(request: Request, error: NoEncoder) -> Response:
        return error_response(503, str(error), {"Retry-After": str(error.retry_after)})

    @app.exception_handler(QueueFull)
    async def full(request: Request, error: QueueFull) -> Response:
        service.metrics.refused("queue_full")
        return error_response(429, str(error), {"Retry-After": str(error.retry_after)})

    @app.exception_handler(Expired)
    async def expired(request: Request, error: Expired) -> Response:
        service.metrics.refused("expired")
        return error_response(504, str(error))

    @app.exception_handler(Closed)
    async def closed(request: Request, error: Closed) -> Response:
        service.metrics.refused("draining")
        return error_response(503, str(error))

    @app.exception_handler(NotReady)
    async def not_ready(request: Request, error: NotReady) -> Response:
        service.metrics.refused("draining" if service.draining else "not_ready")
        return error_response(503, str(error), {"Retry-After": "5"})

    @app.exception_handler(BatchFailed)
    async def failed(request: Request, error: BatchFailed) -> Response:
        service.metrics.refused("failed")
        return error_response(500, str(error))

    @app.exception_handler(Exception)  # raised again after the answer, so that the server logs it
    async def ours(request: Request, error: Exception) -> Response:
        return error_response(500, "an error of the server; its log says more")
