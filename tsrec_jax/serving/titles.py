"""Items named by their exact titles."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tsrec_jax.errors import UserError

if TYPE_CHECKING:
    from tsrec_jax.serving.live_catalogue import LiveCatalogue

_CANDIDATES = 50  # items checked for each word of a title that no item has
_WORDS = 8  # the longest words of such a title, which are the most telling
_LETTERS = 50  # of each word that are looked up
_NAMED = 3


def ids_of_titles(catalogue: LiveCatalogue, titles: Sequence[str]) -> list[str]:
    """The ids of the items with these titles, in order.

    Raises:
      UserError: no item has a title (the nearest titles are named), or several have it (their ids are named).
    """
    return [_id_of_title(catalogue, title) for title in titles]


def _id_of_title(catalogue: LiveCatalogue, title: str) -> str:
    ids = [item.id for item in catalogue.titled(title)]
    if len(ids) == 1:
        return ids[0]
    if ids:
        raise UserError(f"{len(ids)} items have the title {title!r}: name one by its id, {', '.join(ids[:_NAMED])}")
    near = _nearest(catalogue, title)
    hint = f"; nearest titles: {', '.join(map(repr, near))}" if near else ""
    raise UserError(f"no item has exactly the title {title!r}{hint}")


def _nearest(catalogue: LiveCatalogue, title: str) -> list[str]:
    """The nearest titles among those that share a word with this one."""
    words = sorted(set(title.split()), key=lambda word: (-len(word), word))[:_WORDS]
    candidates: set[str] = set()
    for word in words:
        with contextlib.suppress(UserError):  # a word that is too common
            candidates.update(item.title for item in catalogue.find(word[:_LETTERS], _CANDIDATES))
    return difflib.get_close_matches(title, sorted(candidates), n=_NAMED, cutoff=0.3)
