"""The stages `download` and `prepare`: turn raw data into `prepared/` in the workdir, with texts and interactions."""

from __future__ import annotations

import json
import pathlib
from typing import TYPE_CHECKING, Any

from tsrec_jax.errors import UserError
from tsrec_jax.files import write_json
from tsrec_jax.prepare.settings import PrepareSettings, columns_of
from tsrec_jax.progress import report, stage
from tsrec_jax.settings import section_facts
from tsrec_jax.training.checkpoints import refuse_differences

if TYPE_CHECKING:
    from tsrec_jax.prepare.places import Hashed
    from tsrec_jax.prepare.raw import RawSource

PREPARED = "prepared.json"  # in the workdir: what `prepared/` was made with
FILES = ("interactions_file", "items_file")
HASHED, NAMED = "hashed", "named"  # in PREPARED, in addition to the settings: the raw files as they were found
_SHOWN = 5  # raw files listed in a message
LIMITS = ("max_unreadable", "max_unmatched")  # their values do not change how data that they allow is prepared


def prepared_folder(settings: PrepareSettings, path: pathlib.Path) -> pathlib.Path:
    """The stage `prepare`: `prepared/` in the workdir, made from the raw data once.

    Once the folder is finished, raw files are read again only if their size or modification time has changed, and all
    the files of a setting may be gone.

    Raises:
      UserError: no source is named, raw files are missing or broken, no data is left, or the folder was made
        differently or in a way that nobody knows.
    """
    from tsrec_jax.prepare.places import find_files, version_of
    from tsrec_jax.prepare.preparation import prepare  # imports polars, which nothing else needs
    from tsrec_jax.prepare.raw import RawSource
    from tsrec_jax.prepare.summary import summary_tables

    if not settings.source:
        raise UserError("config.prepare.source is empty; set amazon2018, amazon2023 or tables")
    named = FILES if settings.source == "tables" or settings.interactions_file else ()
    for key in named:
        if not getattr(settings, key):
            raise UserError(f"config.prepare.{key} is empty; name a CSV or Parquet file")
    folder, names = path / "prepared", {key: getattr(settings, key) for key in named}
    kept = _read_kept(path / PREPARED, folder) if folder.exists() else {}
    hashed_before, names_before = kept.pop(HASHED, {}), kept.pop(NAMED, {})
    hashed = dict(hashed_before)
    identity, files = section_facts(settings, (*named, "base_url", *LIMITS)), {}
    for key, name in names.items():
        fact = f"SHA-256 of prepare.{key}"
        try:
            files[key] = find_files(name, f"config.prepare.{key}")
            identity[fact] = version_of(files[key], hashed)
        except UserError as error:
            if names_before.get(key) != name:  # nothing was made from them, or the settings now name another place
                raise
            identity[fact] = kept[fact]
            report(f"prepare: not compared with what {folder} was made of: {error}")
    if folder.exists():
        here = {file: hashed[file] for each in files.values() for file in each if file in hashed}
        all_here = len(files) == len(names)
        refuse_differences(folder, kept, identity, _changes(hashed_before, here) if all_here else "")
        if all_here and (hashed_before, names_before) != (here, names):  # so that nothing is read again next time
            write_json(path / PREPARED, {**kept, NAMED: names, HASHED: here})
        report("prepare: finished before, skipped")
        return folder
    if files:
        interactions, items = (files[key] for key in FILES)
        columns = columns_of(settings.columns)
        source = RawSource(settings.source, interactions, items, columns, settings.encoding)
    else:
        source = download_raw(settings)
    write_json(path / PREPARED, {**identity, NAMED: names, HASHED: hashed})
    name = settings.name or settings.category or "data"
    with stage("prepare"):
        summary = prepare(source, settings, name, folder)
    report(f"\n{summary_tables(summary)}\n")
    return folder


def _read_kept(place: pathlib.Path, folder: pathlib.Path) -> dict[str, Any]:
    try:
        kept = json.loads(place.read_text(encoding="utf-8"))
        if not isinstance(kept, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{place} cannot be read ({error}), so nobody knows what {folder} was made of; give a new --workdir"
        ) from None
    return kept


def _changes(before: Hashed, now: Hashed) -> str:
    """Which raw files on this machine are new, gone or changed, as the end of a message; empty if nothing is known."""
    if not before:
        return ""
    changes = {
        "new": now.keys() - before.keys(),
        "gone": before.keys() - now.keys(),
        "changed": {file for file in now.keys() & before.keys() if now[file][2] != before[file][2]},
    }
    listed = [f"{file} ({what})" for what, files in changes.items() for file in sorted(files)]
    more = f" and {len(listed) - _SHOWN:,} more" if len(listed) > _SHOWN else ""
    return f". Raw files: {', '.join(listed[:_SHOWN])}{more}" if listed else ""


def download_raw(settings: PrepareSettings) -> RawSource:
    """The raw files of an Amazon category; files that are already in the folder are checked and not fetched.

    Raises:
      UserError: the source is not one of Amazon's, the settings name no category or folder, or the files cannot be
        fetched; the message says from where and to where they can be copied by hand.
    """
    from tsrec_jax.prepare.download import download  # imports polars

    if not settings.source.startswith("amazon"):
        raise UserError(f"config.prepare.source={settings.source!r}: only amazon2018 and amazon2023 can be downloaded")
    for key in ("category", "raw"):
        if not getattr(settings, key):
            raise UserError(f"config.prepare.{key} is empty; {settings.source} needs it")
    return download(settings.source, settings.category, settings.raw, base_url=settings.base_url)
