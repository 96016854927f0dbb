"""The files of the page."""

from __future__ import annotations

import pathlib
from collections.abc import Awaitable, Callable

from fastapi import APIRouter
from fastapi.responses import Response

_PAGE = pathlib.Path(__file__).parent / "page"
_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def page_routes() -> APIRouter:
    """An address for each file."""
    routes = APIRouter(include_in_schema=False)
    for address, (name, media_type) in _FILES.items():
        routes.get(address)(_file_route((_PAGE / name).read_bytes(), media_type))
    return routes


def _file_route(content: bytes, media_type: str) -> Callable[[], Awaitable[Response]]:
    async def route() -> Response:
        return Response(content, media_type=media_type)

    return route
