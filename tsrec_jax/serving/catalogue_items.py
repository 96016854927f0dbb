"""One item of a served catalogue, and what its texts may be."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from tsrec_jax.data.catalogue import SHOWN_FACTS

MAX_ID = 256  # characters in the id of an item that is put; an item that is already there may have any id
MAX_TITLE = 2_000
# Control characters, remains of a broken encoding, and marks that change the direction of all text after them.
_NOT_PLAIN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufffd\ud800-\udfff]")


@dataclasses.dataclass(frozen=True)
class LiveItem:
    """One item; a blocked one may occur in histories and is never recommended.

    `brand`, `categories` and `image`, the address of a picture, are shown to people; absent ones are empty.
    """

    id: str
    title: str
    sid: tuple[str, ...]
    blocked: bool = False
    brand: str = ""
    categories: str = ""
    image: str = ""


_KINDS = {"title": str, "sid": list, "blocked": bool, "brand": str, "categories": str, "image": str}


def kept_state(item: LiveItem) -> dict[str, Any]:
    """What the journal keeps of an item: all that differs from what it would be anyway."""
    fields = {field.name: field.default for field in dataclasses.fields(item)}
    return {
        name: getattr(item, name) for name, default in fields.items() if name != "id" and getattr(item, name) != default
    }


def without_sid(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of an item with a SID, turned into one that takes the export's SID and is otherwise the same.

    The fields that it leaves out are stated, since they would be taken from the export too.
    """
    return {"blocked": False, **dict.fromkeys(SHOWN_FACTS, ""), **{k: v for k, v in state.items() if k != "sid"}}


def wrong_state(state: Mapping[str, Any]) -> str:
    """Why the state of an item in the journal is not valid; empty if it is."""
    if not isinstance(state, dict):
        return "an item's state is no object"
    wrong = [name for name, value in state.items() if not isinstance(value, _KINDS.get(name, ()))]
    if not wrong and not all(isinstance(token, str) for token in state.get("sid", ())):
        wrong = ["sid"]
    return f"not as this version of the program writes an item ({', '.join(wrong)})" if wrong else ""


def is_plain(text: str) -> bool:
    """Whether a text is free of what no name should contain: control or broken characters, changes of direction."""
    return not _NOT_PLAIN.search(text)


def is_new_id(text: str) -> bool:
    """Whether an item that is put may have this id."""
    return 1 <= len(text) <= MAX_ID and bool(text.strip()) and is_plain(text)
