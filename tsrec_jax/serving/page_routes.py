"""The files of the pages, and the histories to start with that one of them offers."""

from __future__ import annotations

import pathlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from tsrec_jax.serving.examples import Examples
from tsrec_jax.serving.messages import item_json

if TYPE_CHECKING:
    from tsrec_jax.serving.live_catalogue import LiveCatalogue

_PAGE = pathlib.Path(__file__).parent / "page"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def page_routes(catalogue: LiveCatalogue) -> APIRouter:
    """An address for each file and one for the histories."""
    routes = APIRouter(include_in_schema=False)
    for file in sorted(_PAGE.iterdir()):
        address = "/" if file.name == "index.html" else f"/{file.name}"
        routes.get(address)(_file_route(file.read_bytes(), _TYPES[file.suffix]))
    examples = Examples(catalogue)

    @routes.get("/examples")
    def histories() -> Response:
        return JSONResponse({"examples": [[item_json(item) for item in items] for items in examples.now()]})

    return routes


def _file_route(content: bytes, media_type: str) -> Callable[[], Awaitable[Response]]:
    async def route() -> Response:
        return Response(content, media_type=media_type)

    return route
