"""The verb `code`: SIDs for the items of a file, from the codebooks of an export. The catalogue is not changed."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tsrec_jax.data.catalogue import SHOWN_FACTS, Item, shown_facts
from tsrec_jax.data.faults import Faults
from tsrec_jax.data.folder_files import parse_items
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.errors import UserError
from tsrec_jax.files import write_text
from tsrec_jax.progress import report
from tsrec_jax.serving.catalogue_changes import Changes
from tsrec_jax.serving.codebooks import NO_CODEBOOKS, read_codebooks
from tsrec_jax.serving.coder import Coder
from tsrec_jax.serving.export_files import read_catalogue, verified
from tsrec_jax.serving.live_catalogue import LiveCatalogue

_READ = ("id", "title", "description", "brand", "categories", "image")  # columns of a CSV file
_WRITTEN = ("id", "title", "sid", *SHOWN_FACTS)
_WEIGHTS = ".safetensors"


@dataclasses.dataclass(frozen=True)
class Command:
    """What the command line says.

    Attributes:
      folder: the export.
      changes: file with the changes of its catalogue; it need not exist.
      items: CSV, or JSON like a dataset's NAME.item.json.
      out: receives CSV that `catalogue import` reads, or JSON lines with everything known about each coding.
      encoder: as in `Recommender.load`.
    """

    folder: pathlib.Path
    changes: pathlib.Path
    items: pathlib.Path
    out: pathlib.Path
    encoder: str | None = None


def run(command: Command) -> None:
    """Codes the items; an item of the catalogue keeps its SID, and no two new ones get the same while codes are free.

    Raises:
      UserError: the file or the export cannot be used; nothing is written then.
    """
    if command.out.suffix not in (".csv", ".jsonl"):
        raise UserError(f"{command.out}: must end with .csv or .jsonl")
    items = _read(command.items)
    catalogue, coder = _open(command)
    new = [item for item in items if catalogue.get(item.id) is None]
    x_NK = coder.vectors(new) if new else np.zeros((0, 0), np.float32)
    coder.put_new(new, x_NK)
    shared = sum(len(catalogue.sids.ids(codes)) > 1 for codes in catalogue.codes(item.id for item in new).tolist())
    rows = [
        {"id": item.id, "title": item.title, **shown_facts(item), "sid": catalogue.item(item.id).sid} for item in items
    ]
    if command.out.suffix == ".csv":
        text = _table(rows)
    else:
        vectors = dict(zip((item.id for item in new), x_NK, strict=True))
        text = _lines(
            row | dataclasses.asdict(coder.coding(row["id"], vectors[row["id"]], row["sid"]))
            if row["id"] in vectors
            else row
            for row in rows
        )
    write_text(command.out, text)
    said = f", {shared} of them with a SID that another item has too" if shared else ""
    report(f"code: {len(new)} items coded{said}, {len(items) - len(new)} known; see {command.out}")


def _open(command: Command) -> tuple[LiveCatalogue, Coder]:
    """The catalogue as it is now, in memory, where new items are added to the existing ones; and its coder."""
    folder = command.folder
    if not folder.is_dir():
        raise UserError(f"{folder}: not there; run the verb `export` (or `run`) first, or give --export=FOLDER")
    weights = tuple(path.name for path in folder.iterdir() if path.name.endswith(_WEIGHTS))
    with verified(folder, but=weights):  # weights are not read
        exported = read_catalogue(folder)
        codebooks = read_codebooks(folder, [len(tokens) for tokens in exported.level_tokens], command.encoder)
    if codebooks is None:
        raise UserError(f"{folder}: {NO_CODEBOOKS}")
    now, copy = (
        LiveCatalogue(exported, Trie.of_catalogue(exported, 0), changes) for changes in (Changes(command.changes), None)
    )
    copy.put_all(item for item in now.items() if item != copy.get(item.id))
    copy.remove_all([item.id for item in copy.items() if now.get(item.id) is None])
    return copy, Coder(codebooks, copy)


def _read(path: pathlib.Path) -> Sequence[Item]:
    """The items of a file.

    Raises:
      UserError: it cannot be read, or an item does not have the form of one in a dataset.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start})") from None
    if path.suffix == ".csv":
        text = json.dumps(_of_table(path, text))
    faults = Faults()
    items = parse_items(path, text, faults)
    faults.stop_if_any()
    return items


def _of_table(path: pathlib.Path, text: str) -> dict[str, dict[str, str]]:
    """A CSV file as the contents of a NAME.item.json."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    found: dict[str, dict[str, str]] = {}
    try:
        columns = reader.fieldnames or []
        if not {"id", "title"} <= set(columns) <= set(_READ):
            raise UserError(f"{path}: its first line must name the columns id, title and, of the others, {_READ[2:]}")
        for row in reader:
            if None in row or None in row.values():
                raise UserError(f"{path}, line {reader.line_num}: not as many cells as columns")
            item_id = row.pop("id")
            if not item_id or item_id in found:
                raise UserError(f"{path}, line {reader.line_num}: the id {item_id!r} is empty or stands twice")
            found[item_id] = row
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not CSV ({error})") from None
    return found


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _table(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _WRITTEN, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "sid": "".join(row["sid"])} for row in rows)
    return text.getvalue()
