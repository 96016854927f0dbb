"""Settings of the fusion."""

from __future__ import annotations

import dataclasses

from tsrec_jax.baselines.names import BASELINES
from tsrec_jax.errors import UserError
from tsrec_jax.section import Section, setting

DENSE = "dense"
SEEN = "seen"
TABLES = (*(name for name, row in BASELINES.items() if row.tables), SEEN)  # the parts that need no model


@dataclasses.dataclass(frozen=True)
class FusionSettings(Section, key="fusion"):
    """Other recommenders whose scores the search adds to the model's ([how](decoding.md#fusion))."""

    parts: tuple[str, ...] = setting(
        (),
        f"baselines that can be exported, `{SEEN}` (what the history holds already) and the model's own `{DENSE}` "
        "head; empty: the model alone",
        choices=(*TABLES, DENSE),
    )
    model: bool = setting(
        True,
        "whether the language model takes part; without it nothing is trained, and `evaluate`, `export`, `recommend` "
        "and `serve` work on the parts alone",
    )
    rows: int = setting(
        0,
        "rows of the selection split, spread over it, that the weights are fitted on, which the model searches twice "
        "and scores once; 0: all",
        least=0,
    )
    l2: float = setting(1.0, "penalty on the squared weights, as if it were spread over the rows", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.parts)) < len(self.parts):
            raise UserError(f"config.fusion.parts={self.parts}: a part stands twice")
        if not self.model and (not self.parts or DENSE in self.parts):
            raise UserError(
                "config.fusion.model=False needs config.fusion.parts of baselines alone, such as ('hybrid',); "
                f"the {DENSE} head is the model's"
            )
