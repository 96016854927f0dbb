"""The files of a dataset folder, as texts, JSON values and items, with every fault noted."""

from __future__ import annotations

import ast
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tsrec_jax.data.catalogue import Item
from tsrec_jax.data.faults import DatasetError, Faults


def find_name(folder: pathlib.Path, name: str = "") -> str:
    """NAME of a folder's files: the given one, else that of the one NAME.item.json it holds.

    Raises:
      DatasetError: no such folder, or no name is given and it does not hold exactly one.
    """
    if not folder.is_dir():
        raise DatasetError(f"dataset.path={str(folder)!r}: no such folder")
    if name:
        return name
    names = sorted(file.name.removesuffix(".item.json") for file in folder.glob("*.item.json"))
    if len(names) != 1:
        found = f"several ({', '.join(names)}); set dataset.name" if names else "none"
        raise DatasetError(f"{folder}: expected one NAME.item.json, found {found}")
    return names[0]


def read_files(folder: pathlib.Path, needed: Sequence[str], optional: Sequence[str], faults: Faults) -> dict[str, str]:
    """{file name: text} of every file that is there; a needed one that is missing is a fault."""
    texts = {}
    for file in (*needed, *optional):
        path = folder / file
        if not path.is_file():
            if file in needed:
                faults.add(path, "", "file is missing")
            continue
        raw = path.read_bytes()
        try:
            texts[file] = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            faults.add(path, raw.count(b"\n", 0, error.start) + 1, f"not UTF-8 (byte {raw[error.start]:#04x})")
    return texts


def parse_json(path: pathlib.Path, text: str, faults: Faults) -> Any:
    """The JSON value; objects refuse a key that stands twice."""

    def pairs(entries: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in entries:
            if key in found:
                faults.add(path, f"key {key!r}", "stands twice")
            found[key] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        faults.add(path, "", f"not valid JSON ({error})")
        return None


def parse_items(path: pathlib.Path, text: str, faults: Faults) -> tuple[Item, ...]:
    """The items of a NAME.item.json, in file order.

    Raises:
      DatasetError: it holds no object, after the faults noted so far.
    """
    facts = parse_json(path, text, faults)
    if facts is not None and (not isinstance(facts, dict) or not facts):
        faults.add(path, "", "must be a JSON object with at least one item")
    faults.stop_if_any()
    return tuple(_item(path, item_id, entry, faults) for item_id, entry in facts.items())


def _item(path: pathlib.Path, item_id: str, entry: Any, faults: Faults) -> Item:
    if not isinstance(entry, dict) or not isinstance(entry.get("title"), str) or not entry["title"].strip():
        faults.add(path, f"item {item_id!r}", "needs an object with a title that is not empty")
        return Item(item_id, "")
    return Item(
        item_id,
        entry["title"],
        description=_plain_text(entry.get("description", "")),
        brand="" if entry.get("brand") is None else str(entry["brand"]),
        categories=_plain_text(entry.get("categories", "")),
    )


def _plain_text(value: Any) -> str:
    """A description may be a text, a list, a list written as a Python literal, or null; parts are joined by spaces."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return value
    if isinstance(value, list):
        return " ".join(str(part).strip() for part in value if part is not None and str(part).strip())
    return "" if value is None else str(value)


def sha256_of(path: pathlib.Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_of(texts: Mapping[str, str]) -> str:
    """SHA-256 over the names and contents of files, in hexadecimal."""
    digest = hashlib.sha256()
    for file in sorted(texts):
        digest.update(f"{file}\n{len(texts[file])}\n".encode())
        digest.update(texts[file].encode("utf-8"))
    return digest.hexdigest()
