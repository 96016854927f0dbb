"""Settings of the exported folder."""

from __future__ import annotations

import dataclasses
from typing import Literal

from tsrec_jax.section import Section, setting


@dataclasses.dataclass(frozen=True)
class ExportSettings(Section, key="export"):
    """The exported folder (docs/serving.md)."""

    dtype: Literal["float32", "bfloat16"] = setting("float32", "of its weights")
