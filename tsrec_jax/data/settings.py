"""Settings of the dataset folder."""

from __future__ import annotations

import dataclasses
from typing import Literal

from tsrec_jax.section import Section, setting


@dataclasses.dataclass(frozen=True)
class DatasetSettings(Section, key="dataset"):
    """The dataset folder (docs/dataset.md)."""

    path: str = setting("", "the dataset folder; empty: what `prepare` makes, or the embedded shop")
    name: str = setting("", "NAME of NAME.item.json; empty: the one found in the folder")
    overlaps: Literal["warn", "refuse"] = setting("warn", "what to do with rows that stand in two splits")
    ragged_sids: Literal["refuse", "fill", "drop"] = setting(
        "refuse", "what to do with given SIDs of which some have one token more, to tell equal ones apart"
    )
