"""Settings of training."""

from __future__ import annotations

import dataclasses
from typing import Literal

from tsrec_jax.errors import UserError
from tsrec_jax.section import Section, setting


@dataclasses.dataclass(frozen=True)
class TrainSettings(Section, key="train"):
    """Training (docs/training.md)."""

    max_steps: int = setting(0, "optimiser steps; 0: from `epochs`", least=0)
    epochs: float = setting(6.0, "passes over the rows of the tasks", least=0)
    batch_tokens: int = setting(1024, "token slots of one optimiser step, over all devices and accumulation", above=0)
    sequence_length: int = setting(256, "of a packed row, in tokens, and so of the longest example", above=0)
    rows_per_group: int = setting(
        4, "packed rows that share their loss slots: more waste fewer; data x fsdp must divide their groups", above=0
    )
    accumulation: int = setting(1, "micro-batches of a step", above=0)
    learning_rate: float = setting(1e-3, "peak rate of AdamW", above=0)
    schedule: Literal["linear", "cosine", "constant"] = setting("linear", "decay to 0 after the warm-up, or none")
    warmup_steps: int = setting(20, "of a linear warm-up from 0", least=0)
    weight_decay: float = setting(0.0, "decoupled, on matrices", least=0)
    clip_norm: float = setting(1.0, "largest global norm of the gradient; 0: no clipping", least=0)
    freeze: Literal["none", "pretrained_rows", "trunk"] = setting(
        "none", "what keeps its pretrained values: the rows of the old vocabulary, or all but the SID tokens' rows"
    )
    loss_normalisation: Literal["token", "task"] = setting("token", "mean over all loss tokens, or of each task's mean")
    loss_chunk: int = setting(0, "loss slots of a group whose logits are held at once; 0: all", least=0)
    validations: int = setting(3, "validations over the whole run; 0: one after the last step", least=0)
    patience: int = setting(0, "validations without improvement after which training stops; 0: never", least=0)
    select_by: Literal["loss", "hr@10"] = setting("hr@10", "what the best weights are best in, on the selection split")
    held_out: float = setting(
        0.0, "share of train's users whose rows are the selection split, instead of valid", least=0, most=1
    )
    valid_rows: int = setting(0, "rows of the selection split for its loss, spread over it; 0: all", least=0)
    valid_beam_rows: int = setting(2048, "the same for HR@10; 0: none", least=0)
    checkpoint_every: int = setting(200, "steps between two states for resuming; 0: only the last", least=0)
    keep: int = setting(
        2, "saved states to keep for resuming; if the newest is damaged, the one before it is used", least=2
    )
    explode_factor: float = setting(
        10.0, "a loss this many times the usual one, three times in a row, stops training; 0: never", least=0
    )
    log_every: int = setting(10, "steps between two rows of metrics", above=0)
    wandb_project: str = setting("", "sends the metrics to Weights & Biases too (extra `wandb`); empty: does not")

    def __post_init__(self) -> None:
        super().__post_init__()
        unit = self.sequence_length * self.accumulation
        if self.batch_tokens % unit:
            raise UserError(
                f"config.train.batch_tokens={self.batch_tokens} is not a multiple of "
                f"sequence_length x accumulation = {unit}; try {max(self.batch_tokens // unit, 1) * unit}"
            )
        if self.max_steps == 0 and self.epochs == 0:
            raise UserError("config.train.max_steps and config.train.epochs are both 0: nothing would be trained")
        if self.select_by == "hr@10" and self.valid_beam_rows == 0:
            raise UserError("config.train.select_by='hr@10' needs config.train.valid_beam_rows above 0")

    @property
    def rows_per_microbatch(self) -> int:
        """Packed rows of a micro-batch, over all devices."""
        return self.batch_tokens // (self.sequence_length * self.accumulation)
