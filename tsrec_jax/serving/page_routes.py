"""The files of the pages, and the example histories that one of them offers."""

from __future__ import annotations

import pathlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from tsrec_jax.serving.examples import Examples
from tsrec_jax.serving.messages import item_json

if TYPE_CHECKING:
    from tsrec_jax.serving.service import Service

_PAGE = pathlib.Path(__file__).parent / "page"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def page_routes(service: Service) -> APIRouter:
    """An address for each file and one for the histories."""
    routes = APIRouter(include_in_schema=False)
    for file in sorted(_PAGE.iterdir()):
        address = "/" if file.name == "index.html" else f"/{file.name}"
        routes.get(address)(_file_route(file.read_bytes(), _TYPES[file.suffix]))
    examples = Examples(service.recommender.catalogue)

    @routes.get("/examples")
    def histories() -> Response:
        nonlocal examples
        if examples.catalogue is not service.recommender.catalogue:  # another export was loaded
            examples = Examples(service.recommender.catalogue)
        return JSONResponse({"examples": [[item_json(item) for item in items] for items in examples.now()]})

    return routes


def _file_route(content: bytes, media_type: str) -> Callable[[], Awaitable[Response]]:
    async def route() -> Response:
        return Response(content, media_type=media_type)

    return route
