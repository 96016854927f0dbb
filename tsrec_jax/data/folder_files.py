"""The files of a dataset folder, as texts, JSON values and items, with every fault noted."""

from __future__ import annotations

import ast
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tsrec_jax.data.catalogue import Item, is_address
from tsrec_jax.data.faults import DatasetError, Faults, named
from tsrec_jax.data.settings import DatasetSettings as Reading
from tsrec_jax.data.texts import has_control, has_half, stands_for_nothing, without_control

_NO_FOLDER = "docs/dataset.md shows a folder; tsrec prepare makes one of tables and raw reviews"
HALF = "holds half of a surrogate pair, which no file can hold; write the whole character or leave it out"


AS_IT_IS = Reading()


def find_name(folder: pathlib.Path, name: str = "") -> str:
    """NAME in a folder's file names: the given one, otherwise that of its only NAME.item.json.

    Raises:
      DatasetError: no such folder, or no name is given and the folder does not hold exactly one NAME.item.json.
    """
    if not folder.is_dir():
        what = "is a file; name the folder that holds it" if folder.exists() else "no such folder"
        raise DatasetError(f"dataset.path={str(folder)!r}: {what}")
    if name:
        return name
    names = sorted(file.name.removesuffix(".item.json") for file in folder.glob("*.item.json"))
    if len(names) != 1:
        found = f"several ({', '.join(names)}); set dataset.name" if names else f"none ({_NO_FOLDER})"
        raise DatasetError(f"{folder}: expected one NAME.item.json, found {found}")
    return names[0]


def read_files(folder: pathlib.Path, needed: Sequence[str], optional: Sequence[str], faults: Faults) -> dict[str, str]:
    """{file name: text} of every file that exists, without a BOM; a needed file that is missing is a fault."""
    texts = {}
    for file in (*needed, *optional):
        path = folder / file
        if not path.is_file():
            if file in needed:
                faults.add(path, "", "file is missing")
            continue
        raw = path.read_bytes()
        try:
            texts[file] = raw.decode("utf-8").removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            row = raw.count(b"\n", 0, error.start) + 1
            faults.add(path, row, f"not UTF-8 (byte {raw[error.start]:#04x}); save the file as UTF-8")
    return texts


def parse_json(path: pathlib.Path, text: str, faults: Faults) -> Any:
    """The JSON value; a key that occurs twice in an object is a fault."""

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
    """The items of a NAME.item.json, in file order; an item with a fault has an empty title.

    Control characters in texts are read as spaces. A note counts them, and also titles that only mark a missing one.

    Raises:
      DatasetError: the file holds no object; the faults noted so far come first.
    """
    facts = parse_json(path, text, faults)
    if not isinstance(facts, dict) or not facts:
        if facts is not None:
            faults.add(path, "", "must be a JSON object with at least one item")
        faults.stop_if_any()
    read = [_item(path, item_id, entry, faults) for item_id, entry in facts.items()]
    cleaned = [number for number, item in enumerate(read) if any(map(has_control, vars(item).values()))]
    for number in cleaned:
        read[number] = Item(*map(without_control, vars(read[number]).values()))
    if cleaned:
        ids = named([read[number].id for number in cleaned])
        faults.note(path, f"control characters in the texts of {len(cleaned)} item(s) are read as spaces ({ids})")
    untitled = [item.id for item in read if stands_for_nothing(item.title)]
    if untitled:
        faults.note(
            path,
            f"{len(untitled)} of {len(read)} titles are what programs write where there is none, such as nan or N/A "
            f"({named(untitled)}); they are read as titles",
        )
    return tuple(read)


def _item(path: pathlib.Path, item_id: str, entry: Any, faults: Faults) -> Item:
    place = f"item {item_id!r}"
    if has_half(item_id) or has_control(item_id):
        faults.add(path, place, "its id holds a control character or half of a surrogate pair; give it another one")
        return Item(item_id, "")
    title = entry.get("title") if isinstance(entry, dict) else None
    if not isinstance(title, str) or not without_control(title).strip():
        faults.add(path, place, "needs an object with a title that is not empty")
        return Item(item_id, "")
    texts = {
        "title": title,
        "description": _plain_text(entry.get("description", "")),
        "brand": "" if entry.get("brand") is None else str(entry["brand"]),
        "categories": _plain_text(entry.get("categories", "")),
    }
    image = entry.get("image") or ""
    if not isinstance(image, str) or (image and not is_address(image)):
        faults.add(path, place, f"its image {image!r} is no address that begins with https:// or http://")
        return Item(item_id, "")
    halves = [field for field, text in texts.items() if has_half(text)]
    if halves:
        faults.add(path, place, f"its {halves[0]} {HALF}")
        return Item(item_id, "")
    return Item(item_id, **texts, image=image)


def _plain_text(value: Any) -> str:
    """The text of a description: a text, a list, a list as a Python literal, or null; parts are joined by spaces."""
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


def hash_of(texts: Mapping[str, str], changes: str = "") -> str:
    """SHA-256 over the names and contents of files and what reading changed in them, in hexadecimal."""
    digest = hashlib.sha256(changes.encode())
    for file in sorted(texts):
        digest.update(f"{file}\n{len(texts[file])}\n".encode())
        digest.update(texts[file].encode("utf-8"))
    return digest.hexdigest()
