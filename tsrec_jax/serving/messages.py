"""The JSON of the HTTP service: the contents and limits of requests, and the form of answers and errors."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from tsrec_jax.data.catalogue import is_address, shown_facts
from tsrec_jax.serving.answers import MAX_BEAMS, Coding, PathStep
from tsrec_jax.serving.batcher import Answered
from tsrec_jax.serving.catalogue_items import MAX_ID, MAX_TITLE, is_plain

MAX_HISTORY = 50
MAX_TITLES = 50  # each takes a look-up by its text
MAX_FILTER = 10_000
MAX_REQUESTS = 1_000  # wishes of a batch
MAX_DEADLINE_MS = 60_000
MAX_DESCRIPTION = 20_000
MAX_LEVELS = 32
MAX_FOUND = 100
MAX_QUERY = 200
_TOKENS = re.compile(r"(?:<[^<>\s]+>)+")
_TOKEN = re.compile(r"<[^<>\s]+>")
_ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)


def _filled(title: str) -> str:
    if not title.strip():
        raise ValueError("must not be blank")
    return title


def _plain(title: str) -> str:
    if not is_plain(title):
        raise ValueError("must be one line without control characters")
    return title


def _address(text: str) -> str:
    if text and not is_address(text):
        raise ValueError("must be an address that begins with https:// or http://")
    return text


def _tokens(sid: Any) -> tuple[str, ...] | None:
    """The tokens of a SID given as a list of them or as one text; null: none is stated."""
    if sid is None:
        return None
    found = _TOKEN.findall(sid) if isinstance(sid, str) and _TOKENS.fullmatch(sid) else sid
    if not isinstance(found, list) or not 1 <= len(found) <= MAX_LEVELS or not all(map(_is_token, found)):
        raise ValueError(f"must be a list of 1 to {MAX_LEVELS} tokens, or one text such as <a_1><b_2><c_3>")
    return tuple(found)


def _is_token(value: Any) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= MAX_ID


ItemId = Annotated[str, Field(min_length=1)]
ShownText = Annotated[str, Field(max_length=MAX_TITLE), AfterValidator(_plain)]
Deadline = Annotated[int, Field(ge=1, le=MAX_DEADLINE_MS)] | None
Title = Annotated[str, Field(max_length=MAX_TITLE), AfterValidator(_filled)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class WishBody(_Message):
    """What one user is to be recommended; exactly one of `history` and `titles`, oldest first."""

    history: Annotated[list[ItemId], Field(min_length=1, max_length=MAX_HISTORY)] | None = None
    titles: Annotated[list[Title], Field(min_length=1, max_length=MAX_TITLES)] | None = None
    k: Annotated[int, Field(ge=1, le=MAX_BEAMS)] = 10
    exclude_history: bool = False
    exclude: Annotated[list[ItemId], Field(max_length=MAX_FILTER)] = []
    allow: Annotated[list[ItemId], Field(max_length=MAX_FILTER)] | None = None
    unknown: Literal["refuse", "skip"] = "refuse"
    beams: Annotated[int, Field(ge=1, le=MAX_BEAMS)] | None = None
    exact: bool = False

    @model_validator(mode="after")
    def _one_history(self) -> Self:
        if (self.history is None) == (self.titles is None):
            raise ValueError("give either history, a list of item ids, or titles, a list of exact titles")
        return self


class RecommendBody(WishBody):
    """POST /recommend."""

    deadline_ms: Deadline = None


class ManyBody(_Message):
    """POST /recommend/batch: wishes that are answered one by one, within one deadline."""

    requests: Annotated[list[WishBody], Field(min_length=1, max_length=MAX_REQUESTS)]
    deadline_ms: Deadline = None


class ItemBody(_Message):
    """PUT /items/{id}; without a `sid` an item keeps the one that it has, and a new one is coded from its texts.

    Without `blocked` an item stays blocked, or not.
    """

    title: Annotated[Title, AfterValidator(_plain)]
    sid: Annotated[Any, AfterValidator(_tokens)] = None
    description: Annotated[str, Field(max_length=MAX_DESCRIPTION)] = ""
    blocked: bool | None = None
    brand: ShownText = ""
    categories: ShownText = ""
    image: Annotated[str, Field(max_length=MAX_TITLE), AfterValidator(_address)] = ""

    @property
    def facts(self) -> dict[str, str]:
        """What people see of the item in addition to its title, if it is given."""
        return shown_facts(self)


class ItemChange(_Message):
    """PATCH /items/{id}: what is stated is changed, all else stays as it is."""

    title: Annotated[Title, AfterValidator(_plain)] | None = None
    sid: Annotated[Any, AfterValidator(_tokens)] = None
    blocked: bool | None = None
    brand: ShownText | None = None
    categories: ShownText | None = None
    image: Annotated[str, Field(max_length=MAX_TITLE), AfterValidator(_address)] | None = None

    @property
    def stated(self) -> dict[str, Any]:
        """The fields of a `LiveItem` that are to change."""
        return self.model_dump(exclude_none=True)

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.stated:
            raise ValueError("state at least one of title, sid, blocked, brand, categories and image")
        return self


def answer_json(found: Answered, total_seconds: float, model: str) -> dict[str, Any]:
    """The answer to POST /recommend from this version of the model; scores are log-probabilities in nats, times ms."""
    return {
        "items": [
            {
                "id": item.item_id,
                "title": item.title,
                "score": _finite(item.score),
                "sid": item.sid,
                **shown_facts(item),
                "path": [_step_json(step) for step in item.path],
            }
            for item in found.answer.items
        ],
        "exact": found.answer.exact,
        "used": found.answer.used,
        "skipped": found.answer.skipped,
        "model": model,
        "timing_ms": {
            "queue": round(1000 * found.waited, 3),
            "compute": round(1000 * found.computed, 3),
            "total": round(1000 * total_seconds, 3),
        },
        "batch_size": found.batch_size,
    }


def json_bytes(value: Any) -> bytes:
    """JSON of dicts, lists, texts and finite numbers, by pydantic, since an answer has kilobytes of words."""
    return _ANYTHING.dump_json(value)


def _finite(score: float) -> float:
    if not math.isfinite(score):
        raise ValueError(f"a score is {score}")  # which JSON cannot express
    return score


def _step_json(step: PathStep) -> dict[str, Any]:
    """A token of a path, with its meaning if that is known."""
    said = {"keywords": step.keywords, "description": step.description} if step.keywords else {}
    return {"token": step.token, "score": _finite(step.score), **said}


def coding_json(coding: Coding) -> dict[str, Any]:
    """How an item got its SID, in addition to the usual answer of PUT /items/{id}."""
    return dataclasses.asdict(coding)


def item_json(item: Any) -> dict[str, Any]:
    """A `LiveItem` of the catalogue."""
    facts = {"id": item.id, "title": item.title, "sid": list(item.sid), "blocked": item.blocked}
    return {**facts, **shown_facts(item)}


def validation_reason(errors: Sequence[Mapping[str, Any]]) -> str:
    """One line for the first three of pydantic's errors; it repeats none of the request's values."""
    lines = [_reason(error) for error in errors[:3]]
    more = f" (and {len(errors) - 3} more)" if len(errors) > 3 else ""
    return "; ".join(lines) + more


def unreadable_reason(error: BaseException | None) -> str:
    """Why Python's JSON reader gave up on a body, without quoting the body."""
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 (byte {error.start})"
    return "it is nested too deeply" if isinstance(error, RecursionError) else "a number in it is too long"


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
