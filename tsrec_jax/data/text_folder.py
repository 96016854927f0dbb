"""A dataset folder before its items have SIDs: texts and interactions.

Files for the data set NAME:
  NAME.item.json                   {id: {title, description, brand, categories, image}}
  train.csv, valid.csv, test.csv   user_id, history_item_id, item_id; lists as Python literals; test.csv may be absent

A full dataset folder is one too: its SIDs and further columns are not read.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping

from tsrec_jax.data.catalogue import Item
from tsrec_jax.data.dataset import Dataset, parse_folder
from tsrec_jax.data.faults import Faults
from tsrec_jax.data.folder_files import AS_IT_IS, Reading, find_name, hash_of
from tsrec_jax.data.interactions import Interactions


@dataclasses.dataclass(frozen=True)
class TextFolder:
    """A checked folder of texts and interactions.

    Attributes:
      name: NAME of its files.
      path: the folder.
      items: in file order.
      splits: `train`, `valid` and, where the folder has it, `test`.
      data_hash: SHA-256 over the names and contents of the files read, in hexadecimal.
      notes: what a person should know about the folder, one line each.
    """

    name: str
    path: pathlib.Path
    items: tuple[Item, ...]
    splits: Mapping[str, Interactions]
    data_hash: str
    notes: tuple[str, ...] = ()


def read_texts(path: str | os.PathLike[str], name: str = "", reading: Reading = AS_IT_IS) -> TextFolder:
    """Reads and checks the texts and interactions of a folder.

    Args:
      path: the folder.
      name: NAME in its file names; empty: the only NAME in the folder.
      reading: how to read it, where more than one way makes sense.

    Raises:
      DatasetError: up to ten faults at once, each with file and row, as `read_dataset` does.
    """
    folder = pathlib.Path(path)
    name = find_name(folder, name)
    faults = Faults()
    found = parse_folder(folder, name, False, reading, faults, whole=True)
    return TextFolder(name, folder, found.items, found.rows.splits, hash_of(found.files), tuple(faults.notes))


def texts_of(dataset: Dataset, path: pathlib.Path) -> TextFolder:
    """The contents of a dataset folder, read from `path`, without its SIDs and words."""
    return TextFolder(dataset.name, path, dataset.catalogue.items, dataset.splits, dataset.data_hash, dataset.notes)
