"""The JSON of the HTTP service: what a request may say, how long it may be, and how answers and errors look."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tsrec_jax.serving.batcher import Answered

MAX_HISTORY = 50
MAX_TITLES = 50  # each is looked up by its text
MAX_FILTER = 10_000
MAX_K = 512
MAX_DEADLINE_MS = 60_000
MAX_ID = 256
MAX_TITLE = 2_000
MAX_LEVELS = 32
MAX_FOUND = 100
MAX_QUERY = 200
_TOKENS = re.compile(r"(?:<[^<>\s]+>)+")
_TOKEN = re.compile(r"<[^<>\s]+>")

ItemId = Annotated[str, Field(min_length=1, max_length=MAX_ID)]
Title = Annotated[str, Field(min_length=1, max_length=MAX_TITLE, pattern=r"\S")]
Token = Annotated[str, Field(min_length=1, max_length=MAX_ID)]
SidText = Annotated[str, Field(max_length=MAX_TITLE)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class RecommendBody(_Message):
    """POST /recommend; exactly one of `history` and `titles`, oldest first."""

    history: Annotated[list[ItemId], Field(min_length=1, max_length=MAX_HISTORY)] | None = None
    titles: Annotated[list[Title], Field(min_length=1, max_length=MAX_TITLES)] | None = None
    k: Annotated[int, Field(ge=1, le=MAX_K)] = 10
    exclude_history: bool = False
    exclude: Annotated[list[ItemId], Field(max_length=MAX_FILTER)] = []
    allow: Annotated[list[ItemId], Field(max_length=MAX_FILTER)] | None = None
    deadline_ms: Annotated[int, Field(ge=1, le=MAX_DEADLINE_MS)] | None = None

    @model_validator(mode="after")
    def _one_history(self) -> Self:
        if (self.history is None) == (self.titles is None):
            raise ValueError("give either history, a list of item ids, or titles, a list of exact titles")
        return self


class ItemBody(_Message):
    """PUT /items/{id}."""

    title: Title
    sid: Annotated[list[Token], Field(min_length=1, max_length=MAX_LEVELS)] | SidText
    blocked: bool = False

    @property
    def tokens(self) -> tuple[str, ...]:
        """The SID's tokens; of a text, what stands between angle brackets."""
        return tuple(_TOKEN.findall(self.sid)) if isinstance(self.sid, str) else tuple(self.sid)

    @model_validator(mode="after")
    def _sid_of_tokens(self) -> Self:
        if isinstance(self.sid, str) and not _TOKENS.fullmatch(self.sid):
            raise ValueError("sid must be a list of tokens, or one text such as <a_1><b_2><c_3>")
        return self


def answer_json(found: Answered, total_seconds: float) -> dict[str, Any]:
    """The answer to POST /recommend; scores are log-probabilities in nats, times milliseconds."""
    return {
        "items": [
            {
                "id": item.item_id,
                "title": item.title,
                "score": item.score,
                "sid": item.sid,
                "path": [{"token": step.token, "score": step.score} for step in item.path],
            }
            for item in found.answer.items
        ],
        "exact": found.answer.exact,
        "used": found.answer.used,
        "timing_ms": {
            "queue": round(1000 * found.waited, 3),
            "compute": round(1000 * found.computed, 3),
            "total": round(1000 * total_seconds, 3),
        },
        "batch_size": found.batch_size,
    }


def item_json(item: Any) -> dict[str, Any]:
    """A `LiveItem` of the catalogue."""
    return {"id": item.id, "title": item.title, "sid": list(item.sid), "blocked": item.blocked}


def validation_reason(errors: Sequence[Mapping[str, Any]]) -> str:
    """One line for pydantic's errors, the first three of them; nothing of the request's own values is repeated."""
    lines = [_reason(error) for error in errors[:3]]
    more = f" (and {len(errors) - 3} more)" if len(errors) > 3 else ""
    return "; ".join(lines) + more


def _reason(error: Mapping[str, Any]) -> str:
    if error["type"] == "json_invalid":
        return f"the body is not valid JSON: {error['ctx']['error']} at character {error['loc'][-1]}"
    place = ".".join(str(part) for part in error["loc"] if part not in ("body", "query", "path"))
    if not place and error["type"] != "value_error":
        return "the body must be a JSON object, sent as application/json"
    text = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        text = "no such key"
    return f"{place}: {text}" if place else text
