"""The SIDs of a dataset folder: NAME.index.json, NAME.info.txt, and SIDs some of which have one token more."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from tsrec_jax.data.catalogue import Item
from tsrec_jax.data.faults import Faults
from tsrec_jax.data.folder_files import parse_json, read_files
from tsrec_jax.data.texts import has_half, without_control

_SID = re.compile(r"<[^<>\s]+>")
_NUMBERED = re.compile(r"(<.*?)\d+>")
Sid = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class FolderSids:
    """What a folder says about SIDs, by item id; items with a fault are left out.

    Attributes:
      written: as the files have them, which all of them must agree on.
      read: as the catalogue takes them, all with the same number of tokens.
    """

    written: Mapping[str, Sid]
    read: Mapping[str, Sid]

    @property
    def changed(self) -> bool:
        """Whether the SIDs read differ from those in the files."""
        return self.written != self.read


def read_sids(path: pathlib.Path, items: Sequence[Item], ragged: str) -> tuple[tuple[Sid, ...], tuple[str, ...]]:
    """The SIDs that a file gives to the items of a folder.

    Args:
      path: a JSON object {item id: [token, ...]}, as NAME.index.json is.
      items: the folder's items; the file must hold exactly these.
      ragged: as in `Reading`.

    Returns:
      The SID of each item, and what a person should know about the SIDs, one line each.

    Raises:
      DatasetError: the file is missing or has faults, each with its item.
    """
    faults = Faults()
    texts = read_files(path.parent, (path.name,), (), faults)
    sids = parse_index(path, texts[path.name], items, ragged, faults) if texts else FolderSids({}, {})
    refuse_own_sids(path, items, sids.written, faults)
    faults.stop_if_any()
    return tuple(sids.read[item.id] for item in items), tuple(faults.notes)


def parse_index(path: pathlib.Path, text: str, items: Sequence[Item], ragged: str, faults: Faults) -> FolderSids:
    """Reads NAME.index.json; `ragged` as in `Reading`. Every fault is noted."""
    index = parse_json(path, text, faults)
    if index is None:
        return FolderSids({}, {})
    if not isinstance(index, dict) or not index:
        faults.add(path, "", "must be a JSON object with at least one item")
        return FolderSids({}, {})
    ids = {item.id for item in items}
    sids: dict[str, Sid] = {}
    for item_id, tokens in index.items():
        place = f"item {item_id!r}"
        if item_id not in ids:
            faults.add(path, place, "is not an item of the item file")
        if (
            not isinstance(tokens, list)
            or not tokens
            or not all(isinstance(t, str) and _SID.fullmatch(t) and not has_half(t) for t in tokens)
        ):
            faults.add(path, place, f'needs a list of tokens like "<a_1>", has {tokens!r}')
            continue
        sids[item_id] = tuple(tokens)
    for item in items:
        if item.id not in index:
            faults.add(path, f"item {item.id!r}", "has no SID, but stands in the item file")
    read = _even(path, sids, ragged, faults)
    _check_tokens(path, read, faults)
    return FolderSids(sids, read)


def _check_tokens(path: pathlib.Path, sids: Mapping[str, Sid], faults: Faults) -> None:
    level_of: dict[str, int] = {}
    for item_id, tokens in sids.items():
        for level, token in enumerate(tokens):
            if level_of.setdefault(token, level) != level:
                before = level_of[token]
                fault = f"token {token} stands on level {level} here and on level {before} before"
                faults.add(path, f"item {item_id!r}", fault)


def _even(path: pathlib.Path, sids: Mapping[str, Sid], ragged: str, faults: Faults) -> dict[str, Sid]:
    """SIDs with the same number of tokens; faults if they differ and `ragged` does not say how to even them out."""
    lengths = {len(tokens) for tokens in sids.values()}
    if len(lengths) < 2:
        return dict(sids)
    least = min(lengths)
    one_more = lengths == {least, least + 1}
    more = [item_id for item_id, tokens in sids.items() if len(tokens) > least]
    if one_more and ragged == "drop":
        cut = {item_id: tokens[:least] for item_id, tokens in sids.items()}
        sharing = sum(count for count in Counter(cut.values()).values() if count > 1)
        faults.note(
            path,
            f"dataset.ragged_sids=drop: the last of {least + 1} tokens is left out of {len(more)} of {len(sids)} SIDs; "
            f"{sharing} items share a SID now",
        )
        return cut
    if one_more and ragged == "fill" and (start := _start_of([sids[item_id][-1] for item_id in more])):
        filled = _filled(sids, least, start)
        added = {tokens[-1] for item_id, tokens in filled.items() if len(sids[item_id]) == least}
        faults.note(
            path,
            f"dataset.ragged_sids=fill: {len(sids) - len(more)} of {len(sids)} SIDs have got a token {least + 1}, "
            f"{' or '.join(sorted(added)[:3])}",
        )
        return filled
    first = len(next(iter(sids.values())))
    way = "make other SIDs with config.index.sids=make"
    if one_more and ragged == "fill":
        way = "its last token has no number to go on from, so set config.dataset.ragged_sids=drop (it is left out)"
    elif one_more:
        way = "set config.dataset.ragged_sids=fill (the others get one more) or drop (it is left out)"
    for item_id, tokens in sids.items():
        if len(tokens) != first:
            fault = f"has {len(tokens)} levels where the first item has {first}; {way}"
            faults.add(path, f"item {item_id!r}", fault)
    return {item_id: tokens for item_id, tokens in sids.items() if len(tokens) == first}


def _start_of(tokens: Sequence[str]) -> str:
    """What all of these tokens have before their number, as in `<d_`; empty if they differ in it."""
    starts = {found.group(1) if (found := _NUMBERED.fullmatch(token)) else "" for token in tokens}
    return starts.pop() if len(starts) == 1 else ""


def _filled(sids: Mapping[str, Sid], least: int, start: str) -> dict[str, Sid]:
    """Every SID with a last token; a shorter SID gets the lowest number that no other item's SID then has."""
    taken = set(sids.values())
    filled = {}
    for item_id, tokens in sids.items():
        if len(tokens) == least:
            number = 0
            while (*tokens, f"{start}{number}>") in taken:
                number += 1
            tokens = (*tokens, f"{start}{number}>")
            taken.add(tokens)
        filled[item_id] = tokens
    return filled


