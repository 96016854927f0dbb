"""What a run leaves in its folder: one JSON file a part, one page of tables, one log; each cell the moment it ends."""

from __future__ import annotations

import datetime
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from benchmarks.device.cells import PARTS
from benchmarks.device.tables import page
from tsrec_jax.errors import UserError
from tsrec_jax.files import write_json, write_text

DONE, FAILED, CUT = "done", "failed", "cut off"
TABLES, LOG = "tables.md", "log.txt"


class Store:
    """Cells in files, found again by the next run."""

    def __init__(self, folder: pathlib.Path, about: Mapping[str, Any]):
        self.folder = folder
        self._about = dict(about)
        self._parts = {part: self._read(part) for part in PARTS}

    def _read(self, part: str) -> dict[str, Any]:
        path = self.folder / f"{part}.json"
        if not path.exists():
            return {"part": part, "runs": [], "cells": {}}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            found["cells"].items()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not what this program wrote ({error}); give another --out") from None
        if any(run["tiny"] != self._about["tiny"] for run in found["runs"]):
            raise UserError(f"{path}: of a run with{'out' if self._about['tiny'] else ''} --tiny; give another --out")
        return found

    def status(self, part: str, key: str) -> str:
        """Of a cell; empty where it was never begun."""
        return self._parts[part]["cells"].get(key, {}).get("status", "")

    def facts(self, part: str, key: str) -> dict[str, Any] | None:
        """What a finished cell found."""
        cell = self._parts[part]["cells"].get(key, {})
        return cell["facts"] if cell.get("status") == DONE else None

    def seconds(self, part: str) -> list[tuple[str, float]]:
        """(key, seconds without the start of its process) of the finished cells of a part."""
        cells = self._parts[part]["cells"].items()
        return [(key, cell["seconds"]) for key, cell in cells if cell["status"] == DONE]

    def add(self, part: str, key: str, cell: Mapping[str, Any]) -> None:
        """Keeps a cell, and writes its part and the tables."""
        kept = self._parts[part]
        if self._about not in kept["runs"]:
            kept["runs"].append(self._about)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        kept["cells"][key] = {**cell, "ended": now, "run": kept["runs"].index(self._about)}
        write_json(self.folder / f"{part}.json", kept)
        write_text(self.folder / TABLES, page({name: found["cells"] for name, found in self._parts.items()}))
