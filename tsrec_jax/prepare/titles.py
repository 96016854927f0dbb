"""Texts of a shop made plain, and titles that are none."""

from __future__ import annotations

import html
import re

# The three ways in which a title fails, in the words of the summary.
NO_TITLE = "item has no title"
MARKUP = "title is left-over markup or script"
TOO_LONG = "title has too many words"

_TAG = re.compile(r"<!--.*?-->|<(script|style)\b.*?</\1\s*>|</?[a-z][^<>]*>", re.DOTALL | re.IGNORECASE)
# White space, control characters, and the marks of zero width that shops' pages carry. The joiners U+200C and U+200D
# belong to the spelling of words (Persian, Hindi) and to emoji, and are blank only at either end or beside a blank.
_SPACE = r"\s\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060\ufeff"
_JOINERS = "\u200c\u200d"
_BLANK = re.compile(rf"[{_JOINERS}]*[{_SPACE}][{_SPACE}{_JOINERS}]*")
_SCRIPT = re.compile(
    r"</?(?:span|div|script|style|img|table|input|link|meta|br|td|li|ul)\b"  # a tag that was never closed
    r"|\bvar\s+\w+\s*="
    r"|\bfunction\s*\w*\s*\([^)]*\)\s*\{"
    r"|\b(?:window|document)\.\w+\s*[.=(]"
    r"|\.getTime\(\)"
    r"|[.#][a-z][\w-]*\s*\{"  # a rule of a style sheet
    r"|\{[^{}:]*:[^{};]*;",
    re.IGNORECASE,
)
_ESCAPED_TWICE = 2  # `&amp;quot;` is common in scraped pages


def plain_space(text: str) -> str:
    """The text with white space and control characters collapsed to single spaces."""
    return _BLANK.sub(" ", text).strip(f" {_JOINERS}")


def plain_text(text: str) -> str:
    """The text without HTML: entities unescaped, tags, comments, scripts and styles taken out, space collapsed.

    `<` before anything but a letter, as in "fits < 5 inches", is no tag and stays.
    """
    for _ in range(_ESCAPED_TWICE):
        if "&" not in text:
            break
        text = html.unescape(text)
    if "<" in text:
        text = _TAG.sub(" ", text)
    return plain_space(text)


def fault_of_title(title: str, max_words: int, refuse_markup: bool) -> str:
    """Why a title, already plain, cannot be used: NO_TITLE, MARKUP, TOO_LONG, or empty where it can.

    Args:
      title: the title.
      max_words: longest title in words; 0: any length.
      refuse_markup: whether left-over markup and scripts count as a fault.
    """
    if not any(character.isalnum() for character in title):
        return NO_TITLE
    if refuse_markup and _SCRIPT.search(title):
        return MARKUP
    if max_words and len(title.split(" ")) > max_words:
        return TOO_LONG
    return ""
