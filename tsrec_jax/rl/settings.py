"""Settings of the second stage."""

from __future__ import annotations

import dataclasses

from tsrec_jax.baselines.names import BASELINES
from tsrec_jax.errors import UserError
from tsrec_jax.fusion.settings import SEEN, TABLES
from tsrec_jax.rl.names import OBJECTIVES, REWARDS
from tsrec_jax.section import Section, setting

FUSION = "fusion"  # the teacher that several baselines are together


@dataclasses.dataclass(frozen=True)
class RlSettings(Section, key="rl"):
    """The second stage, which goes on from the best weights of training ([what it does](rl.md))."""

    steps: int = setting(0, "optimiser steps of the second stage; 0: there is none", least=0)
    objective: str = setting(
        "utility", "what is minimised; `sft`, the loss of the target, is the control", choices=OBJECTIVES
    )
    reward: str = setting("teacher", "what a recommended SID is worth; `random` is a control", choices=REWARDS)
    group: int = setting(32, "SIDs that the search proposes for each prompt", least=2)
    sampled: bool = setting(
        False, "whether these are drawn without replacement by the model's probabilities, and not its best ones"
    )
    teacher: str = setting(
        "hybrid",
        f"baseline whose best items are candidates too, or `{FUSION}`, that of the teacher's parts; empty: none",
        choices=("", *BASELINES, FUSION),
    )
    teacher_parts: tuple[str, ...] = setting(
        ("transitions", "tfidf", "recent popularity", "ease", SEEN),
        f"parts of the teacher `{FUSION}`, weighed on the selection split ([how](decoding.md#fusion))",
        choices=TABLES,
    )
    teacher_items: int = setting(20, "the teacher's best items that are candidates", above=0)
    teacher_weight: float = setting(
        0.2, "what the teacher's best item is worth where the target is worth 1", least=0, most=1
    )
    kl: float = setting(0.05, "weight of the divergence from the starting model; 0: none", least=0)
    nll: float = setting(0.1, "weight of the target's loss beside the objectives `grpo` and `dpo`", least=0)
    rivals: float = setting(0.2, "weight of the pairs of target and rival in the objective `list`", least=0)
    beta: float = setting(0.5, "scale of the log-ratios in the objective `dpo`", above=0)
    negatives: int = setting(4, "rivals of each target in the objective `dpo`", above=0)
    prompts: int = setting(
        64, "prompts per optimiser step, over all devices: a multiple of accumulation x mesh.data x mesh.fsdp", above=0
    )
    accumulation: int = setting(1, "micro-batches per optimiser step", above=0)
    learning_rate: float = setting(5e-6, "peak learning rate; it stays there after the warm-up", above=0)
    warmup_steps: int = setting(10, "steps of linear warm-up from 0", least=0)
    validate_every: int = setting(20, "steps between two validations; 0: one, after the last step", least=0)
    patience: int = setting(
        3, "number of validations without improvement after which the stage stops; 0: it never does", least=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompts % self.accumulation:
            raise UserError(
                f"config.rl.prompts={self.prompts} is not a multiple of config.rl.accumulation={self.accumulation}"
            )
        parts = self.teacher_parts
        if self.teacher == FUSION and not 0 < len(parts) == len(set(parts)):
            raise UserError(
                f"config.rl.teacher_parts={parts}: the teacher {FUSION!r} needs one or more, and none of them twice"
            )
        if REWARDS[self.reward].teacher and not self.teacher:
            raise UserError(
                f"config.rl.reward={self.reward!r} needs config.rl.teacher, {FUSION!r} or one of {', '.join(BASELINES)}"
            )

    @property
    def compares(self) -> bool:
        """Whether the loss reads other SIDs than the target's; if not, nothing is searched and no teacher is asked."""
        return self.kl > 0 or OBJECTIVES[self.objective].candidates

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of all that the teacher is made of; empty where none is asked."""
        if not self.teacher or not self.compares:
            return ()
        return self.teacher_parts if self.teacher == FUSION else (self.teacher,)

    @property
    def keeps_reference(self) -> bool:
        """Whether the starting model is kept beside the one that learns."""
        return self.kl > 0 or OBJECTIVES[self.objective].reference

    @property
    def candidates(self) -> int:
        """Places for SIDs that are compared for each prompt, the target's included."""
        return 1 + (self.group if self.compares else 0) + (self.teacher_items if self.teachers else 0)
