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

import csv
import dataclasses
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

from tsrec_jax.data.catalogue import Catalogue, Cluster
from tsrec_jax.data.clusters import parse_clusters, write_clusters
from tsrec_jax.data.faults import Faults
from tsrec_jax.data.folder_files import find_name, hash_of, parse_items, parse_json, read_files
from tsrec_jax.data.interactions import COLUMNS, Interactions, read_interactions
from tsrec_jax.errors import UserError

SPLITS = ("train", "valid", "test")
CLUSTERS = ".description_keywords.json"
_SID = re.compile(r"<[^<>\s]+>")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A checked dataset folder.

    Attributes:
      name: NAME of its files.
      path: the folder.
      catalogue: items and SIDs.
      splits: `train`, `valid` and, where the folder has it, `test`; `select` where users were held out.
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
    name = find_name(folder, name)
    faults = Faults()
    needed = (f"{name}.item.json", f"{name}.index.json", f"{name}.info.txt", "train.csv", "valid.csv")
    texts = read_files(folder, needed, ("test.csv", f"{name}{CLUSTERS}"), faults)
    faults.stop_if_any()
    catalogue = _read_catalogue(folder, name, texts, faults)
    faults.stop_if_any()
    words = texts.get(f"{name}{CLUSTERS}")
    clusters = {} if words is None else parse_clusters(folder / f"{name}{CLUSTERS}", words, catalogue, faults)
    sids = [catalogue.sid(item) for item in range(catalogue.num_items)]
    splits = {
        split: read_interactions(folder / f"{split}.csv", texts[f"{split}.csv"], catalogue.items, faults, sids)
        for split in SPLITS
        if f"{split}.csv" in texts
    }
    faults.stop_if_any()
    return Dataset(name, folder, catalogue, splits, clusters, hash_of(texts))


def _read_catalogue(folder: pathlib.Path, name: str, texts: Mapping[str, str], faults: Faults) -> Catalogue:
    item_path, index_path = folder / f"{name}.item.json", folder / f"{name}.index.json"
    index = parse_json(index_path, texts[index_path.name], faults)
    if index is not None and (not isinstance(index, dict) or not index):
        faults.add(index_path, "", "must be a JSON object with at least one item")
    items = parse_items(item_path, texts[item_path.name], faults)
    titles = {item.id: item.title for item in items}
    sids = _sids(index_path, index, titles, faults)
    for item in items:
        if item.id not in index:
            faults.add(index_path, f"item {item.id!r}", f"has no SID, but stands in {item_path.name}")
        if any(token in item.title for token in sids.get(item.id, ())):
            faults.add(item_path, f"item {item.id!r}", "its title names its own SID, which gives the answer away")
    faults.stop_if_any()
    _check_info(folder / f"{name}.info.txt", texts[f"{name}.info.txt"], titles, sids, faults)
    return Catalogue(items, tuple(sids[item.id] for item in items))


def _sids(path: pathlib.Path, index: Mapping[str, Any], titles: Mapping[str, str], faults: Faults) -> dict:
    sids: dict[str, tuple[str, ...]] = {}
    levels = 0
    level_of: dict[str, int] = {}
    for item_id, tokens in index.items():
        place = f"item {item_id!r}"
        if item_id not in titles:
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
    path: pathlib.Path, text: str, titles: Mapping[str, str], sids: Mapping[str, tuple[str, ...]], faults: Faults
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
        if title.strip() != " ".join(titles[item_id].split()) and title != titles[item_id]:
            faults.add(path, row, f"item {item_id!r} has another title in the item file")
    missing = [item_id for item_id in titles if item_id not in seen]
    for item_id in missing:
        faults.add(path, "", f"item {item_id!r} is missing")


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
    listed = list(clusters)
    if listed:
        write_clusters(scratch / f"{name}{CLUSTERS}", listed)
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
