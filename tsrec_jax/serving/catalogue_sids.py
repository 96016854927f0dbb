"""Which items of a served catalogue have which SID, and the trie of the SIDs that a search may write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.decoding.trie import Trie

Codes = tuple[int, ...]


class CatalogueSids:
    """The SIDs of a catalogue's items, blocked ones included. Changed by one thread at a time.

    Args:
      catalogue: the catalogue as exported; its tokens are those that the model has rows for.
      trie: the trie of that catalogue; changed in place.

    Attributes:
      trie: the trie of the SIDs that have an item to recommend.
      level_tokens: the tokens of each level.
    """

    def __init__(self, catalogue: Catalogue, trie: Trie):
        self.trie, self.level_tokens = trie, catalogue.level_tokens
        self._code_of = [{token: code for code, token in enumerate(tokens)} for tokens in self.level_tokens]
        self._ids: dict[Codes, dict[str, None]] = {}  # a dict keeps the order in which items were added
        for item, codes in zip(catalogue.items, catalogue.codes_IC.tolist(), strict=True):
            self._ids.setdefault(tuple(codes), {})[item.id] = None

    def codes(self, sid: Sequence[str]) -> Codes:
        """The codes of a SID's tokens."""
        return tuple(self._code_of[level][token] for level, token in enumerate(sid))

    def fault(self, sid: Sequence[str]) -> str:
        """Why no item can have this SID; empty if one can."""
        if len(sid) != len(self.level_tokens):
            return f"its SID has {len(sid)} tokens, the catalogue's have {len(self.level_tokens)}"
        for level, token in enumerate(sid):
            if token not in self._code_of[level]:
                known = self.level_tokens[level]
                return (
                    f"{token!r} is not one of the {len(known)} tokens of level {level + 1} that the model has rows for "
                    f"(as {known[0]}); code the item with the codebooks of the training"
                )
        return ""

    def ids(self, codes: Sequence[int]) -> list[str]:
        """The ids of the items of a SID, in the order in which they were added."""
        return list(self._ids.get(tuple(codes), ()))

    def siblings(self, prefix: Sequence[int]) -> list[Codes]:
        """The SIDs of items that begin with these codes, which are of all levels but the last."""
        under = ((*prefix, code) for code in range(len(self.level_tokens[-1])))
        return [codes for codes in under if codes in self._ids]

    def add(self, item_id: str, codes: Codes) -> None:
        """Adds an item, or leaves it in its place; `settle` updates the trie."""
        self._ids.setdefault(codes, {})[item_id] = None

    def remove(self, item_id: str, codes: Codes) -> None:
        """Removes an item; `settle` updates the trie."""
        del self._ids[codes][item_id]

    def settle(self, touched: Iterable[Codes], alive: Callable[[Codes], bool]) -> None:
        """Brings the trie up to date.

        Args:
          touched: SIDs whose items have changed.
          alive: whether a SID has an item that may be recommended.
        """
        touched = list(touched)
        there = [codes for codes in touched if alive(codes)]
        gone = [codes for codes in touched if not alive(codes)]
        self.trie.add(self._table(there))
        self.trie.remove(self._table(gone))
        for codes in touched:
            if not self._ids.get(codes, True):
                del self._ids[codes]

    def _table(self, codes: Sequence[Codes]) -> np.ndarray:
        """int64 (N, C)."""
        return np.array(codes, np.int64).reshape(-1, len(self.level_tokens))
