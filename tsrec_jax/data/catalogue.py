"""The catalogue: items, their semantic IDs, and the order in which SID tokens enter the vocabulary."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from tsrec_jax.errors import UserError

NEAREST_AMONG = 1_000  # comparing an id with this many takes a few milliseconds, in which no other thread runs
_SHOWN = 100  # characters shown of an unknown id
SHOWN_FACTS = ("brand", "categories", "image")  # shown of an item in addition to its title
_ADDRESS = re.compile(r"https?://[^\s\"'<>\\`\x00-\x20\x7f]+", re.IGNORECASE)
_NUMBER = re.compile(r"(\d+)(?!.*\d)")


@dataclasses.dataclass(frozen=True)
class Item:
    """One item as its folder describes it; `description` is plain text, absent fields are empty.

    `image` is the address of a picture for people to look at; no model reads it.
    """

    id: str
    title: str
    description: str = ""
    brand: str = ""
    categories: str = ""
    image: str = ""

    @property
    def read_by_models(self) -> dict[str, str]:
        """All fields but the image, by name: what SIDs, words and vectors are made from."""
        return {name: value for name, value in vars(self).items() if name != "image"}


@dataclasses.dataclass(frozen=True)
class TokenDescription:
    """What a teacher says about the items that share a SID token, or a path: the tokens with which their SIDs begin.

    Attributes:
      token: the SID token; for a path, its last token.
      description: sentences about the items.
      keywords: words and short phrases about the items.
      prefix: for a path of several tokens, those before the last; empty if the token is described wherever it stands.
    """

    token: str
    description: str
    keywords: tuple[str, ...]
    prefix: tuple[str, ...] = ()

    @property
    def path(self) -> tuple[str, ...]:
        """The tokens, first level first."""
        return (*self.prefix, self.token)

    @property
    def name(self) -> str:
        """The tokens as one text, as in `<a_1><b_2>`: the form in which prompts carry them."""
        return "".join(self.path)


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """Items and their SIDs, by position: item i is `items[i]` with the tokens `sids[i]`, one per level.

    Several items may share a SID. All SIDs have the same number of levels, and no token stands on two levels
    (`data.dataset` checks both).
    """

    items: tuple[Item, ...]
    sids: tuple[tuple[str, ...], ...]

    @property
    def num_items(self) -> int:
        """Number of items (I)."""
        return len(self.items)

    @property
    def num_levels(self) -> int:
        """Tokens of a SID (C)."""
        return len(self.sids[0])

    @functools.cached_property
    def level_tokens(self) -> tuple[tuple[str, ...], ...]:
        """The distinct tokens of each level, by code number, then by text."""
        return _level_tokens(self.sids)

    @functools.cached_property
    def tokens(self) -> tuple[str, ...]:
        """All SID tokens, level by level: the order in which they are added to a vocabulary."""
        return tuple(token for tokens in self.level_tokens for token in tokens)

    @functools.cached_property
    def token_levels(self) -> np.ndarray:
        """int32, the level of each entry of `tokens`."""
        return np.repeat(np.arange(self.num_levels, dtype=np.int32), [len(tokens) for tokens in self.level_tokens])

    @functools.cached_property
    def codes_IC(self) -> np.ndarray:
        """int32, for each item and level the index of its token within `level_tokens[level]`."""
        index = [{token: code for code, token in enumerate(tokens)} for tokens in self.level_tokens]
        return np.array([[index[c][token] for c, token in enumerate(sid)] for sid in self.sids], np.int32)

    @functools.cached_property
    def tokens_IC(self) -> np.ndarray:
        """int32, the tokens of each item's SID, as positions in `tokens`."""
        return self.codes_IC + np.searchsorted(self.token_levels, np.arange(self.num_levels)).astype(np.int32)

    def sid(self, item: int) -> str:
        """The SID of an item as one text, as in `<a_1><b_2><c_3>`."""
        return self._sid_texts[item]

    @functools.cached_property
    def _sid_texts(self) -> tuple[str, ...]:
        return tuple("".join(sid) for sid in self.sids)

    @functools.cached_property
    def items_of_sid(self) -> Mapping[str, tuple[int, ...]]:
        """The items that carry each SID, in catalogue order."""
        groups: dict[str, list[int]] = {}
        for index, text in enumerate(self._sid_texts):
            groups.setdefault(text, []).append(index)
        return {text: tuple(members) for text, members in groups.items()}

    @functools.cached_property
    def sid_numbers_I(self) -> np.ndarray:
        """int32, for each item the position of its SID in `items_of_sid`."""
        number = {text: position for position, text in enumerate(self.items_of_sid)}
        return np.array([number[text] for text in self._sid_texts], np.int32)

    @functools.cached_property
    def _index(self) -> Mapping[str, int]:
        return {item.id: index for index, item in enumerate(self.items)}

    def item_index(self, item_id: str) -> int:
        """Position of an item.

        Raises:
          UserError: no item has this id; the message names the nearest ones.
        """
        found = self._index.get(str(item_id))
        if found is None:
            raise unknown_item(item_id, self._index, self.num_items)
        return found

    def to_json(self) -> dict[str, Any]:
        """The contents of `sid_catalogue.json`: the items without their descriptions, and the tokens by vocabulary id.

        An item's brand, categories and image are included if it has them.
        """
        return {
            "levels": self.num_levels,
            "tokens": list(self.tokens),
            "items": [
                {"id": item.id, "title": item.title, "sid": list(sid), **shown_facts(item)}
                for item, sid in zip(self.items, self.sids, strict=True)
            ],
        }

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Catalogue:
        """The catalogue that `to_json` described.

        Raises:
          ValueError: the facts are of another kind, or contradict each other.
        """
        _check_facts(facts)
        entries = facts["items"]
        catalogue = cls(
            tuple(
                Item(entry["id"], entry["title"], **{fact: entry[fact] for fact in SHOWN_FACTS if fact in entry})
                for entry in entries
            ),
            tuple(tuple(entry["sid"]) for entry in entries),
        )
        if list(catalogue.tokens) != facts["tokens"] or catalogue.num_levels != facts["levels"]:
            raise ValueError("its tokens are not those of its items")
        return catalogue


