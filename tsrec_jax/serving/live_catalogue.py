"""A catalogue that changes while it serves: items are added, removed, blocked; the next batch's search sees it."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tsrec_jax.data.catalogue import NEAREST_AMONG, Catalogue, Item, shown_facts, unknown_item
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.errors import UserError
from tsrec_jax.serving.catalogue_changes import Change, Changes, NotRead, now
from tsrec_jax.serving.catalogue_follower import start_following
from tsrec_jax.serving.catalogue_items import LiveItem, kept_state, wrong_state
from tsrec_jax.serving.catalogue_search import FollowedSearch
from tsrec_jax.serving.catalogue_sids import CatalogueSids, Codes

_COMPARED = 100  # characters of an unknown id that are compared
_PAGE = 5_000  # changes that are taken over while searches wait
_WITNESSES = 1_000  # items of the export by whose SIDs a later export with other SIDs is recognised
_LOG = logging.getLogger(__name__)


class AlreadyThere(UserError):
    """An item that was to be added, and not replaced, is already there."""


class LiveCatalogue:
    """Items by id, and the trie of the SIDs that have an item to recommend. Safe for several threads.

    A change is made in this order: it is written to the journal, which returns once it is durable, then it is read back
    as if another process had made it. With a file, what others write into it is taken over continually.

    Args:
      catalogue: the items as exported; its tokens are those that the model has rows for.
      trie: the trie of that catalogue; changed in place.
      changes: the changes to it since; None: none so far, and later ones live as long as this object.

    Attributes:
      sids: the SIDs of its items.
      changes: the journal.
      search: the index of titles and ids.

    Raises:
      UserError: the changes belong to another export, with other SIDs.
    """

    def __init__(self, catalogue: Catalogue, trie: Trie, changes: Changes | None = None):
        self.sids = CatalogueSids(catalogue, trie)
        self.changes = Changes() if changes is None else changes
        self._items = {
            item.id: LiveItem(item.id, item.title, sid, False, **shown_facts(item))
            for item, sid in zip(catalogue.items, catalogue.sids, strict=True)
        }
        self._exported: dict[str, LiveItem | None] = {}  # changed items, as the export has them
        self._foreign: dict[str, str] = {}  # items that this export cannot hold, and why
        self._witnesses = {item.id: "".join(item.sid) for item in itertools.islice(self._items.values(), _WITNESSES)}
        self._changed: set[str] = set()
        self._last: Change | None = None  # the last one taken over
        self._behind_since: float | None = None  # time.monotonic(); None: the journal can be read
        self._turn, self._lock, self._writing = threading.Lock(), threading.Lock(), threading.RLock()
        self.search = FollowedSearch(self._items, self._writing)
        self._named = self._check_sids()
        self.catch_up()
        if self._foreign:
            reason = next(iter(self._foreign.values()))
            raise UserError(f"{self.changes.path}: {len(self._foreign)} items are none of this export's: {reason}")
        if self.changes.followed:
            start_following(self)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nothing changes inside. Whoever waits is next, so a search that holds it repeatedly starves no change."""
        with self._turn:
            self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    @property
    def num_items(self) -> int:
        """The number of items, blocked ones included."""
        return len(self._items)

    @property
    def trie(self) -> Trie:
        """The trie of the SIDs that have an item to recommend."""
        return self.sids.trie

    @property
    def level_tokens(self) -> tuple[tuple[str, ...], ...]:
        """The tokens of each level."""
        return self.sids.level_tokens

    @property
    def num_levels(self) -> int:
        """The number of tokens of a SID (C)."""
        return len(self.level_tokens)

    def take_changed(self) -> dict[str, LiveItem | None]:
        """The items put, blocked, unblocked or removed (None) since the last call; call it while held."""
        changed, self._changed = self._changed, set()
        return {item_id: self._items.get(item_id) for item_id in sorted(changed)}

    def get(self, item_id: str) -> LiveItem | None:
        """An item by its id; None if no item has it."""
        return self._items.get(str(item_id))

    def item(self, item_id: str) -> LiveItem:
        """An item by its id.

        Raises:
          UserError: no item has this id; the message names the nearest ones.
        """
        found = self.get(item_id)
        if found is None:
            # A search that holds the catalogue also comes here: it must not wait for the index to be built.
            few, index = len(self._items) <= NEAREST_AMONG, self.search.built
            near = list(self._items) if few else [] if index is None else index.near(str(item_id)[:_COMPARED])
            raise unknown_item(item_id, near, len(self._items))
        return found

    def items(self) -> Iterator[LiveItem]:
        """All items in the order in which they were added; one added or removed meanwhile may be left out."""
        for item_id in list(self._items):
            item = self._items.get(item_id)
            if item is not None:
                yield item

    @property
    def last_change(self) -> int:
        """The number of the last change in the journal that the items include."""
        return 0 if self._last is None else self._last.number

    @property
    def behind(self) -> float:
        """Seconds since the journal could last be read; 0 while it can be read."""
        since = self._behind_since
        return 0.0 if since is None else max(time.monotonic() - since, 1e-9)

    def titled(self, title: str) -> list[LiveItem]:
        """The items that have exactly this title, in the order in which they were added."""
        return self._present(self.search.index().titled(title))

    def find(self, text: str, limit: int) -> list[LiveItem]:
        """The first `limit` items whose id or title contains every word of a text, ignoring case."""
        return self._present(self.search.index().find(text, limit))

    def codes(self, item_ids: Iterable[str]) -> np.ndarray:
        """int64 (N, C): the codes of items.

        Raises:
          UserError: an unknown item.
        """
        rows = [self.sids.codes(self.item(item_id).sid) for item_id in item_ids]
        return np.array(rows, np.int64).reshape(-1, self.num_levels)

    def members(self, codes: Sequence[int]) -> list[LiveItem]:
        """The items of a SID that may be recommended, in the order in which they were added."""
        items = (self._items[item_id] for item_id in self.sids.ids(codes))
        return [item for item in items if not item.blocked]

    def put(
        self, item_id: str, title: str, sid: Sequence[str], blocked: bool = False, *, who: str = "", **facts: str
    ) -> bool:
        """Adds or replaces an item; returns whether it is new. It can be recommended from the next search on.

        Args:
          item_id: its id, 1 character or more.
          title: its title, not blank.
          sid: one token for each level, all of which the model has rows for.
          blocked: whether it is only for histories.
          who: for the journal.
          facts: its `brand`, `categories` and `image`, if it has them.

        Raises:
          UserError: no id or title, not one token per level, or a token that the model has no row for.
          NotKept: the change could not be written and was not made.
        """
        item = LiveItem(str(item_id), title, tuple(sid), blocked, **facts)
        return self.put_all([item], who=who) == 1

    def put_all(self, items: Iterable[LiveItem], *, who: str = "") -> int:
        """Adds or replaces items, all of them or none; returns how many are new. Raises as `put`."""
        items = list(items)
        self.check(items)
        with self._change():
            new = len({item.id for item in items} - self._items.keys())
            self._append("put", [(item.id, self._state(item)) for item in self._changing(items)], who)
        return new

    def check(self, items: Iterable[LiveItem]) -> None:
        """Raises UserError if the catalogue cannot hold one of the items."""
        for item in items:
            if fault := self._fault(item):
                raise UserError(fault)

    def put_chosen(self, choose: Callable[[], Iterable[LiveItem]], *, who: str = "") -> list[LiveItem]:
        """Adds or replaces the items that `choose` makes, all or none, while nothing else can change; returns them.

        Raises as `put`.
        """
        with self._change():
            items = list(choose())
            self.check(items)
            self._append("put", [(item.id, self._state(item)) for item in self._changing(items)], who)
        return items

    def put_texts(
        self,
        item: Item,
        sid_of: Callable[[LiveItem | None], Sequence[str]],
        *,
        blocked: bool | None,
        only_new: bool = False,
        who: str,
    ) -> tuple[LiveItem, bool]:
        """Adds or replaces an item; returns it and whether it is new. Raises as `put`, and AlreadyThere.

        Args:
          item: its texts.
          sid_of: gives its tokens from the item as it was, while nothing else can change.
          blocked: whether it is only for histories; None: as before, and a new item is not.
          only_new: do not replace an item.
          who: for the journal.
        """
        before: list[LiveItem] = []

        def stated() -> list[LiveItem]:
            before.extend(filter(None, [self.get(item.id)]))
            if only_new and before:
                raise AlreadyThere(f"item {item.id!r} is in the catalogue already; find it there to change it")
            kept = bool(before) and before[0].blocked if blocked is None else blocked
            sid = tuple(sid_of(before[0] if before else None))
            return [LiveItem(item.id, item.title, sid, kept, **shown_facts(item))]

        (put,) = self.put_chosen(stated, who=who)
        return put, not before

    def change(self, item_id: str, stated: Mapping[str, Any], *, who: str = "") -> LiveItem:
        """Changes the stated fields of an item and nothing else; returns it as changed.

        Args:
          item_id: the item.
          stated: some of its fields (`LiveItem`).
          who: for the journal.

        Raises:
          UserError: no such item, or as `put`.
          NotKept: as `put`.
        """
        with self._change():
            before = self.item(item_id)
            item = dataclasses.replace(before, **stated)
            self.check([item])
            if item != before:
                state = kept_state(item) if "sid" in stated else self._own_state(before) | dict(stated)
                self._append("change", [(item.id, state)], who)
        return item

    def remove(self, item_id: str, *, who: str = "") -> None:
        """Removes an item; afterwards it is unknown in histories too (to keep it there, block it).

        Raises:
          UserError: no such item.
          NotKept: as `put`.
        """
        self.remove_all([item_id], who=who)

    def remove_all(self, item_ids: Iterable[str], *, who: str = "") -> None:
        """Removes items, all of them or none. Raises as `remove`."""
        with self._change():
            gone: list[tuple[str, dict[str, Any] | None]] = [(self.item(item_id).id, None) for item_id in item_ids]
            self._append("remove", gone, who)

    def block(self, item_ids: Iterable[str], blocked: bool = True, *, who: str = "") -> None:
        """Keeps items from being recommended, or allows it again.

        Raises:
          UserError: an unknown item; then none is changed.
          NotKept: as `put`.
        """
        with self._change():
            items = self._changing([dataclasses.replace(self.item(item_id), blocked=blocked) for item_id in item_ids])
            self._append("block" if blocked else "unblock", [(item.id, self._state(item)) for item in items], who)

    def restore(self, item_ids: Iterable[str], *, who: str = "") -> None:
        """Brings items back as they were exported, whether they were removed, replaced or blocked since.

        Raises:
          UserError: an item that is not in the export; then none is changed.
          NotKept: as `put`.
        """
        with self._change():
            ids = list(item_ids)
            for item_id in ids:
                if self._exported.get(item_id, self._items.get(item_id)) is None:
                    raise UserError(f"item {item_id!r} is none of the export's, so there is nothing to restore")
            self._append("restore", [(item_id, {}) for item_id in ids], who)

    def catch_up(self) -> None:
        """Takes over what is in the journal and not yet here, such as other processes' changes.

        Raises:
          NotRead: the journal cannot be read, or is not the same as before.
        """
        with self._writing, self._noting_failure():
            while page := self.changes.behind(self._last, _PAGE):
                applied: list[tuple[LiveItem | None, LiveItem | None]] = []
                try:
                    with self.held():
                        self._apply(page, applied)
                finally:
                    self.search.follow(applied)  # this may wait for searches of the index, as no recommendation must
            self._behind_since = None

    def follow(self) -> None:
        """As `catch_up`, but cheap while nothing has changed."""
        with self._noting_failure():
            changed = self.changes.changed_elsewhere
        if changed or self._behind_since is not None:
            self.catch_up()

    @contextlib.contextmanager
    def _noting_failure(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            if self._behind_since is None:
                self._behind_since = time.monotonic()
            raise

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """What is appended inside is durable and taken over at the end; it comes after all earlier changes."""
        with self._writing:
            with self.changes.writing():
                self.catch_up()
                if not self._named:
                    self.changes.set_exported(self._witnesses)
                yield
                written = self.changes.last_number
            self._named = True
            self.catch_up()
            if self.last_change < written:
                raise NotRead(f"{self.changes.path}: the change was written, but is not there any more; start again")

    def _append(self, action: str, states: Iterable[tuple[str, dict[str, Any] | None]], who: str) -> None:
        at = now()
        self.changes.append([Change(0, at, who, action, item_id, state) for item_id, state in states])

    def _apply(self, changes: Sequence[Change], applied: list[tuple[LiveItem | None, LiveItem | None]]) -> None:
        """Takes changes over while the catalogue is held; `applied` receives each item before and afterwards."""
        touched: dict[Codes, None] = {}
        try:
            for change in changes:
                applied.append(self._apply_one(change, touched))
                self._last = change
        finally:
            self.sids.settle(touched, lambda codes: bool(self.members(codes)))

    def _apply_one(self, change: Change, touched: dict[Codes, None]) -> tuple[LiveItem | None, LiveItem | None]:
        """Takes one change over, except into the trie; returns the item before and afterwards."""
        before = self._items.get(change.id)
        item = self._after(change, self._exported.setdefault(change.id, before))
        if before is not None and (item is None or item.sid != before.sid):
            codes = self.sids.codes(before.sid)
            self.sids.remove(change.id, codes)
            touched[codes] = None
        if item is None:
            self._items.pop(change.id, None)
        else:
            self._items[change.id] = item
            codes = self.sids.codes(item.sid)
            self.sids.add(change.id, codes)
            touched[codes] = None
        self._changed.add(change.id)
        return before, item

    def _after(self, change: Change, exported: LiveItem | None) -> LiveItem | None:
        """The item after a change; None: it is not in the catalogue."""
        self._foreign.pop(change.id, None)
        if change.state is None:
            return None
        item = None
        fault = wrong_state(change.state)
        if not fault and "sid" not in change.state:
            return None if exported is None else dataclasses.replace(exported, **change.state)
        if not fault:
            item = LiveItem(change.id, **{"title": "", **change.state, "sid": tuple(change.state["sid"])})
            fault = self._fault(item)
        if fault:
            self._foreign[change.id] = fault
            _LOG.warning("change %d of %s is left out: %s", change.number, self.changes.path, fault)
            return None
        return item

    def _changing(self, items: Iterable[LiveItem]) -> list[LiveItem]:
        """The items that the catalogue does not already hold in this form; the last one of each id counts."""
        return [item for item in {item.id: item for item in items}.values() if item != self._items.get(item.id)]

    def _own_state(self, item: LiveItem) -> dict[str, Any]:
        """What the journal must say of an item to keep it as it is now: nothing if it is as exported."""
        last = self.changes.last(item.id)
        return {} if last is None or last.state is None else dict(last.state)

    def _state(self, item: LiveItem) -> dict[str, Any]:
        """What the journal keeps of an item that is put; if it keeps its SID, only what changes.

        So no SID is recorded for an exported item, which would tie the journal to this export.
        """
        before = self._items.get(item.id)
        if before is None or before.sid != item.sid:
            return kept_state(item)
        names = [field.name for field in dataclasses.fields(item)]
        changed = {name: getattr(item, name) for name in names if getattr(item, name) != getattr(before, name)}
        return self._own_state(before) | changed

    def _fault(self, item: LiveItem) -> str:
        """Why the catalogue cannot hold an item; empty if it can."""
        if not item.id or not item.title.strip():
            return f"item {item.id!r}: needs an id and a title that are not empty"
        fault = self.sids.fault(item.sid)
        return fault and f"item {item.id!r}: {fault}"

    def _check_sids(self) -> bool:
        """Refuses changes whose SIDs were made from other codes than this export's, though their tokens may be the
        same.

        Returns:
          whether the journal names exactly this export.
        """
        before = self.changes.exported()
        common = before.keys() & self._items.keys()
        if not before or (common and all(before[each] == "".join(self._items[each].sid) for each in common)):
            return before == self._witnesses
        coded = {change.id: change.state is not None and "sid" in change.state for change in self.changes.after(0)}
        if any(coded.values()):
            raise UserError(
                f"{self.changes.path}: {sum(coded.values())} items have SIDs of another export, where the same tokens "
                "mean something else; `tsrec catalogue adopt` takes these items out and keeps all else, or give "
                "another --catalogue"
            )
        return False

    def _present(self, item_ids: Iterable[str]) -> list[LiveItem]:
        found = map(self._items.get, item_ids)
        return [item for item in found if item is not None]  # one may have been removed meanwhile
