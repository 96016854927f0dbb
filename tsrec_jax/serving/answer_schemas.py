"""The answers of the HTTP service, as models for its OpenAPI description. The routes write the JSON themselves."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Error(_Answer):
    """Every error."""

    error: str


class _Facts(_Answer):
    brand: str = ""
    categories: str = ""
    image: str = ""


class Step(_Answer):
    """A token of a path; what it means is absent where that is not known."""

    token: str
    score: float
    keywords: list[str] = []
    description: str = ""


class RecommendedItem(_Facts):
    """An item of an answer."""

    id: str
    title: str
    score: float
    sid: str
    path: list[Step]


class Timing(_Answer):
    """Milliseconds."""

    queue: float
    compute: float
    total: float


class Recommended(_Answer):
    """POST /recommend."""

    items: list[RecommendedItem]
    exact: bool
    used: int
    skipped: list[str]
    model: str
    timing_ms: Timing
    batch_size: int


class ManyRecommended(_Answer):
    """POST /recommend/batch."""

    answers: list[Recommended | Error]


class CatalogueItem(_Facts):
    """An item of the catalogue."""

    id: str
    title: str
    sid: list[str]
    blocked: bool


class Found(_Answer):
    """GET /items."""

    items: list[CatalogueItem]
    of: int


class Near(_Answer):
    """An item that a coded one is like."""

    id: str
    title: str
    sid: list[str]
    likeness: float


class Put(_Answer):
    """PUT /items/{id}; what is behind `items` where the item was coded."""

    id: str
    new: bool
    items: int
    sid: list[str] = []
    sure: float = 0.0
    shared_with: list[str] = []
    neighbours: list[Near] = []


class Changed(CatalogueItem):
    """PATCH /items/{id}: the item as it is then."""

    items: int


class Removed(_Answer):
    """DELETE /items/{id}."""

    id: str
    items: int


class JournalLine(_Answer):
    """A line of GET /catalogue/changes; `item` is as it is now."""

    number: int
    at: str
    who: str
    action: str
    id: str
    item: CatalogueItem | None


class Status(_Answer):
    """GET /livez and /readyz."""

    status: Literal["alive", "ready"]


class Health(_Answer):
    """GET /health."""

    status: Literal["ok"]
    model: str
    max_k: int
    max_beams: int
    items: int
    levels: int
    last_change: int


_ERROR = {"schema": {"$ref": f"#/components/schemas/{Error.__name__}"}}
ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {"description": "An error, with its reason", "content": {"application/json": _ERROR}}
}


def answers(model: type[BaseModel], *more: int) -> dict[int | str, dict[str, Any]]:
    """The answers of a route with status 200, and with other statuses that are not errors."""
    return {status: {"model": model} for status in (200, *more)}
