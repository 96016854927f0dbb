"""The run that a training continues from: which settings it decides, and which items and rows it knew."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tsrec_jax.addresses import is_remote
from tsrec_jax.data.catalogue import Catalogue, Item
from tsrec_jax.data.dataset import Dataset, read_dataset
from tsrec_jax.data.held_out import SELECT
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.errors import UserError
from tsrec_jax.pipeline.index import INDEX_FILE
from tsrec_jax.pipeline.inputs import source_folder
from tsrec_jax.progress import report
from tsrec_jax.serving.export_files import CATALOGUE_FILE, read_catalogue, read_prompts
from tsrec_jax.settings import Settings, flat, load_saved
from tsrec_jax.training.checkpoints import differences

KEY = "config.train.from_run"
IN_TIME = ("train", SELECT, "valid", "test")  # the splits in the order in which a user's rows were made


@dataclasses.dataclass(frozen=True, eq=False)
class Earlier:
    """The run that another one continues from.

    Attributes:
      place: its workdir, or only an export.
      items: ids of the items that it knew.
      new: bool, for each split of the continuing run: the rows that the earlier run did not have; all rows if `place`
        is only an export.
      knows_rows: whether its rows are known; not if `place` is only an export.
    """

    place: str
    items: frozenset[str]
    new: Mapping[str, np.ndarray]
    knows_rows: bool


def going_on(settings: Settings) -> Settings:
    """The settings of a run that continues from an earlier one; unchanged if `train.from_run` is empty.

    The model is the earlier run's export. Items that the earlier run knows keep their SIDs, and its codebooks code new
    items.

    Raises:
      UserError: the place is an address or holds no export with a language model, or the settings name another index
        or another encoder of items than that run's.
    """
    if not settings.train.from_run:
        return settings
    if is_remote(settings.train.from_run):
        raise UserError(
            f"{KEY}={settings.train.from_run}: an address; copy that run here, without its checkpoints/, and name the "
            "copy"
        )
    place, export = pathlib.Path(settings.train.from_run), _export(settings.train.from_run)
    changes: dict[str, Any] = {"model": {"path": str(export), "num_layers": 0}}
    index = place / "index" / INDEX_FILE
    if export != place and index.is_file():
        before = load_saved(place)
        encoder = before.index.model or before.model.path or str(place / "pretrained")
        changes["index"] = {"extend": str(index), "model": "" if before.index.embeddings else encoder}
        for key, value in changes["index"].items():
            given = getattr(settings.index, key)
            if given not in ("", value):
                raise UserError(
                    f"config.index.{key}={given!r}, but new items are coded as {place} coded its own, which is "
                    f"config.index.{key}={value!r}; leave it out"
                )
    said = ", ".join(f"config.{key}={value}" for key, value in flat(changes).items())
    instead = f", in place of {settings.model.path}" if settings.model.path not in ("", str(export)) else ""
    report(f"run: goes on from {place}: {said}{instead}")
    return settings.changed(changes)


def _export(place: str) -> pathlib.Path:
    """The exported folder of an earlier run: `export/` of a workdir, or the place itself."""
    folder = pathlib.Path(place)
    if (folder / CATALOGUE_FILE).is_file():
        export = folder
    elif (folder / "export" / CATALOGUE_FILE).is_file():
        export = folder / "export"
    elif (folder / "config.json").is_file():
        raise UserError(f"{KEY}={place}: that run has no export; run the verb `export` in it first")
    else:
        raise UserError(f"{KEY}={place}: neither the workdir of a finished run nor an export")
    if not (export / "config.json").is_file():
        raise UserError(f"{KEY}={place}: {export} holds no language model that could learn more")
    return export


def open_earlier(settings: Settings, dataset: Dataset) -> Earlier | None:
    """What the earlier run knew; None if there is none. A line reports what is new to it.

    Args:
      settings: as returned by `going_on`.
      dataset: the dataset of the continuing run.

    Raises:
      UserError: the earlier run's SIDs or prompts differ, so that its weights would mean something else here; or the
        folder that it learned from has changed, so that nobody knows which rows are new.
    """
    place = settings.train.from_run
    if not place:
        return None
    export = pathlib.Path(settings.model.path)
    known, templates = read_catalogue(export), read_prompts(export)[0]
    _refuse_other_sids(settings, export, known, dataset.catalogue)
    if changed := differences(flat(templates, "templates."), flat(settings.templates, "templates.")):
        raise UserError(f"{export} was trained with other prompts ({changed}); set config.templates as they were")
    folder = None if export == pathlib.Path(place) else _folder_of(pathlib.Path(place))
    known_pairs = np.empty(0, np.uint64)
    if folder is not None:
        known_pairs = np.concatenate([_pairs(rows, folder.catalogue.items) for rows in folder.splits.values()])
    items = frozenset(item.id for item in known.items)
    earlier = Earlier(place, items, _new_rows(dataset, known_pairs), folder is not None)
    report(f"run: new to {place}: {_news(earlier, dataset)}")
    return earlier


def _news(earlier: Earlier, dataset: Dataset) -> str:
    """How much of a dataset the earlier run did not have."""
    ids = {item.id for item in dataset.catalogue.items}
    facts = [f"{len(ids - earlier.items)} of {len(ids)} items"]
    if gone := len(earlier.items - ids):
        facts.append(f"({gone} of its own are left out)")
    if not earlier.knows_rows:
        return f"{' '.join(facts)}; of an export the rows are not known"
    rows = (f"{new.sum()} of {len(new)} rows of {split}" for split, new in earlier.new.items())
    return f"{' '.join(facts)}, {', '.join(rows)}"


def _refuse_other_sids(settings: Settings, export: pathlib.Path, known: Catalogue, catalogue: Catalogue) -> None:
    sids = {item.id: known.sid(number) for number, item in enumerate(known.items)}
    pairs = [(item.id, sids[item.id], catalogue.sid(n)) for n, item in enumerate(catalogue.items) if item.id in sids]
    if not pairs:
        raise UserError(f"{export} knows none of these items; it is of another catalogue")
    moved = [pair for pair in pairs if pair[1] != pair[2]]
    if moved:
        way_out = (
            "set config.index.sids=make, which keeps those that it knows"
            if settings.index.extend
            else "give the SIDs that it was trained with, by NAME.index.json or config.index.given_sids"
        )
        raise UserError(
            f"{export} was trained with other SIDs of {len(moved)} of {len(pairs)} items, such as {moved[0][0]!r} with "
            f"{moved[0][1]}, now {moved[0][2]}; {way_out}"
        )


def _folder_of(place: pathlib.Path) -> Dataset:
    """The dataset folder that a run learned from.

    Raises:
      UserError: it has changed since, or is gone.
    """
    settings = load_saved(place)
    recorded = json.loads((place / "config.json").read_text(encoding="utf-8"))["data_hash"]
    made = place / "dataset"
    folder = made if made.is_dir() else source_folder(settings, place)
    dataset = read_dataset(folder, settings.dataset.name, settings.dataset) if folder.is_dir() else None
    if dataset is None or dataset.data_hash != recorded:
        fault = f"is not what {place} learned from" if dataset else f"is gone, from which {place} learned"
        raise UserError(
            f"{folder} {fault}, so nobody knows which rows are new; put it back and give the grown folder another "
            f"place, or set {KEY}={place / 'export'}, which compares on all rows"
        )
    return dataset


def _new_rows(dataset: Dataset, known: np.ndarray) -> dict[str, np.ndarray]:
    """bool, for each split: the rows that are new. If n known rows have the same user and target, the first n such rows
    of the dataset are the known ones.

    Histories cannot decide this: if they are cut to a length, an item that joins or leaves the catalogue changes both
    ends of the histories of old rows.

    Args:
      dataset: its rows are in order of time, at least the rows with the same user and item.
      known: uint64, `_pairs` of the known rows.
    """
    splits = {split: dataset.splits[split] for split in IN_TIME if split in dataset.splits}
    pairs = np.concatenate([_pairs(rows, dataset.catalogue.items) for rows in splits.values()])
    order = np.argsort(pairs, kind="stable")
    ordered, known = pairs[order], np.sort(known)
    before = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)  # earlier rows with the same user and target
    new = np.empty(len(pairs), bool)
    new[order] = before >= np.searchsorted(known, ordered, "right") - np.searchsorted(known, ordered)
    ends = np.cumsum([len(rows) for rows in splits.values()])[:-1]
    return dict(zip(splits, np.split(new, ends), strict=True))


def _pairs(rows: Interactions, items: Sequence[Item]) -> np.ndarray:
    """uint64, a hash of the user and the target of each row, by ids."""

    def digest(user: str, target: int) -> bytes:
        name = f"{user}\0{items[target].id}"
        return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()

    return np.frombuffer(b"".join(map(digest, rows.users, rows.targets.tolist())), np.uint64)
