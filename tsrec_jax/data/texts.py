"""Texts from outside: what cannot be read, what is read as a space, and what only marks a missing text."""

from __future__ import annotations

import re

# All control characters but tab and line ends; shop pages contain them, and they mean nothing in a text.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_HALF = re.compile(r"[\ud800-\udfff]")
# What programs write where a value is missing; `Nan` and `NAN` may be names.
_NOTHING = ("nan", "NaN", "NA", "NaT", "-nan", "-NaN", "#NA", "\\N")
_NOTHING_IN_ANY_CASE = ("none", "null", "n/a", "n.a.", "#n/a", "<na>", "<null>", "(null)", "undefined", "[]", "{}")
_LONGEST_NOTHING = max(map(len, (*_NOTHING, *_NOTHING_IN_ANY_CASE)))


def has_control(text: str) -> bool:
    """Whether a text holds a control character other than a tab or the end of a line."""
    return _CONTROL.search(text) is not None


def without_control(text: str) -> str:
    """The text with each control character that `has_control` finds replaced by a space."""
    return _CONTROL.sub(" ", text)


def has_half(text: str) -> bool:
    """Whether a text holds half of a surrogate pair, which JSON can spell and no UTF-8 can hold."""
    return _HALF.search(text) is not None


def stands_for_nothing(text: str) -> bool:
    """Whether a text is what programs write for a missing one, such as `nan` or `N/A`."""
    text = text.strip()
    return len(text) <= _LONGEST_NOTHING and (text in _NOTHING or text.lower() in _NOTHING_IN_ANY_CASE)
