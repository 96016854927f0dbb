"""A model's answer, checked for what the rest of the package needs, or refused with the reason."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from tsrec_jax.data.catalogue import TokenDescription

ANSWER_SCHEMA = {
    "type": "object",
    "properties": {
        "description": {"type": "string"},
        "keywords": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["description", "keywords"],
    "additionalProperties": False,
}
_FENCE = re.compile(r"```[\w-]*\s*\n(.*?)```", re.DOTALL)


class BadAnswer(Exception):
    """An answer that cannot be used; the message says why."""


def parse_answer(text: str, token: str, prefix: tuple[str, ...] = ()) -> TokenDescription:
    """Reads the answer to the question about a token or path: a JSON object, bare or inside a code fence.

    Keywords are stripped, and one that repeats an earlier one, except for case, is left out.

    Raises:
      BadAnswer: the answer is empty, not JSON or not an object, lacks a key, has a value of the wrong type, an empty
        description or no keywords, names a token of the path in the description or a keyword, or has text that no
        file can hold.
    """
    value = _read_json(text)
    if not isinstance(value, dict):
        raise BadAnswer(f"the JSON is a {type(value).__name__} where an object was asked for")
    for key in ("description", "keywords"):
        if key not in value:
            raise BadAnswer(f"the key {key!r} is missing")
    description, keywords = value["description"], value["keywords"]
    if not isinstance(description, str):
        raise BadAnswer(f"the description is a {type(description).__name__}, not a text")
    if not isinstance(keywords, list) or not all(isinstance(keyword, str) for keyword in keywords):
        raise BadAnswer("the keywords are not a list of texts")
    description, kept = " ".join(description.split()), _distinct(keywords)
    if not description:
        raise BadAnswer("the description is empty")
    if not kept:
        raise BadAnswer("the list of keywords is empty")
    if any(named in part for named in (*prefix, token) for part in (description, *kept)):
        raise BadAnswer("the answer names the token itself")
    try:
        "".join((description, *kept)).encode("utf-8")
    except UnicodeEncodeError:
        raise BadAnswer("the answer holds one half of a surrogate pair, which is no character") from None
    return TokenDescription(token, description, kept, prefix)


def _read_json(text: str) -> Any:
    if not text.strip():
        raise BadAnswer("the answer is empty")
    fenced = _FENCE.search(text)
    try:
        return json.loads(fenced.group(1) if fenced else text)
    except (ValueError, RecursionError) as error:
        raise BadAnswer(f"not valid JSON ({error})") from None


def _distinct(keywords: Sequence[str]) -> tuple[str, ...]:
    kept: dict[str, str] = {}
    for keyword in keywords:
        plain = " ".join(keyword.split())
        if plain:
            kept.setdefault(plain.casefold(), plain)
    return tuple(kept.values())
