"""The ASGI application: the routes of the HTTP service and the layers that each request passes through."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from tsrec_jax.serving.catalogue_routes import catalogue_routes
from tsrec_jax.serving.docs_routes import docs_routes
from tsrec_jax.serving.guard import BODY_SECONDS, MAX_BODY, App, Guard
from tsrec_jax.serving.http_errors import add_errors
from tsrec_jax.serving.page_routes import page_routes
from tsrec_jax.serving.recommend_routes import recommend_routes
from tsrec_jax.serving.service import Service
from tsrec_jax.serving.watch_routes import watch_routes

DEADLINE_SECONDS = 10.0
VERSION = "/v1"


def make_app(
    service: Service,
    *,
    admin_token: str | None,
    deadline_seconds: float = DEADLINE_SECONDS,
    origins: Sequence[str] = (),
    max_body: int = MAX_BODY,
    body_seconds: float = BODY_SECONDS,
) -> App:
    """The ASGI application.

    Args:
      service: the service, which the caller has started.
      admin_token: as in `catalogue_routes`; None: empty.
      deadline_seconds: the deadline of a recommendation request that states none.
      origins: origins, besides our own, whose pages may send requests from a browser.
      max_body: most bytes of a request's body.
      body_seconds: the time within which the body must have arrived.
    """
    app = FastAPI(title="tsrec", version="1", docs_url=None, redoc_url=None)  # theirs load scripts from elsewhere
    add_errors(app, service)
    for routes in (recommend_routes(service, deadline_seconds), catalogue_routes(service, admin_token or "")):
        app.include_router(routes, prefix=VERSION)
        app.include_router(routes, include_in_schema=False)  # their names from before there were versions
    app.include_router(watch_routes(service))
    app.include_router(page_routes(service))
    app.include_router(docs_routes(app))
    guarded = Guard(app, service.metrics, lambda: service.leaving, max_body=max_body, body_seconds=body_seconds)
    if not origins:
        return guarded
    return CORSMiddleware(  # outermost, so that a page can also read the guard's refusals
        guarded,
        allow_origins=origins,
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["*"],
        expose_headers=["X-Request-ID", "Retry-After", "X-Last-Change", "X-Model"],
    )
