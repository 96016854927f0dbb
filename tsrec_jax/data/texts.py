"""Texts from outside: what cannot be read, what is read as a space, and titles that only stand for a missing one."""

from __future__ import annotations

import re

# All control characters but tab and the ends of lines; shops' pages carry them, and they mean nothing in a text.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_HALF = re.compile(r"[\ud800-\udfff]")
_NOTHING = frozenset(("nan", "none", "null", "n/a", "<na>", "nat"))  # what programs write where a value is missing


def has_control(text: str) -> bool:
    """Whether a text holds a control character other than a tab or the end of a line."""
    return _CONTROL.search(text) is not None


def without_control(text: str) -> str:
    """The text with each such character as a space."""
    return _CONTROL.sub(" ", text)


def has_half(text: str) -> bool:
    """Whether a text holds half of a surrogate pair, which JSON can spell and no UTF-8 can hold."""
    return _HALF.search(text) is not None


def stands_for_nothing(title: str) -> bool:
    """Whether a title is what programs write where there is none, as in `nan` or `N/A`."""
    return title.strip().casefold() in _NOTHING
