"""A catalogue that changes while it serves: items come, go and are blocked; the search follows at its next batch."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tsrec_jax.data.catalogue import Catalogue, shown_facts, unknown_item
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.errors import UserError

Codes = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class LiveItem:
    """One item; a blocked one may stand in histories and is never recommended.

    `brand`, `categories` and `image`, the address of a picture, are for people to see; absent ones are empty.
    """

    id: str
    title: str
    sid: tuple[str, ...]
    blocked: bool = False
    brand: str = ""
    categories: str = ""
    image: str = ""


class LiveCatalogue:
    """Items by id, and the trie of the SIDs that have an item to recommend. Safe for several threads.

    Args:
      catalogue: the items to start with; its tokens are those that the model has rows for.
      trie: of that catalogue; changed in place.
    """

    def __init__(self, catalogue: Catalogue, trie: Trie):
        self.trie = trie
        self.level_tokens = catalogue.level_tokens
        self._code_of = [{token: code for code, token in enumerate(tokens)} for tokens in catalogue.level_tokens]
        self._items = {
            item.id: LiveItem(item.id, item.title, sid, **shown_facts(item))
            for item, sid in zip(catalogue.items, catalogue.sids, strict=True)
        }
        self._searched = {item.id: _searched(item) for item in self._items.values()}
        self._titled: dict[str, dict[str, None]] = {}
        for item in catalogue.items:
            self._titled.setdefault(item.title, {})[item.id] = None
        self._members: dict[Codes, dict[str, None]] = {}  # a dict keeps the order in which items came
        for item, codes in zip(catalogue.items, catalogue.codes_IC.tolist(), strict=True):
            self._members.setdefault(tuple(codes), {})[item.id] = None
        self._changed: set[str] = set()
        self._turn, self._lock = threading.Lock(), threading.Lock()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nothing changes inside. Who waits is next: a search that holds it again and again starves no change."""
        with self._turn:
            self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    @property
    def num_items(self) -> int:
        """Items, the blocked ones included."""
        return len(self._items)

    @property
    def num_levels(self) -> int:
        """Tokens of a SID (C)."""
        return len(self.level_tokens)

    def take_changed(self) -> dict[str, LiveItem | None]:
        """The items that were put, blocked, let again or removed (None) since this was last asked, while it is held."""
        changed, self._changed = self._changed, set()
        return {item_id: self._items.get(item_id) for item_id in sorted(changed)}

    def item(self, item_id: str) -> LiveItem:
        """An item by its id.

        Raises:
          UserError: no item has this id; the message names the nearest ones, in a small catalogue.
        """
        found = self._items.get(str(item_id))
        if found is None:
            raise unknown_item(item_id, self._items)
        return found

    def titled(self, title: str) -> list[LiveItem]:
        """The items that have exactly this title, in the order in which they came."""
        found = (self._items.get(item_id) for item_id in list(self._titled.get(title, ())))
        return [item for item in found if item is not None]  # one may have gone meanwhile

    def find(self, text: str, limit: int) -> list[LiveItem]:
        """The first `limit` items whose id or title holds every word of a text, whatever the case."""
        words = text.casefold().split()
        found: list[LiveItem] = []
        for item_id, searched in list(self._searched.items()):
            if len(found) == limit:
                break
            if all(word in searched for word in words):
                item = self._items.get(item_id)
                if item is not None:  # it may have gone meanwhile
                    found.append(item)
        return found

    def codes(self, item_ids: Iterable[str]) -> np.ndarray:
        """int64 (N, C): the codes of items.

        Raises:
          UserError: an unknown item.
        """
        rows = [self._codes(self.item(item_id).sid) for item_id in item_ids]
        return np.array(rows, np.int64).reshape(-1, self.num_levels)

    def members(self, codes: Sequence[int]) -> list[LiveItem]:
        """The items of a SID that may be recommended, in the order in which they came."""
        items = (self._items[item_id] for item_id in self._members.get(tuple(codes), ()))
        return [item for item in items if not item.blocked]

    def put(self, item_id: str, title: str, sid: Sequence[str], blocked: bool = False, **facts: str) -> bool:
        """Adds or replaces an item; returns whether it is new. It can be recommended from the next search on.

        Args:
          item_id, title, sid, blocked: the item's.
          facts: its `brand`, `categories` and `image`, where it has them.

        Raises:
          UserError: no id or title, another number of tokens than levels, or a token that the model has no row for.
        """
        sid = tuple(sid)
        if not str(item_id) or not title.strip():
            raise UserError(f"item {item_id!r}: needs an id and a title that are not empty")
        if len(sid) != self.num_levels:
            raise UserError(f"item {item_id!r}: its SID has {len(sid)} tokens, the catalogue's have {self.num_levels}")
        for level, token in enumerate(sid):
            if token not in self._code_of[level]:
                known = self.level_tokens[level]
                raise UserError(
                    f"item {item_id!r}: {token!r} is not one of the {len(known)} tokens of level {level + 1} that the "
                    f"model has rows for (as {known[0]}); code the item with the codebooks of the training"
                )
        with self.held():
            before = self._items.get(str(item_id))
            if before is not None and (before.sid, before.title) != (sid, title):
                self._forget(before)
            self._titled.setdefault(title, {})[str(item_id)] = None
            self._changed.add(str(item_id))
            self._items[str(item_id)] = item = LiveItem(str(item_id), title, sid, blocked, **facts)
            self._searched[item.id] = _searched(item)
            self._members.setdefault(self._codes(sid), {})[str(item_id)] = None
            self._settle(self._codes(sid))
        return before is None

    def remove(self, item_id: str) -> None:
        """Takes an item out; afterwards it is unknown in histories too (to keep it there, block it).

        Raises:
          UserError: no such item.
        """
        with self.held():
            item = self.item(item_id)
            self._changed.add(item.id)
            self._forget(item)
            del self._items[item.id], self._searched[item.id]

    def block(self, item_ids: Iterable[str], blocked: bool = True) -> None:
        """Keeps items from being recommended, or lets them again.

        Raises:
          UserError: an unknown item; then none is changed.
        """
        with self.held():
            items = [self.item(item_id) for item_id in item_ids]
            for item in items:
                self._changed.add(item.id)
                self._items[item.id] = dataclasses.replace(item, blocked=blocked)
                self._settle(self._codes(item.sid))

    def _codes(self, sid: Sequence[str]) -> Codes:
        return tuple(self._code_of[level][token] for level, token in enumerate(sid))

    def _forget(self, item: LiveItem) -> None:
        """Takes an item out of what finds it by title and by SID."""
        codes = self._codes(item.sid)
        del self._members[codes][item.id]
        del self._titled[item.title][item.id]
        if not self._titled[item.title]:
            del self._titled[item.title]
        self._settle(codes)

    def _settle(self, codes: Codes) -> None:
        """A SID is valid while it has an item that may be recommended."""
        if self.members(codes):
            self.trie.add(np.array([codes]))
        else:
            self.trie.remove(np.array([codes]))
        if not self._members.get(codes, True):
            del self._members[codes]


def _searched(item: LiveItem) -> str:
    """What a search for the item looks at, whatever the case."""
    return f"{item.id} {item.title}".casefold()
