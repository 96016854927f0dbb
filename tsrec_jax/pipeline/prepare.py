"""The stages `download` and `prepare`: raw data to a folder of texts and interactions, `prepared/` in the workdir."""

from __future__ import annotations

import json
import pathlib
from typing import TYPE_CHECKING

from tsrec_jax.errors import UserError
from tsrec_jax.files import write_json
from tsrec_jax.pipeline.provenance import input_facts
from tsrec_jax.prepare.settings import PrepareSettings, columns_of
from tsrec_jax.progress import report, stage
from tsrec_jax.training.checkpoints import refuse_differences

if TYPE_CHECKING:
    from tsrec_jax.prepare.raw import RawSource

PREPARED = "prepared.json"  # in the workdir: what `prepared/` was made with
LIMITS = ("max_unreadable", "max_unmatched")  # what they allow is made alike with any value of them


def prepared_folder(settings: PrepareSettings, path: pathlib.Path) -> pathlib.Path:
    """The stage `prepare`: `prepared/` in the workdir, made of the raw data once.

    Raises:
      UserError: no source is named, raw files are missing or broken, nothing is left, or it was made otherwise.
    """
    from tsrec_jax.prepare.preparation import prepare  # with polars, which nothing else needs
    from tsrec_jax.prepare.raw import RawSource
    from tsrec_jax.prepare.summary import summary_tables

    if not settings.source:
        raise UserError("config.prepare.source is empty; set amazon2018, amazon2023 or tables")
    tables = ("interactions_file", "items_file") if settings.source == "tables" else ()
    folder, identity = path / "prepared", input_facts(settings, tables, ("base_url", *LIMITS))
    if folder.exists():
        refuse_differences(folder, json.loads((path / PREPARED).read_text(encoding="utf-8")), identity)
        report("prepare: finished before, skipped")
        return folder
    if settings.source == "tables":
        for key in tables:
            if not getattr(settings, key):
                raise UserError(f"config.prepare.{key} is empty; name a CSV or Parquet file")
        columns = columns_of(settings.columns)
        source = RawSource("tables", settings.interactions_file, settings.items_file, columns, settings.encoding)
    else:
        source = download_raw(settings)
    write_json(path / PREPARED, identity)
    name = settings.name or settings.category or "data"
    with stage("prepare"):
        summary = prepare(source, settings, name, folder)
    report(f"\n{summary_tables(summary)}\n")
    return folder


def download_raw(settings: PrepareSettings) -> RawSource:
    """The raw files of an Amazon category; those that are in the folder already are checked and not fetched.

    Raises:
      UserError: the settings name no category or folder, or the files cannot be had; the message says where from and
        where to they can be brought by hand.
    """
    from tsrec_jax.prepare.download import download  # with polars

    if not settings.source.startswith("amazon"):
        raise UserError(f"config.prepare.source={settings.source!r}: only amazon2018 and amazon2023 can be downloaded")
    for key in ("category", "raw"):
        if not getattr(settings, key):
            raise UserError(f"config.prepare.{key} is empty; {settings.source} needs it")
    return download(settings.source, settings.category, settings.raw, base_url=settings.base_url)
