"""Settings of the evaluation."""

from __future__ import annotations

import dataclasses
from typing import Literal

from tsrec_jax.section import Section, setting

COMPARED_AT = 10  # number of places of a ranking


@dataclasses.dataclass(frozen=True)
class EvalSettings(Section, key="eval"):
    """The evaluation."""

    split: Literal["test", "valid"] = setting(
        "test", "split to evaluate; where a folder has no test split, valid is used and the report says so"
    )
    beams: int = setting(
        20,
        "number of beams, and so of recommended items; at least 10, because reports compare NDCG@10",
        least=COMPARED_AT,
    )
    weights: Literal["full", "int8"] = setting(
        "full",
        "how the model's matrices are held while it is evaluated: in `model.dtype` (`full`), or in eight bits with a "
        "scale for each row (`int8`), as `serve --weights=int8` has them (docs/decoding.md)",
    )
    batch_size: int = setting(32, "number of histories searched together", above=0)
    max_rows: int = setting(0, "rows of the split to evaluate, evenly spread; 0: all", least=0)
    bootstrap: int = setting(1000, "number of resamples behind the 95 % intervals", least=2)
