"""Settings of the dataset folder."""

from __future__ import annotations

import dataclasses
from typing import Literal

from tsrec_jax.section import Section, setting


@dataclasses.dataclass(frozen=True)
class DatasetSettings(Section, key="dataset"):
    """The dataset folder (docs/dataset.md)."""

    path: str = setting(
        "",
        "dataset folder; empty: the folder that `prepare` makes, or the embedded shop where `prepare.source` is "
        "empty too",
    )
    name: str = setting("", "NAME in the names of the folder's files, as in NAME.item.json; empty: found in the folder")
    overlaps: Literal["warn", "refuse"] = setting(
        "warn", "what happens when a row occurs in two splits: a warning, or an error"
    )
    ragged_sids: Literal["refuse", "fill", "drop"] = setting(
        "refuse",
        "what happens when some SIDs have one token more than the others, to tell equal ones apart: an error "
        "(`refuse`), the others get such a token too (`fill`), or that token is dropped (`drop`)",
    )
