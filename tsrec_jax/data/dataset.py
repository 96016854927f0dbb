"""A dataset folder, read into typed values and checked.

Files of a folder for the data set NAME:
  NAME.item.json   {id: {title, description, brand, categories}}
  NAME.index.json  {id: [token, token, token]}
  NAME.info.txt    SID<TAB>title<TAB>id
  train.csv, valid.csv, test.csv   user_id, history_item_title, item_title, history_item_id, item_id,
                                   history_item_sid, item_sid; lists as Python literals; test.csv may be absent
  NAME.description_keywords.json   [{token, description, keywords}]; may be absent
"""

from __future__ import annotations

import ast
import csv
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

from tsrec_jax.data.catalogue import Catalogue, Cluster, Item
from tsrec_jax.data.faults import DatasetError, Faults
from tsrec_jax.data.interactions import COLUMNS, Interactions, read_interactions
from tsrec_jax.errors import UserError

SPLITS = ("train", "valid", "test")
_SID = re.compile(r"<[^<>\s]+>")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A checked dataset folder.

    Attributes:
      name: NAME of its files.
      path: the folder.
      catalogue: items and SIDs.
      splits: `train`, `valid` and, where the folder has it, `test`.
      clusters: SID token -> what the teacher said of it; empty when the folder has no keyword file.
      data_hash: SHA-256 over the names and contents of the files read, in hexadecimal.
    """

    name: str
    path: pathlib.Path
    catalogue: Catalogue
    splits: Mapping[str, Interactions]
    clusters: Mapping[str, Cluster]
    data_hash: str


def read_dataset(path: str | os.PathLike[str], name: str = "") -> Dataset:
    """Reads and checks a dataset folder.

    Args:
      path: the folder.
      name: NAME of its files; empty: the one NAME that the folder holds.

    Raises:
      DatasetError: up to ten faults at once, each with file and row: unknown items, SIDs that disagree between files,
        wrong level counts, malformed lists, duplicates, empty splits, text that is not UTF-8.
    """
    folder = pathlib.Path(path)
    if not folder.is_dir():
        raise DatasetError(f"dataset.path={str(folder)!r}: no such folder")
    name = name or _find_name(folder)
    faults = Faults()
    texts = _read_files(folder, name, faults)
    faults.stop_if_any()
    catalogue = _read_catalogue(folder, name, texts, faults)
    faults.stop_if_any()
    clusters = _read_clusters(folder / f"{name}.description_keywords.json", texts, catalogue, faults)
    splits = {
        split: read_interactions(folder / f"{split}.csv", texts[f"{split}.csv"], catalogue, faults)
        for split in SPLITS
        if f"{split}.csv" in texts
    }
    faults.stop_if_any()
    digest = hashlib.sha256()
    for file in sorted(texts):
        digest.update(f"{file}\n{len(texts[file])}\n".encode())
        digest.update(texts[file].encode("utf-8"))
    return Dataset(name, folder, catalogue, splits, clusters, digest.hexdigest())


def _find_name(folder: pathlib.Path) -> str:
    names = sorted(file.name.removesuffix(".item.json") for file in folder.glob("*.item.json"))
    if len(names) != 1:
        found = f"several ({', '.join(names)}); set dataset.name" if names else "none"
        raise DatasetError(f"{folder}: expected one NAME.item.json, found {found}")
    return names[0]


def _read_files(folder: pathlib.Path, name: str, faults: Faults) -> dict[str, str]:
    """{file name: text} of every file that is there."""
    needed = (f"{name}.item.json", f"{name}.index.json", f"{name}.info.txt", "train.csv", "valid.csv")
    optional = ("test.csv", f"{name}.description_keywords.json")
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


def _parse_json(path: pathlib.Path, text: str, faults: Faults) -> Any:
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
    except ValueError as error:
        faults.add(path, "", f"not valid JSON ({error})")
        return None


def _read_catalogue(folder: pathlib.Path, name: str, texts: Mapping[str, str], faults: Faults) -> Catalogue:
    item_path, index_path = folder / f"{name}.item.json", folder / f"{name}.index.json"
    facts = _parse_json(item_path, texts[item_path.name], faults)
    index = _parse_json(index_path, texts[index_path.name], faults)
    for path, value in ((item_path, facts), (index_path, index)):
        if value is not None and (not isinstance(value, dict) or not value):
            faults.add(path, "", "must be a JSON object with at least one item")
    faults.stop_if_any()
    items = [_item(item_path, item_id, entry, faults) for item_id, entry in facts.items()]
    sids = _sids(index_path, index, facts, faults)
    for item in items:
        if item.id not in index:
            faults.add(index_path, f"item {item.id!r}", f"has no SID, but stands in {item_path.name}")
        if any(token in item.title for token in sids.get(item.id, ())):
            faults.add(item_path, f"item {item.id!r}", "its title names its own SID, which gives the answer away")
    faults.stop_if_any()
    _check_info(folder / f"{name}.info.txt", texts[f"{name}.info.txt"], facts, sids, faults)
    return Catalogue(tuple(items), tuple(sids[item.id] for item in items))


def _item(path: pathlib.Path, item_id: str, entry: Any, faults: Faults) -> Item:
    if not isinstance(entry, dict) or not isinstance(entry.get("title"), str) or not entry["title"].strip():
        faults.add(path, f"item {item_id!r}", "needs an object with a title that is not empty")
        return Item(item_id, "")
    return Item(
        item_id,
        entry["title"],
        description=_plain_text(entry.get("description", "")),
        brand=str(entry.get("brand", "")),
        categories=_plain_text(entry.get("categories", "")),
    )


def _plain_text(value: Any) -> str:
    """A description may be a text, a list, or a list written as a Python literal; paragraphs are joined by spaces."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return value
    if isinstance(value, list):
        return " ".join(str(part).strip() for part in value if str(part).strip())
    return str(value)


