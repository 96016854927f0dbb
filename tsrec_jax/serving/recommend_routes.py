"""The routes that recommend."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from tsrec_jax.errors import UserError
from tsrec_jax.serving.answer_schemas import ERRORS, ManyRecommended, Recommended, answers
from tsrec_jax.serving.answers import Request as Wanted
from tsrec_jax.serving.batcher import BatchFailed, Closed, Expired, QueueFull
from tsrec_jax.serving.engine import NotReady, refuse_unless_indexed
from tsrec_jax.serving.guard import ARRIVED
from tsrec_jax.serving.messages import ManyBody, RecommendBody, WishBody, answer_json, json_bytes
from tsrec_jax.serving.service import Accepted, Service
from tsrec_jax.serving.titles import ids_of_titles

_CHECKS = 4  # threads that check requests
_FEW = 200  # ids that are looked up directly, without a thread
_AGAIN_SECONDS = 0.02  # before a wish of a batch tries again for a place in the queue
_Json = dict[str, Any]


def recommend_routes(service: Service, deadline_seconds: float) -> APIRouter:
    """POST /recommend and /recommend/batch.

    Args:
      service: the service that answers.
      deadline_seconds: the deadline of a request that states none.
    """
    routes = APIRouter(tags=["recommendations"], responses=ERRORS)
    # Separate threads, so that the server's other work does not delay the checking of requests.
    checks = ThreadPoolExecutor(_CHECKS, "check")

    async def checked(wish: WishBody, expires_at: float) -> Wanted:
        if _is_quick(service, wish):
            return _checked(service, wish)
        looking = asyncio.get_running_loop().run_in_executor(checks, _checked, service, wish)
        try:
            async with asyncio.timeout(max(0.0, expires_at - time.monotonic())):
                return await looking
        except TimeoutError:
            raise Expired("the deadline passed before the request was looked at") from None

    def begin(request: Request, deadline_ms: int | None) -> float:
        """The time at which the request expires; refuses cheaply, before the work of checking the request."""
        service.refuse_unless_ready()
        service.refuse_if_full()
        return float(request.scope[ARRIVED]) + (deadline_seconds if deadline_ms is None else deadline_ms / 1000)

    @routes.post("/recommend", responses=answers(Recommended))
    async def recommend(request: Request, body: RecommendBody) -> Response:
        """The k best items for one history."""
        expires_at = begin(request, body.deadline_ms)
        wanted = await checked(body, expires_at)
        accepted = service.submit(wanted, expires_at, body.beams, body.exact)
        return await _unless_gone(request, _answer(service, accepted, request.scope[ARRIVED]), service)

    @routes.post("/recommend/batch", responses=answers(ManyRecommended))
    async def recommend_many(request: Request, body: ManyBody) -> Response:
        """The k best items for each of many histories.

        `answers` are in the order of the requests, each as /recommend gives it or an `error`. A few are in the queue at
        a time, so that single requests are not held up.
        """
        expires_at = begin(request, body.deadline_ms)
        turn = asyncio.Semaphore(service.recommender.max_batch)

        async def one(wish: WishBody) -> _Json:
            async with turn:
                try:
                    wanted = await checked(wish, expires_at)
                    accepted = await _place(service, wanted, expires_at, wish)
                    return await _answer(service, accepted, request.scope[ARRIVED])
                except (UserError, NotReady, Expired, BatchFailed, Closed) as error:
                    return {"error": str(error)}

        async def all_of_them() -> _Json:
            return {"answers": await asyncio.gather(*map(one, body.requests))}

        return await _unless_gone(request, all_of_them(), service)

    return routes


def _is_quick(service: Service, wish: WishBody) -> bool:
    """Whether checking a request takes less time than handing it to a thread, as for most requests.

    Requests with titles or unknown ids take longer: the titles, or the nearest ids, have to be searched for.
    """
    ids = [*(wish.history or ()), *wish.exclude, *(wish.allow or ())]
    return not wish.titles and len(ids) <= _FEW and None not in map(service.recommender.catalogue.get, ids)


def _checked(service: Service, wish: WishBody) -> Wanted:
    """What is wanted from the recommender.

    Raises:
      UserError: an unknown item or title, or a search that this server does not offer.
      NotReady: titles are not indexed yet.
    """
    service.refuse_width(wish.k, wish.beams, wish.exact)
    recommender, skip = service.recommender, wish.unknown == "skip"
    if wish.titles:
        refuse_unless_indexed(recommender.catalogue)
    titles = [title for title in wish.titles or [] if not skip or recommender.catalogue.titled(title)]
    if skip and wish.titles and not titles:
        raise UserError("no item has one of the titles")
    history = wish.history or ids_of_titles(recommender.catalogue, titles)
    allow = None if wish.allow is None else tuple(wish.allow)
    wanted = Wanted(tuple(history), wish.k, wish.exclude_history, tuple(wish.exclude), allow, skip)
    recommender.check(wanted, beams=max(recommender.beams, wish.beams or 1))
    return wanted


async def _place(service: Service, wanted: Wanted, expires_at: float, wish: WishBody) -> Accepted:
    """A place in the queue; a wish of a batch waits for one if the queue is full.

    Raises:
      Expired: there was none before the deadline.
    """
    while time.monotonic() < expires_at:
        try:
            return service.submit(wanted, expires_at, wish.beams, wish.exact)
        except QueueFull:
            await asyncio.sleep(_AGAIN_SECONDS)
    raise Expired("the deadline passed while the queue was full")


async def _answer(service: Service, accepted: Accepted, arrived: float) -> _Json:
    """The answer to a request that was accepted. A request that nobody is waiting for any more leaves the queue.

    Raises:
      Expired: it was not there before the deadline.
    """
    seconds = max(0.0, accepted.ticket.expires_at - time.monotonic())
    try:
        async with asyncio.timeout(seconds):
            found = await asyncio.wrap_future(accepted.ticket.future)
    except TimeoutError:
        raise Expired("the deadline passed before the answer was there") from None
    finally:
        accepted.withdraw()
    service.metrics.answered(accepted.model, found.waited)
    return answer_json(found, time.monotonic() - arrived, accepted.model)


async def _unless_gone(request: Request, answer: Coroutine[Any, Any, _Json], service: Service) -> Response:
    """The answer as JSON; it is abandoned if the client leaves before it is ready."""
    answering = asyncio.ensure_future(answer)
    client_gone = asyncio.ensure_future(request.receive())  # the body was read: only a disconnect can follow
    try:
        await asyncio.wait((answering, client_gone), return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return Response(json_bytes(answering.result()), media_type="application/json")
        service.metrics.refused("client_gone")
        return Response(status_code=499)  # nobody reads it
    finally:
        client_gone.cancel()
        answering.cancel()
