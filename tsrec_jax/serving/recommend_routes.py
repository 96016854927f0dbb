"""The routes that recommend."""

from __future__ import annotations

import asyncio
import time

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from tsrec_jax.errors import UserError
from tsrec_jax.serving.answers import Request as Wanted
from tsrec_jax.serving.batcher import Answered, Expired, Ticket
from tsrec_jax.serving.guard import ARRIVED
from tsrec_jax.serving.messages import RecommendBody, answer_json
from tsrec_jax.serving.service import Service
from tsrec_jax.serving.titles import ids_of_titles


def recommend_routes(service: Service, deadline_seconds: float) -> APIRouter:
    """POST /recommend.

    Args:
      service: what answers.
      deadline_seconds: of a request that states none.
    """
    routes = APIRouter(tags=["recommendations"])

    @routes.post("/recommend")
    async def recommend(request: Request, body: RecommendBody) -> Response:
        """The k best items for one history."""
        arrived = request.scope[ARRIVED]
        service.refuse_unless_ready()
        service.batcher.refuse_if_full()  # before the work of looking at the request
        wanted = await run_in_threadpool(_checked, service, body)
        seconds = deadline_seconds if body.deadline_ms is None else body.deadline_ms / 1000
        ticket = service.batcher.submit(wanted, arrived + seconds)
        found = await _wait(request, ticket, service)
        if found is None:
            service.metrics.refused("client_gone")
            return Response(status_code=499)  # nobody reads it
        service.metrics.waited(found.waited)
        return JSONResponse(answer_json(found, time.monotonic() - arrived))

    return routes


def _checked(service: Service, body: RecommendBody) -> Wanted:
    """What the recommender is asked for.

    Raises:
      UserError: an unknown item or title, or more items than this server gives.
    """
    if body.k > service.max_k:
        raise UserError(f"k: at most {service.max_k} here (--beams)")
    recommender = service.recommender
    history = body.history or ids_of_titles(recommender.catalogue, body.titles or [])
    allow = None if body.allow is None else tuple(body.allow)
    wanted = Wanted(tuple(history), body.k, body.exclude_history, tuple(body.exclude), allow)
    recommender.check(wanted)
    return wanted


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
