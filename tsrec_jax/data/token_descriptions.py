"""What a teacher said of the SID tokens, as the file `NAME.description_keywords.json`."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Collection, Iterable
from typing import Any

from tsrec_jax.data.catalogue import Catalogue, TokenDescription
from tsrec_jax.data.faults import Faults
from tsrec_jax.data.folder_files import HALF, parse_json, read_files
from tsrec_jax.data.texts import has_half, without_control
from tsrec_jax.files import write_json


def read_token_descriptions(path: str | os.PathLike[str], catalogue: Catalogue) -> dict[str, TokenDescription]:
    """Reads and checks one file: {token: description} of every token of the catalogue.

    Raises:
      DatasetError: up to ten faults at once: a missing file, text that is not JSON or UTF-8, tokens without an entry or
        without an item, empty descriptions or keywords.
    """
    path = pathlib.Path(path)
    faults = Faults()
    texts = read_files(path.parent, (path.name,), (), faults)
    faults.stop_if_any()
    descriptions = parse_token_descriptions(path, texts[path.name], catalogue.tokens, faults)
    faults.stop_if_any()
    return descriptions


def parse_token_descriptions(
    path: pathlib.Path, text: str, tokens: Collection[str], faults: Faults, optional: Collection[str] = ()
) -> dict[str, TokenDescription]:
    """{token: description} of the entries without a fault; control characters are read as spaces.

    Args:
      path: the file, for the wording of faults.
      text: its contents.
      tokens: those that items carry; each needs an entry.
      faults: takes every fault.
      optional: tokens that need none and may have one, carried or not.
    """
    entries = parse_json(path, text, faults)
    if entries is None:
        return {}
    if not isinstance(entries, list):
        faults.add(path, "", "must be a JSON list of {token, description, keywords}")
        return {}
    known = set(tokens)
    descriptions: dict[str, TokenDescription] = {}
    seen: set[str] = set()
    for row, entry in enumerate(entries, 1):
        place = f"entry {row}"
        if not isinstance(entry, dict) or not {"token", "description", "keywords"} <= set(entry):
            faults.add(path, place, "needs the keys token, description and keywords")
            continue
        token = entry["token"]
        if not isinstance(token, str) or token not in known:
            if not isinstance(token, str) or token not in optional:
                faults.add(path, place, f"token {token!r} is carried by no item")
            continue
        if token in seen:
            faults.add(path, place, f"token {token} stands twice")
        elif fault := _fault(token, entry["description"], entry["keywords"]):
            faults.add(path, place, fault)
        else:
            description = without_control(entry["description"]).strip()
            descriptions[token] = TokenDescription(token, description, tuple(map(without_control, entry["keywords"])))
        seen.add(token)
    for token in tokens:
        if token not in seen and token not in optional:
            faults.add(path, "", f"token {token} has no entry")
    return descriptions


def _fault(token: str, description: Any, keywords: Any) -> str:
    """What is wrong with an entry; empty where nothing is."""
    if not isinstance(description, str) or not without_control(description).strip():
        return f"token {token} has no description"
    if token in description:
        return f"the description of token {token} names the token, which gives the answer away"
    if (
        not isinstance(keywords, list)
        or not keywords
        or not all(isinstance(k, str) and without_control(k).strip() for k in keywords)
    ):
        return f"token {token} needs a list of keywords that are not empty"
    if has_half(description):
        return f"the description of token {token} {HALF}"
    halves = [keyword for keyword in keywords if has_half(keyword)]
    return f"the keyword {halves[0]!r} of token {token} {HALF}" if halves else ""


def write_token_descriptions(path: pathlib.Path, descriptions: Iterable[TokenDescription]) -> None:
    """Writes a file that `read_token_descriptions` reads back equal; it appears only when it is complete."""
    listed = [{"token": c.token, "description": c.description, "keywords": list(c.keywords)} for c in descriptions]
    write_json(path, listed, indent=1)
