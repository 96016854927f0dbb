"""The routes for probes and monitors."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from tsrec_jax.serving.answer_schemas import ERRORS, Health, Status, answers
from tsrec_jax.serving.http_errors import error_response
from tsrec_jax.serving.metrics import CONTENT_TYPE
from tsrec_jax.serving.service import Service


def watch_routes(service: Service) -> APIRouter:
    """Liveness, readiness, health and metrics."""
    routes = APIRouter(tags=["watching"], responses=ERRORS)

    @routes.get("/livez", responses=answers(Status))
    async def alive() -> Response:
        """200 unless the process has failed for good and should be restarted; also while it warms up and drains."""
        return error_response(503, service.failure) if service.failure else JSONResponse({"status": "alive"})

    @routes.get("/readyz", responses=answers(Status))
    async def ready() -> Response:
        """200 while new requests should be sent here; 503 with the reason while warming up and shutting down."""
        if reason := service.not_ready:
            return error_response(503, reason)
        return JSONResponse({"status": "ready"})

    @routes.get("/health", responses=answers(Health))
    async def health() -> Response:
        """As /readyz, with what is served."""
        if reason := service.not_ready:
            return error_response(503, reason)
        catalogue = service.recommender.catalogue
        facts = {"items": catalogue.num_items, "levels": catalogue.num_levels, "last_change": catalogue.last_change}
        limits = {"max_k": service.max_k, "max_beams": service.max_beams}
        return JSONResponse({"status": "ok", "model": service.recommender.version, **limits, **facts})

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counters and histograms in Prometheus' text format."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    return routes
