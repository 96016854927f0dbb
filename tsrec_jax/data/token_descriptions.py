"""What a teacher said about SID tokens, or paths of them, as the file `NAME.description_keywords.json`.

The published form of the file has an entry for each token. An entry for a path has, instead of `token`, the key `path`:
the tokens with which the SIDs of the described items begin.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from tsrec_jax.data.catalogue import Catalogue, TokenDescription, token_order
from tsrec_jax.data.faults import Faults
from tsrec_jax.data.folder_files import HALF, parse_json, read_files
from tsrec_jax.data.texts import has_half, without_control
from tsrec_jax.files import write_json

Sid = tuple[str, ...]


def read_token_descriptions(path: str | os.PathLike[str], catalogue: Catalogue) -> dict[str, TokenDescription]:
    """Reads and checks one file: {name of a token or path: its description}, in the order of the file.

    Raises:
      DatasetError: up to ten faults at once: a missing file, text that is not JSON or UTF-8, tokens without an entry or
        without an item, paths that no SID begins with, empty descriptions or keywords.
    """
    path = pathlib.Path(path)
    faults = Faults()
    texts = read_files(path.parent, (path.name,), (), faults)
    faults.stop_if_any()
    descriptions = parse_token_descriptions(path, texts[path.name], catalogue.sids, faults)
    faults.stop_if_any()
    return descriptions


def parse_token_descriptions(
    path: pathlib.Path, text: str, sids: Collection[Sid], faults: Faults, written: Collection[Sid] = ()
) -> dict[str, TokenDescription]:
    """{name of a token or path: its description} of the entries without a fault.

    Every token needs an entry, or a described path that ends in it. Control characters are read as spaces.

    Args:
      path: the file, for the wording of faults.
      text: its contents.
      sids: the catalogue's SIDs, all with the same number of tokens.
      faults: takes every fault.
      written: the SIDs as the folder has them, if reading changed them: entries may also describe their tokens and
        paths, and a token that is only in one of the two needs no entry.
    """
    entries = parse_json(path, text, faults)
    if entries is None:
        return {}
    if not isinstance(entries, list):
        faults.add(path, "", "must be a JSON list of {token, description, keywords}")
        return {}
    known, gone = _all_paths(sids), _all_paths(written)
    tokens = token_order(sids)
    optional = set(tokens) ^ {token for sid in written for token in sid} if written else set()
    descriptions: dict[str, TokenDescription] = {}
    seen: set[str] = set()
    ended: set[str] = set()
    for row, entry in enumerate(entries, 1):
        place = f"entry {row}"
        if fault := _wrong_keys(entry):
            faults.add(path, place, fault)
            continue
        found = _path_of(entry)
        if found is None or found not in known:
            if found is None or found not in gone:
                faults.add(path, place, _unknown(entry))
            continue
        name = "".join(found)
        if name in seen:
            faults.add(path, place, f"{_kind(found)} {name} stands twice")
        elif fault := _fault(found, entry["description"], entry["keywords"]):
            faults.add(path, place, fault)
        else:
            description = without_control(entry["description"]).strip()
            keywords = tuple(map(without_control, entry["keywords"]))
            descriptions[name] = TokenDescription(found[-1], description, keywords, found[:-1])
        seen.add(name)
        ended.add(found[-1])
    for token in tokens:
        if token not in ended and token not in optional:
            faults.add(path, "", f"token {token} has no entry")
    return descriptions


def described_tokens(entries: Any, tokens: Collection[str]) -> dict[str, TokenDescription]:
    """{name of a token or path: its description} from the contents of a file stored next to a trained model.

    If the catalogue has changed since, a path need no longer begin any SID.

    Args:
      entries: the JSON value.
      tokens: the existing SID tokens.

    Raises:
      ValueError: the value is not a list, or an entry has a fault; the message is about the first one.
    """
    if not isinstance(entries, list):
        raise ValueError("it is not a list of {token, description, keywords}")
    known = set(tokens)
    descriptions: dict[str, TokenDescription] = {}
    for row, entry in enumerate(entries, 1):
        if fault := _wrong_keys(entry):
            raise ValueError(f"entry {row} {fault}")
        found = _path_of(entry)
        if found is None or not known.issuperset(found):
            raise ValueError(f"entry {row}: {_unknown(entry)}")
        if fault := _fault(found, entry["description"], entry["keywords"]):
            raise ValueError(f"entry {row}: {fault}")
        words = TokenDescription(found[-1], entry["description"], tuple(entry["keywords"]), found[:-1])
        descriptions[words.name] = words
    return descriptions


def has_paths(path: pathlib.Path) -> bool:
    """Whether a file describes paths; False if it cannot be read."""
    try:
        entries = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(entries, list) and any(isinstance(entry, dict) and "path" in entry for entry in entries)


def _all_paths(sids: Collection[Sid]) -> set[Sid]:
    """What an entry may describe: every token on its own, and the first tokens of every SID."""
    return {found for sid in sids for level in range(len(sid)) for found in ((sid[level],), sid[: level + 1])}


def _wrong_keys(entry: Any) -> str:
    if not isinstance(entry, dict) or not {"description", "keywords"} <= set(entry):
        return "needs the keys token (or path), description and keywords"
    if ("token" in entry) == ("path" in entry):
        return "needs one of the keys token and path, not both" if "token" in entry else "needs the key token, or path"
    return ""


def _path_of(entry: Mapping[str, Any]) -> Sid | None:
    """The tokens of an entry; None if its token is not a text, or its path not a list of at least two texts."""
    listed = entry.get("path", [entry.get("token")])
    if not isinstance(listed, list) or not all(isinstance(token, str) for token in listed):
        return None
    return tuple(listed) if len(listed) > ("path" in entry) else None


def _unknown(entry: Mapping[str, Any]) -> str:
    if "token" in entry:
        return f"token {entry['token']!r} is carried by no item"
    if _path_of(entry) is None:
        return f"path {entry['path']!r} is no list of two tokens or more; an entry of one token has the key token"
    return f"path {entry['path']!r} begins the SID of no item"


def _kind(found: Sid) -> str:
    return "token" if len(found) == 1 else "path"


def _fault(found: Sid, description: Any, keywords: Any) -> str:
    """What is wrong with an entry; empty if nothing is."""
    who = f"{_kind(found)} {''.join(found)}"
    if not isinstance(description, str) or not without_control(description).strip():
        return f"{who} has no description"
    if named := [token for token in found if token in description]:
        return f"the description of {who} names the token {named[0]}, which gives the answer away"
    if (
        not isinstance(keywords, list)
        or not keywords
        or not all(isinstance(k, str) and without_control(k).strip() for k in keywords)
    ):
        return f"{who} needs a list of keywords that are not empty"
    if has_half(description):
        return f"the description of {who} {HALF}"
    halves = [keyword for keyword in keywords if has_half(keyword)]
    return f"the keyword {halves[0]!r} of {who} {HALF}" if halves else ""


def write_token_descriptions(path: pathlib.Path, descriptions: Iterable[TokenDescription]) -> None:
    """Writes a file that `read_token_descriptions` reads back equal; it appears only when it is complete."""
    listed = [
        {
            **({"path": list(words.path)} if words.prefix else {"token": words.token}),
            "description": words.description,
            "keywords": list(words.keywords),
        }
        for words in descriptions
    ]
    write_json(path, listed, indent=1)
