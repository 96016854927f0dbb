"""The routes that search the catalogue and change it."""

from __future__ import annotations

import hmac
import logging
from typing import Annotated

from fastapi import APIRouter, Depends, Header, HTTPException, Query, Request
from fastapi.responses import JSONResponse, Response

from tsrec_jax.data.catalogue import Item
from tsrec_jax.errors import UserError
from tsrec_jax.serving.http_errors import error_response
from tsrec_jax.serving.messages import MAX_FOUND, MAX_ID, MAX_QUERY, ItemBody, coding_json, is_plain, item_json
from tsrec_jax.serving.service import Service

_LOG = logging.getLogger(__name__)


def catalogue_routes(service: Service, admin_token: str) -> APIRouter:
    """The addresses under /items.

    Args:
      service: whose recommender has the catalogue.
      admin_token: what a change must carry; empty: there are none over HTTP.
    """
    routes = APIRouter(tags=["catalogue"])

    def may_change(request: Request, authorization: Annotated[str, Header()] = "") -> None:
        if not admin_token:
            raise HTTPException(403, "this server takes no catalogue changes: it was started without TSREC_ADMIN_TOKEN")
        scheme, _, token = authorization.partition(" ")
        # Headers arrive as Latin-1 text; comparing bytes takes any token.
        right = hmac.compare_digest(token.strip().encode("latin-1"), admin_token.encode())
        if scheme.lower() != "bearer" or not right:
            _LOG.warning("a catalogue change without the right token, from %s", request.client and request.client.host)
            reason = "a catalogue change needs the header `Authorization: Bearer TOKEN` with the server's token"
            raise HTTPException(401, reason, {"WWW-Authenticate": "Bearer"})

    @routes.put("/items/{item_id:path}", dependencies=[Depends(may_change)])
    def put(item_id: str, body: ItemBody) -> Response:
        """Adds an item, or replaces one. A new one without a SID gets one that is made of its texts."""
        if not 1 <= len(item_id) <= MAX_ID or not item_id.strip() or not is_plain(item_id):
            raise UserError(f"an item's id has 1 to {MAX_ID} characters, none of them a control character or broken")
        recommender = service.recommender
        item = Item(item_id, body.title, body.description, **body.facts)
        new, coding = recommender.put(item, body.sid, blocked=body.blocked)
        facts = {"id": item_id, "new": new, "items": recommender.catalogue.num_items}
        return JSONResponse(facts | ({} if coding is None else coding_json(coding)), 201 if new else 200)

    @routes.delete("/items/{item_id:path}", dependencies=[Depends(may_change)])
    def delete(item_id: str) -> Response:
        """Takes an item out; it is then unknown in histories too."""
        catalogue = service.recommender.catalogue
        try:
            catalogue.remove(item_id)
        except UserError as error:
            return error_response(404, str(error))
        return JSONResponse({"id": item_id, "items": catalogue.num_items})

    @routes.get("/items/{item_id:path}")
    def get(item_id: str) -> Response:
        """One item."""
        try:
            return JSONResponse(item_json(service.recommender.catalogue.item(item_id)))
        except UserError as error:
            return error_response(404, str(error))

    @routes.get("/items")
    def find(
        q: Annotated[str, Query(max_length=MAX_QUERY)] = "", limit: Annotated[int, Query(ge=1, le=MAX_FOUND)] = 20
    ) -> Response:
        """Items whose title or id holds every word of `q`."""
        catalogue = service.recommender.catalogue
        found = catalogue.find(q, limit)
        return JSONResponse({"items": [item_json(item) for item in found], "of": catalogue.num_items})

    return routes
