"""A dataset folder, read into typed values and checked; docs/dataset.md shows each of its files.

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
import os
import pathlib
from collections.abc import Iterable, Mapping

from tsrec_jax.data.catalogue import Catalogue, Item, TokenDescription, token_order
from tsrec_jax.data.faults import Faults
from tsrec_jax.data.folder_files import AS_IT_IS, Reading, find_name, hash_of, parse_items, read_files
from tsrec_jax.data.folder_rows import read_splits
from tsrec_jax.data.folder_sids import FolderSids, check_info, parse_index, refuse_own_sids
from tsrec_jax.data.interactions import COLUMNS, Interactions
from tsrec_jax.data.token_descriptions import parse_token_descriptions, write_token_descriptions
from tsrec_jax.files import new_folder, write_json, write_text

DESCRIPTIONS_FILE = ".description_keywords.json"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A checked dataset folder.

    Attributes:
      name: NAME of its files.
      path: the folder.
      catalogue: items and SIDs.
      splits: `train`, `valid` and, where the folder has it, `test`; `select` where users were held out.
      token_descriptions: SID token -> what the teacher said of it; empty when the folder has no keyword file.
      data_hash: SHA-256 over the names and contents of the files read, in hexadecimal.
      notes: what a person should know of the folder, a line each.
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
      name: NAME of its files; empty: the one NAME that the folder holds.
      reading: how, where more than one way makes sense.

    Raises:
      DatasetError: up to ten faults at once, each with file and row: unknown items, SIDs that disagree between files,
        wrong level counts, malformed lists, items that stand twice, empty splits, histories written newest first, text
        that is not UTF-8.
    """
    folder = pathlib.Path(path)
    name = find_name(folder, name)
    faults = Faults()
    files = read_files(folder, needed_files(name), optional_files(name), faults)
    faults.stop_if_any()
    contents = parse_dataset(folder, name, files, reading, faults)
    faults.stop_if_any()
    catalogue = Catalogue(contents.items, tuple(contents.sids.read[item.id] for item in contents.items))
    data_hash = hash_of(files, reading.ragged_sids if contents.sids.changed else "")
    return Dataset(
        name, folder, catalogue, contents.splits, contents.token_descriptions, data_hash, tuple(faults.notes)
    )


def needed_files(name: str) -> tuple[str, ...]:
    """The files that a dataset folder must have."""
    return (f"{name}.item.json", f"{name}.index.json", f"{name}.info.txt", "train.csv", "valid.csv")


def optional_files(name: str) -> tuple[str, ...]:
    """The files that it may have."""
    return ("test.csv", f"{name}{DESCRIPTIONS_FILE}")


@dataclasses.dataclass(frozen=True)
class Contents:
    """What the files of a dataset folder hold, less what has a fault."""

    items: tuple[Item, ...]
    sids: FolderSids
    splits: Mapping[str, Interactions]
    token_descriptions: Mapping[str, TokenDescription]


def parse_dataset(
    folder: pathlib.Path, name: str, files: Mapping[str, str], reading: Reading, faults: Faults
) -> Contents:
    """Reads what there is of the files of a folder with SIDs, notes every fault and goes on behind it.

    Raises:
      DatasetError: the item file holds no items, by which all the rest is read.
    """
    item_path, index_path = folder / f"{name}.item.json", folder / f"{name}.index.json"
    items = parse_items(item_path, files[item_path.name], faults)
    sids = FolderSids({}, {})
    if index_path.name in files:
        sids = parse_index(index_path, files[index_path.name], items, reading.ragged_sids, faults)
        refuse_own_sids(item_path, items, sids.written, faults)
    if f"{name}.info.txt" in files:
        check_info(folder / f"{name}.info.txt", files[f"{name}.info.txt"], items, sids.written, faults)
    token_descriptions: Mapping[str, TokenDescription] = {}
    if f"{name}{DESCRIPTIONS_FILE}" in files and sids.read:
        known = token_order(sids.read.values())
        # Tokens that reading took out of the SIDs or put into them.
        optional = {token for tokens in sids.written.values() for token in tokens} ^ set(known)
        words = files[f"{name}{DESCRIPTIONS_FILE}"]
        token_descriptions = parse_token_descriptions(
            folder / f"{name}{DESCRIPTIONS_FILE}", words, known, faults, optional
        )
    written = ["".join(sids.written.get(item.id, ())) for item in items]
    splits = read_splits(folder, files, items, reading.overlaps, faults, written)
    return Contents(items, sids, splits, token_descriptions)


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
    items = {item.id: {key: value for key, value in vars(item).items() if key != "id"} for item, _ in pairs}
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
