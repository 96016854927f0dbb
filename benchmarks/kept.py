"""Measurements that are kept as they are made, so that a benchmark that was cut off goes on."""

from __future__ import annotations

import gc
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax

from tsrec_jax.files import write_json
from tsrec_jax.pipeline.provenance import fingerprint


def say(line: str) -> None:
    """Progress, beside the report on stdout."""
    print(line, file=sys.stderr, flush=True)


class Kept:
    """Measurements in separate files, found again by the inputs they were made from."""

    def __init__(self, folder: pathlib.Path, facts: dict[str, Any], fresh: bool):
        self.folder, self.facts, self.fresh = folder, facts, fresh

    def get(self, name: str, inputs: dict[str, Any], make: Callable[[], Any]) -> Any:
        """What was measured under this name from the same inputs, or what `make` measures now."""
        path = self.folder / f"{name.replace('/', '_')}.json"
        mark = fingerprint({**self.facts, **inputs})
        if path.exists() and not self.fresh:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["inputs"] == mark:
                say(f"{name}: kept from {path}")
                return kept["facts"]
        say(f"{name}: measuring")
        facts = make()
        write_json(path, {"inputs": mark, "facts": facts})
        jax.clear_caches()
        gc.collect()
        return facts
