"""Finished levels of a fit on disk, so that a killed run continues with the next one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from tsrec_jax.files import write_npz

Level = tuple[np.ndarray, np.ndarray]  # float32 codebook_ED, int32 codes_I


@dataclasses.dataclass(frozen=True)
class LevelStore:
    """The levels in one file, which only the same fit can use.

    Attributes:
      path: path of the file.
      fit: identifies what is fitted and how; levels of another fit are ignored.
    """

    path: pathlib.Path
    fit: str

    @classmethod
    def of(cls, path: pathlib.Path, facts: Sequence[Any], x_ID: np.ndarray) -> LevelStore:
        """The store for a fit of some embeddings; `facts`, JSON values, are everything else that decides the levels."""
        digest = hashlib.sha256(json.dumps([*facts, str(x_ID.dtype), x_ID.shape]).encode())
        digest.update(np.ascontiguousarray(x_ID).data)
        return cls(path, digest.hexdigest())

    def read(self) -> list[Level]:
        """The levels of an earlier run, from the first; empty if there is no file, or only one of another fit."""
        try:
            with self.path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                if str(file["fit"]) != self.fit:
                    return []
                return [(file[f"codebook_{level}"], file[f"codes_{level}"]) for level in range(int(file["levels"]))]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return []

    def write(self, levels: Sequence[Level]) -> None:
        """Replaces the file with these levels; it appears only when it is complete."""
        arrays: dict[str, np.ndarray] = {}
        for level, (codebook_ED, codes_I) in enumerate(levels):
            arrays |= {f"codebook_{level}": codebook_ED, f"codes_{level}": codes_I}
        write_npz(self.path, {"fit": np.array(self.fit), "levels": np.array(len(levels)), **arrays})