def shown_facts(item: Any) -> dict[str, str]:
    """Those of `SHOWN_FACTS` that an item has, by name; the item may also be from a served catalogue."""
    return {fact: text for fact in SHOWN_FACTS if (text := getattr(item, fact))}


def is_address(text: str) -> bool:
    """Whether a text is a web address, as an image's must be."""
    return _ADDRESS.fullmatch(text) is not None


def token_order(sids: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """The tokens of SIDs that all have the same length, in the order of `Catalogue.tokens`."""
    return tuple(token for tokens in _level_tokens(tuple(sids)) for token in tokens)


def _level_tokens(sids: Collection[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(sorted(set(tokens), key=_by_number)) for tokens in zip(*sids, strict=True))


def _check_facts(facts: Any) -> None:
    """Refuses what `Catalogue.from_json` cannot read; the message names the first item that is wrong."""
    if not isinstance(facts, Mapping) or not {"levels", "tokens", "items"} <= facts.keys():
        raise ValueError("it needs levels, tokens and items")
    entries, levels = facts["items"], facts["levels"]
    if type(levels) is not int or levels < 1:
        raise ValueError(f"levels={levels!r} is not a whole number from 1")
    if not isinstance(entries, list) or not entries:
        raise ValueError("items is not a list with at least one item")
    for number, entry in enumerate(entries, 1):
        try:
            item_id, title, sid = entry["id"], entry["title"], entry["sid"]
        except (KeyError, TypeError):
            raise ValueError(f"item {number} needs id, title and sid") from None
        for key, text in (("id", item_id), ("title", title)):
            if not isinstance(text, str) or not text:
                raise ValueError(f"item {number}: {key}={text!r} is not a text, or an empty one")
        for key in SHOWN_FACTS:
            if not isinstance(entry.get(key, ""), str):
                raise ValueError(f"item {number}: {key}={entry[key]!r} is not a text")
        if (image := entry.get("image")) and not is_address(image):
            raise ValueError(f"item {number}: image={image!r} is not an address that begins with https:// or http://")
        if not isinstance(sid, list) or len(sid) != levels or set(map(type, sid)) != {str}:
            raise ValueError(f"item {number}: sid={sid!r} is not a list of {levels} tokens")
    if len({entry["id"] for entry in entries}) < len(entries):
        raise ValueError("two items have the same id")
    on_levels = list(map(set, zip(*(entry["sid"] for entry in entries), strict=True)))
    if len(set().union(*on_levels)) < sum(map(len, on_levels)):
        raise ValueError("a token stands on two levels")
    try:
        texts = ((entry["id"], entry["title"], *entry["sid"], *map(entry.get, SHOWN_FACTS)) for entry in entries)
        "".join(text for row in texts for text in row if text).encode()
    except UnicodeEncodeError:
        raise ValueError("a text holds half of a pair of surrogates") from None


class UnknownItem(UserError):
    """No item has the id."""


def unknown_item(item_id: str, known: Collection[str], items: int) -> UnknownItem:
    """The error for an id that no item has; it names the nearest ones.

    A server calls this for every request with an id that no longer exists.

    Args:
      item_id: the id.
      known: ids that may have been meant; if there are more than NEAREST_AMONG, none is compared.
      items: the number of items in all.
    """
    shown = str(item_id)[:_SHOWN]
    near = difflib.get_close_matches(shown, list(known), n=3, cutoff=0.5) if len(known) <= NEAREST_AMONG else []
    hint = f"; nearest ids: {', '.join(near)}" if near else ""
    more = "..." if len(str(item_id)) > _SHOWN else ""
    return UnknownItem(f"item {shown!r}{more} is not in the catalogue of {items} items{hint}")


def _by_number(token: str) -> tuple[int, str]:
    found = _NUMBER.search(token)
    return (int(found.group(1)) if found else -1, token)