def _sids(path: pathlib.Path, index: Mapping[str, Any], items: Mapping[str, Any], faults: Faults) -> dict:
    sids: dict[str, tuple[str, ...]] = {}
    levels = 0
    level_of: dict[str, int] = {}
    for item_id, tokens in index.items():
        place = f"item {item_id!r}"
        if item_id not in items:
            faults.add(path, place, "is not an item of the item file")
        if (
            not isinstance(tokens, list)
            or not tokens
            or not all(isinstance(t, str) and _SID.fullmatch(t) for t in tokens)
        ):
            faults.add(path, place, f'needs a list of tokens like "<a_1>", has {tokens!r}')
            continue
        levels = levels or len(tokens)
        if len(tokens) != levels:
            faults.add(path, place, f"has {len(tokens)} levels where the first item has {levels}")
        for level, token in enumerate(tokens):
            if level_of.setdefault(token, level) != level:
                faults.add(
                    path, place, f"token {token} stands on level {level} here and on level {level_of[token]} before"
                )
        sids[item_id] = tuple(tokens)
    return sids


def _check_info(
    path: pathlib.Path, text: str, items: Mapping[str, Any], sids: Mapping[str, tuple[str, ...]], faults: Faults
) -> None:
    seen: set[str] = set()
    for row, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        fields = line.split("\t")
        if len(fields) != 3:
            faults.add(path, row, f"needs SID<TAB>title<TAB>id, has {len(fields)} field(s)")
            continue
        sid, title, item_id = fields
        if item_id not in sids:
            faults.add(path, row, f"item {item_id!r} is not in the index")
            continue
        if item_id in seen:
            faults.add(path, row, f"item {item_id!r} stands twice")
        seen.add(item_id)
        if sid != "".join(sids[item_id]):
            faults.add(path, row, f"item {item_id!r} has SID {sid} here and {''.join(sids[item_id])} in the index")
        if title.strip() != " ".join(items[item_id]["title"].split()) and title != items[item_id]["title"]:
            faults.add(path, row, f"item {item_id!r} has another title in the item file")
    missing = [item_id for item_id in items if item_id not in seen]
    for item_id in missing:
        faults.add(path, "", f"item {item_id!r} is missing")


def _read_clusters(
    path: pathlib.Path, texts: Mapping[str, str], catalogue: Catalogue, faults: Faults
) -> dict[str, Cluster]:
    if path.name not in texts:
        return {}
    entries = _parse_json(path, texts[path.name], faults)
    if entries is None:
        return {}
    if not isinstance(entries, list):
        faults.add(path, "", "must be a JSON list of {token, description, keywords}")
        return {}
    known = set(catalogue.tokens)
    clusters: dict[str, Cluster] = {}
    for row, entry in enumerate(entries, 1):
        place = f"entry {row}"
        if not isinstance(entry, dict) or not {"token", "description", "keywords"} <= set(entry):
            faults.add(path, place, "needs the keys token, description and keywords")
            continue
        token, description, keywords = entry["token"], entry["description"], entry["keywords"]
        if token not in known:
            faults.add(path, place, f"token {token!r} is carried by no item")
        elif token in clusters:
            faults.add(path, place, f"token {token} stands twice")
        elif not isinstance(description, str) or not description.strip():
            faults.add(path, place, f"token {token} has no description")
        elif token in description:
            faults.add(path, place, f"the description of token {token} names the token, which gives the answer away")
        elif (
            not isinstance(keywords, list)
            or not keywords
            or not all(isinstance(k, str) and k.strip() for k in keywords)
        ):
            faults.add(path, place, f"token {token} needs a list of keywords that are not empty")
        else:
            clusters[token] = Cluster(token, description.strip(), tuple(keywords))
    for token in catalogue.tokens:
        if token not in clusters and not any(token in line for line in faults.lines):
            faults.add(path, "", f"token {token} has no entry")
    return clusters


def write_dataset(
    name: str,
    catalogue: Catalogue,
    splits: Mapping[str, Interactions],
    clusters: Iterable[Cluster],
    folder: str | os.PathLike[str],
) -> None:
    """Writes a folder that `read_dataset` reads back equal; it appears only when it is complete.

    Raises:
      UserError: the folder exists already.
    """
    folder = pathlib.Path(folder)
    if folder.exists():
        raise UserError(f"{folder}: exists already; nothing was written")
    scratch = folder.with_name(folder.name + ".writing")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    pairs = list(zip(catalogue.items, catalogue.sids, strict=True))

    def write_json(file: str, value: Any) -> None:
        (scratch / file).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    write_json(f"{name}.item.json", {item.id: {k: v for k, v in vars(item).items() if k != "id"} for item, _ in pairs})
    write_json(f"{name}.index.json", {item.id: list(sid) for item, sid in pairs})
    info = "".join(f"{''.join(sid)}\t{' '.join(item.title.split())}\t{item.id}\n" for item, sid in pairs)
    (scratch / f"{name}.info.txt").write_text(info, encoding="utf-8")
    listed = [{"token": c.token, "description": c.description, "keywords": list(c.keywords)} for c in clusters]
    if listed:
        write_json(f"{name}.description_keywords.json", listed)
    for split, rows in splits.items():
        with (scratch / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for user, history, target in zip(rows.users, rows.histories, rows.targets, strict=True):
                titles = [catalogue.items[i].title for i in history]
                ids = [catalogue.items[i].id for i in history]
                sids = [catalogue.sid(i) for i in history]
                item = catalogue.items[target]
                writer.writerow([user, titles, item.title, ids, item.id, sids, catalogue.sid(target)])
    os.replace(scratch, folder)
