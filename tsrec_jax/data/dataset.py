"""A dataset folder, read into typed values and checked; docs/dataset.md shows each of its files.

Files of a folder for the data set NAME:
  NAME.item.json   {id: {title, description, brand, categories, image}}
  NAME.index.json  {id: [token, token, token]}
  NAME.info.txt    SID<TAB>title<TAB>id
  train.csv, valid.csv, test.csv   user_id, history_item_title, item_title, history_item_id, item_id,
                                   history_item_sid, item_sid; lists as Python literals; test.csv may be absent
  NAME.description_keywords.json   [{token, description, keywords}], or path for token; may be absent
"""

from __future__ import annotations

import csv
import dataclasses
import os
import pathlib
from collections.abc import Iterable, Mapping

from tsrec_jax.data.catalogue import Catalogue, Item, TokenDescription
from tsrec_jax.data.faults import Faults
from tsrec_jax.data.folder_files import AS_IT_IS, Reading, find_name, hash_of, parse_items, read_files
from tsrec_jax.data.folder_rows import FolderRows, read_rows
from tsrec_jax.data.folder_sids import FolderSids, check_info, parse_index, refuse_own_sids
from tsrec_jax.data.interactions import COLUMNS, Interactions
from tsrec_jax.data.token_descriptions import parse_token_descriptions, write_token_descriptions
from tsrec_jax.files import new_folder, write_json, write_text

DESCRIPTIONS_FILE = ".description_keywords.json"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A checked dataset folder.

    Attributes:
      name: NAME in its file names.
      path: the folder.
      catalogue: items and SIDs.
      splits: `train`, `valid` and, where the folder has it, `test`; `select` where users were held out.
      token_descriptions: SID token, or path of tokens as one text -> what the teacher said about it; empty if the
        folder has no keyword file.
      data_hash: SHA-256 over the names and contents of the files read, in hexadecimal.
      notes: what a person should know about the folder, one line each.
    """

    name: str
    path: pathlib.Path
    catalogue: Catalogue
    splits: Mapping[str, Interactions]
    token_descriptions: Mapping[str, TokenDescription]
    data_hash: str
    notes: tuple[str, ...] = ()


def read_dataset(path: str | os.PathLike[str], name: str = "", reading: Reading = AS_IT_IS) -> Dataset:
    """Reads and checks a dataset folder.

    Args:
      path: the folder.
      name: NAME in its file names; empty: the only NAME in the folder.
      reading: how to read it, where more than one way makes sense.

    Raises:
      DatasetError: up to ten faults at once, each with file and row: unknown items, SIDs that disagree between files,
        wrong level counts, malformed lists, items that occur twice, empty splits, histories written newest first, text
        that is not UTF-8.
    """
    folder = pathlib.Path(path)
    name = find_name(folder, name)
    faults = Faults()
    contents = parse_folder(folder, name, True, reading, faults, whole=True)
    sids = contents.sids
    catalogue = Catalogue(contents.items, tuple(sids.read[item.id] for item in contents.items))
    data_hash = hash_of(contents.files, reading.ragged_sids if sids.changed else "")
    splits, descriptions = contents.rows.splits, contents.token_descriptions
    return Dataset(name, folder, catalogue, splits, descriptions, data_hash, tuple(faults.notes))


@dataclasses.dataclass(frozen=True)
class Contents:
    """What the files of a folder hold, without anything faulty; without SIDs if only texts and rows were wanted."""

    files: Mapping[str, str]
    items: tuple[Item, ...]
    sids: FolderSids
    rows: FolderRows
    token_descriptions: Mapping[str, TokenDescription]


def parse_folder(
    folder: pathlib.Path, name: str, with_sids: bool, reading: Reading, faults: Faults, whole: bool = False
) -> Contents:
    """Reads those files of a folder that exist, notes every fault and continues after it.

    Args:
      folder: the folder.
      name: NAME in its file names.
      with_sids: whether to read its SIDs and descriptions too, not only its texts and interactions.
      reading: how to read it, where more than one way makes sense.
      faults: takes every fault.
      whole: raise an error for faults: first for missing files, then for all others.

    Raises:
      DatasetError: the item file, which everything else depends on, holds no items; or, with `whole`, any fault.
    """
    item, index, info, described = (
        folder / f"{name}{end}" for end in (".item.json", ".index.json", ".info.txt", DESCRIPTIONS_FILE)
    )
    needed = (item.name, *((index.name, info.name) if with_sids else ()), "train.csv", "valid.csv")
    files = read_files(folder, needed, ("test.csv", *((described.name,) if with_sids else ())), faults)
    if whole or item.name not in files:
        faults.stop_if_any()
    items = parse_items(item, files[item.name], faults)
    sids = FolderSids({}, {})
    if index.name in files:
        sids = parse_index(index, files[index.name], items, reading.ragged_sids, faults)
        refuse_own_sids(item, items, sids.written, faults)
    if info.name in files:
        check_info(info, files[info.name], items, sids.written, faults)
    descriptions: Mapping[str, TokenDescription] = {}
    if described.name in files and sids.read:
        written = sids.written.values() if sids.changed else ()
        descriptions = parse_token_descriptions(
            described, files[described.name], set(sids.read.values()), faults, set(written)
        )
    sid_texts = ["".join(sids.written.get(item.id, ())) for item in items] if with_sids else None
    rows = read_rows(folder, files, items, reading.overlaps, faults, sid_texts)
    if whole:
        faults.stop_if_any()
    return Contents(files, items, sids, rows, descriptions)


def write_dataset(
    name: str,
    catalogue: Catalogue,
    splits: Mapping[str, Interactions],
    token_descriptions: Iterable[TokenDescription],
    folder: str | os.PathLike[str],
) -> None:
    """Writes a folder that `read_dataset` reads back equal; it appears only when it is complete.

    Raises:
      UserError: the folder exists already.
    """
    folder = pathlib.Path(folder)
    pairs = list(zip(catalogue.items, catalogue.sids, strict=True))
    items = {  # no image, no key: a folder without images keeps the hash that it had before images were supported
        item.id: {key: value for key, value in vars(item).items() if key != "id" and (value or key != "image")}
        for item, _ in pairs
    }
    info = "".join(f"{''.join(sid)}\t{' '.join(item.title.split())}\t{item.id}\n" for item, sid in pairs)
    with new_folder(folder) as scratch:
        write_json(scratch / f"{name}.item.json", items, indent=1)
        write_json(scratch / f"{name}.index.json", {item.id: list(sid) for item, sid in pairs}, indent=1)
        write_text(scratch / f"{name}.info.txt", info)
        listed = list(token_descriptions)
        if listed:
            write_token_descriptions(scratch / f"{name}{DESCRIPTIONS_FILE}", listed)
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
