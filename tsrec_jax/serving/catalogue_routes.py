"""The routes that search the catalogue, change it and hand it out whole."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np
from fastapi import APIRouter, Depends, Header, HTTPException, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.security import HTTPBearer

from tsrec_jax.data.catalogue import Item, UnknownItem
from tsrec_jax.errors import UserError
from tsrec_jax.serving.answer_schemas import (
    ERRORS,
    CatalogueItem,
    Changed,
    Found,
    JournalLine,
    Put,
    Removed,
    answers,
)
from tsrec_jax.serving.catalogue_changes import Change
from tsrec_jax.serving.catalogue_items import MAX_ID, LiveItem, is_new_id, is_plain
from tsrec_jax.serving.engine import NotReady, refuse_unless_indexed
from tsrec_jax.serving.guard import HEAD
from tsrec_jax.serving.http_errors import error_response
from tsrec_jax.serving.messages import MAX_FOUND, MAX_QUERY, ItemBody, ItemChange, coding_json, item_json
from tsrec_jax.serving.one_thread import OneThread
from tsrec_jax.serving.service import Service

if TYPE_CHECKING:
    from tsrec_jax.serving.recommender import Recommender

_MAX_WHO = 200  # characters
_MAX_CHANGES = 10_000  # changes of the journal in one answer
_LINES = 500  # lines of a stream that are sent together
_CHANGES = 4  # threads that change the catalogue
_CODING_SECONDS = 30.0  # within which the texts of a new item must be embedded
_Done = TypeVar("_Done")
_LOG = logging.getLogger(__name__)
# For the OpenAPI description; `has_token` compares.
_BEARER = HTTPBearer(auto_error=False, description="The server's TSREC_ADMIN_TOKEN")


class _Lines(StreamingResponse):
    media_type = "application/x-ndjson"


def _changed_by(request: Request, x_changed_by: Annotated[str, Header(max_length=_MAX_WHO)] = "") -> str:
    """Who makes a change, for the journal: the name that the request gives, and the address that it comes from."""
    try:
        name = x_changed_by.encode("latin-1").decode("utf-8")  # headers arrive as Latin-1 text, whatever they are
    except UnicodeError:
        raise UserError("X-Changed-By: must be UTF-8") from None
    if not is_plain(name):
        raise UserError("X-Changed-By: must be one line without control characters")
    host = request.client.host if request.client else ""
    return f"{name.strip()} from {host}" if name.strip() and host else name.strip() or host


_Who = Annotated[str, Depends(_changed_by)]


def catalogue_routes(service: Service, admin_token: str) -> APIRouter:
    """The addresses under /items and /catalogue.

    Args:
      service: the service whose recommender has the catalogue.
      admin_token: needed for changes and for reading the whole catalogue; empty: neither is possible over HTTP.
    """
    routes = APIRouter(tags=["catalogue"], responses=ERRORS)
    # Separate threads: a change may wait long for another process that writes, and the encoder may be far away.
    changing = ThreadPoolExecutor(_CHANGES, "change")
    encoder = OneThread("encoder")

    async def changed(change: Callable[[], _Done]) -> _Done:
        return await asyncio.get_running_loop().run_in_executor(changing, change)

    async def embedded(recommender: Recommender, item: Item) -> np.ndarray | None:
        """What a new item's SID is made of."""
        embedding = asyncio.wrap_future(encoder.submit(lambda: recommender.vector(item)))
        try:
            return await asyncio.wait_for(embedding, _CODING_SECONDS)
        except TimeoutError:
            raise NotReady("the encoder is still loading or busy; put the item again later, or give its sid") from None

    def has_token(request: Request, _: Annotated[Any, Depends(_BEARER)]) -> None:
        if not admin_token:
            raise HTTPException(403, "this needs the admin token, and the server was started without TSREC_ADMIN_TOKEN")
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        # Headers arrive as Latin-1 text; comparing bytes takes any token.
        right = hmac.compare_digest(token.strip().encode("latin-1"), admin_token.encode())
        if scheme.lower() != "bearer" or not right:
            _LOG.warning("a catalogue request without the right token, from %s", request.client and request.client.host)
            reason = "this needs the header `Authorization: Bearer TOKEN` with the server's token"
            raise HTTPException(401, reason, {"WWW-Authenticate": "Bearer"})

    @routes.put("/items/{item_id:path}", dependencies=[Depends(has_token)], responses=answers(Put, 201))
    async def put(item_id: str, body: ItemBody, who: _Who, if_none_match: Annotated[str, Header()] = "") -> Response:
        """Adds an item, or replaces one, unless `If-None-Match: *` says that it must be new.

        A new one without a SID gets one that is made of its texts.
        """
        if not is_new_id(item_id):
            raise UserError(f"an item's id has 1 to {MAX_ID} characters, none of them a control character or broken")
        recommender = service.recommender
        item = Item(item_id, body.title, body.description, **body.facts)
        only_new = if_none_match.strip() == "*"
        needs_sid = body.sid is None and recommender.catalogue.get(item_id) is None
        vector_K = await embedded(recommender, item) if needs_sid else None
        new, made = await changed(
            lambda: recommender.put(item, body.sid, vector_K=vector_K, blocked=body.blocked, only_new=only_new, who=who)
        )
        facts = {"id": item_id, "new": new, "items": recommender.catalogue.num_items}
        return JSONResponse(facts | ({} if made is None else coding_json(made)), 201 if new else 200)

    @routes.patch("/items/{item_id:path}", dependencies=[Depends(has_token)], responses=answers(Changed))
    async def patch(item_id: str, body: ItemChange, who: _Who) -> Response:
        """Changes what is stated of an item, and nothing else."""
        catalogue = service.recommender.catalogue
        try:
            item = await changed(lambda: catalogue.change(item_id, body.stated, who=who))
        except UnknownItem as error:
            return error_response(404, str(error))
        return JSONResponse(item_json(item) | {"items": catalogue.num_items})

    @routes.delete("/items/{item_id:path}", dependencies=[Depends(has_token)], responses=answers(Removed))
    async def delete(item_id: str, who: _Who) -> Response:
        """Takes an item out; it is then unknown in histories too."""
        catalogue = service.recommender.catalogue
        try:
            await changed(lambda: catalogue.remove(item_id, who=who))
        except UnknownItem as error:
            return error_response(404, str(error))
        return JSONResponse({"id": item_id, "items": catalogue.num_items})

    @routes.get("/items/{item_id:path}", responses=answers(CatalogueItem))
    def get(item_id: str) -> Response:
        """One item."""
        try:
            return JSONResponse(item_json(service.recommender.catalogue.item(item_id)))
        except UnknownItem as error:
            return error_response(404, str(error))

    @routes.get("/items", responses=answers(Found))
    def find(
        q: Annotated[str, Query(max_length=MAX_QUERY)] = "", limit: Annotated[int, Query(ge=1, le=MAX_FOUND)] = 20
    ) -> Response:
        """Items whose title or id holds every word of `q`."""
        catalogue = service.recommender.catalogue
        refuse_unless_indexed(catalogue)
        found = catalogue.find(q, limit)
        return JSONResponse({"items": [item_json(item) for item in found], "of": catalogue.num_items})

    @routes.get(
        "/catalogue", dependencies=[Depends(has_token)], responses=answers(CatalogueItem), response_class=_Lines
    )
    def catalogue(request: Request) -> Response:
        """All items, one JSON object a line; X-Last-Change is the number behind which `/catalogue/changes` goes on."""
        recommender = service.recommender
        headers = {"X-Last-Change": str(recommender.catalogue.last_change), "X-Model": recommender.version}
        return _stream(request, headers, map(item_json, recommender.catalogue.items()))

    @routes.get(
        "/catalogue/changes", dependencies=[Depends(has_token)], responses=answers(JournalLine), response_class=_Lines
    )
    def changes(
        request: Request,
        after: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=_MAX_CHANGES)] = 1000,
    ) -> Response:
        """The journal behind a change, one JSON object a line, the oldest first.

        Each says who changed what and when, and gives the `item` as it is now; null: it is not in the catalogue.
        """
        recommender = service.recommender
        catalogue = recommender.catalogue
        last = catalogue.last_change  # what others have written after it is not in the items yet
        found = [change for change in catalogue.changes.after(after, limit) if change.number <= last]
        objects = (_change_json(change, catalogue.get(change.id)) for change in found)
        return _stream(request, {"X-Last-Change": str(last), "X-Model": recommender.version}, objects)

    return routes


def _change_json(change: Change, item: LiveItem | None) -> dict[str, Any]:
    facts = {"number": change.number, "at": change.at, "who": change.who, "action": change.action, "id": change.id}
    return {**facts, "item": None if item is None else item_json(item)}


def _stream(request: Request, headers: dict[str, str], objects: Iterable[dict[str, Any]]) -> Response:
    """A line for each object; the head alone if the request is a HEAD."""
    return _Lines(_lines(() if request.scope.get(HEAD) else objects), headers=headers)


def _lines(objects: Iterable[dict[str, Any]]) -> Iterator[str]:
    """JSON, one object a line, some lines at a time."""
    objects = iter(objects)
    while some := list(itertools.islice(objects, _LINES)):
        yield "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in some)
