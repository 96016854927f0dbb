"""Histories to start with: items whose SIDs share their first token, so the codes treat them as similar.

They are made from the catalogue alone: an export contains no user's history, and should not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tsrec_jax.serving.live_catalogue import LiveCatalogue, LiveItem

_EXAMPLES = 24
_ITEMS = 4


class Examples:
    """Histories drawn once, from the catalogue as it is at that time."""

    def __init__(self, catalogue: LiveCatalogue) -> None:
        """Draws them: with different first tokens as far as possible, and always the same ones."""
        self.catalogue = catalogue
        rng = np.random.default_rng(0)
        codes_NC = catalogue.trie.sid_codes()
        first_E, count_E = np.unique(codes_NC[:, 0], return_counts=True)
        first_E = rng.permutation(first_E[count_E > 1])
        self._drawn: list[list[str]] = []
        for first in np.resize(first_E, _EXAMPLES if len(first_E) else 0):
            alike_M = np.flatnonzero(codes_NC[:, 0] == first)
            picked = rng.choice(alike_M, min(_ITEMS, len(alike_M)), replace=False)
            # The catalogue may change meanwhile: a SID may have lost its last item.
            drawn = [catalogue.members(codes_NC[row].tolist())[:1] for row in picked]
            self._drawn.append([item.id for members in drawn for item in members])

    def now(self) -> list[list[LiveItem]]:
        """The histories with at least two items left, without the items that are gone or blocked."""
        there = ([item for item in map(self.catalogue.get, ids) if item and not item.blocked] for ids in self._drawn)
        return [items for items in there if len(items) > 1]