def check_info(path: pathlib.Path, text: str, items: Sequence[Item], sids: Mapping[str, Sid], faults: Faults) -> None:
    """Checks NAME.info.txt, a line SID<TAB>title<TAB>id for each item, against the index and the item file.

    Lines may end as on Windows, and empty lines at the end are ignored.
    """
    titles = {item.id: item.title for item in items}
    lines = [line.removesuffix("\r") for line in text.rstrip("\r\n").split("\n")]
    seen: set[str] = set()
    for row, line in enumerate(lines, 1):
        fields = line.split("\t")
        sid, item_id = fields[0], fields[-1]
        if len(fields) > 3 and item_id in titles:
            faults.add(path, row, f"the title of item {item_id!r} holds a tab; write a space there")
            seen.add(item_id)
            continue
        if len(fields) != 3:
            faults.add(path, row, f"needs SID<TAB>title<TAB>id, has {len(fields)} field(s)")
            continue
        if item_id not in titles:
            faults.add(path, row, f"item {item_id!r} is not in the index")
            continue
        if item_id in seen:
            faults.add(path, row, f"item {item_id!r} stands twice")
        seen.add(item_id)
        written = "".join(sids.get(item_id, ()))
        if written and sid != written:
            faults.add(path, row, f"item {item_id!r} has SID {sid} here and {written} in the index")
        if titles[item_id] and without_control(fields[1]).split() != titles[item_id].split():
            faults.add(path, row, f"item {item_id!r} has another title in the item file")
    for item_id in titles:
        if item_id not in seen:
            faults.add(path, "", f"item {item_id!r} is missing")


def refuse_own_sids(path: pathlib.Path, items: Sequence[Item], sids: Mapping[str, Sid], faults: Faults) -> None:
    """Notes items whose title names a token of their own SID."""
    for item in items:
        if any(token in item.title for token in sids.get(item.id, ())):
            faults.add(path, f"item {item.id!r}", "its title names its own SID, which gives the answer away")
