"""Settings of training."""

from __future__ import annotations

import dataclasses
from typing import Literal

from tsrec_jax.errors import UserError
from tsrec_jax.models.settings import AdapterSettings
from tsrec_jax.section import Section, section, setting


@dataclasses.dataclass(frozen=True)
class TrainSettings(Section, key="train"):
    """Training (docs/training.md)."""

    from_run: str = setting(
        "",
        "workdir of a finished run, or its export, that this run goes on from: its model takes the place of "
        "`model.path`, its items keep their SIDs, and its codebooks code the others; empty: none",
    )
    max_steps: int = setting(0, "number of optimiser steps; 0: as many as `epochs` takes", least=0)
    epochs: float = setting(6.0, "number of passes over the examples of the tasks", least=0)
    batch_tokens: int = setting(
        1024,
        "token slots per optimiser step, over all devices: a multiple of sequence_length x accumulation x "
        "rows_per_group x mesh.data x mesh.fsdp; the default fits one device",
        above=0,
    )
    sequence_length: int = setting(256, "length of a packed row in tokens, and so of the longest example", above=0)
    rows_per_group: int = setting(
        4, "packed rows that share their loss slots; larger groups waste fewer of them", above=0
    )
    accumulation: int = setting(1, "micro-batches per optimiser step", above=0)
    learning_rate: float = setting(1e-3, "peak learning rate of AdamW", above=0)
    schedule: Literal["linear", "cosine", "constant"] = setting(
        "linear", "learning rate after the warm-up: decays to 0 linearly or as a cosine, or stays constant"
    )
    warmup_steps: int = setting(20, "steps of linear warm-up from 0", least=0)
    weight_decay: float = setting(0.0, "decoupled weight decay, applied to matrices only", least=0)
    moments: Literal["float32", "bfloat16"] = setting(
        "float32", "data type of AdamW's moments; `bfloat16` halves their memory and rounds them stochastically"
    )
    dropout: float = setting(
        0.0,
        "share of the embeddings, and of what each layer adds to them, that training drops at random",
        least=0,
        most=0.9,
    )
    clip_norm: float = setting(
        1.0, "largest global norm of the gradient, which is scaled down to it; 0: no clipping", least=0
    )
    freeze: Literal["none", "pretrained_rows", "trunk"] = setting(
        "none",
        "what keeps its pretrained values: nothing (`none`), the rows of the pretrained vocabulary "
        "(`pretrained_rows`), or everything but the rows of the SID tokens (`trunk`), to which adapters may be added",
    )
    adapter: AdapterSettings = section(AdapterSettings)
    loss_normalisation: Literal["token", "task"] = setting(
        "token", "mean over all loss tokens (`token`), or over those of each task by itself (`task`)"
    )
    loss_chunk: int = setting(
        0,
        "loss slots of a group, and items that a dense head learns there, whose logits are in memory at the same time; "
        "0: all",
        least=0,
    )
    validations: int = setting(3, "number of validations over the whole run; 0: one, after the last step", least=0)
    patience: int = setting(
        0, "number of validations without improvement after which training stops; 0: it never does", least=0
    )
    select_by: Literal["loss", "hr@10", "dense_hr@10"] = setting(
        "hr@10",
        "measure on the selection split by which the best weights are chosen: the loss of next-SID rows, HR@10 of the "
        "model's own search, or that of its dense head by itself",
    )
    held_out: float = setting(
        0.0, "share of train's users held out as the selection split, in place of valid; 0: none", least=0, most=1
    )
    valid_rows: int = setting(
        0,
        "rows of the selection split used for its loss, at each validation and before the first step, and for the "
        "loss and HR@10 of a dense head, evenly spread; 0: all",
        least=0,
    )
    valid_beam_rows: int = setting(
        2048, "rows of the selection split used for its HR@10, evenly spread; 0: none", least=0
    )
    checkpoint_every: int = setting(200, "steps between checkpoints for resuming; 0: one, after the last step", least=0)
    keep: int = setting(
        2, "number of checkpoints to keep for resuming; if the newest is damaged, the one before it is used", least=2
    )
    explode_factor: float = setting(
        10.0, "training stops when the loss is this many times its usual value, three times in a row; 0: never", least=0
    )
    log_every: int = setting(10, "steps between two rows of metrics", above=0)
    wandb_project: str = setting(
        "", "Weights & Biases project that receives the metrics too (extra `wandb`); empty: none"
    )

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
        if self.adapter.rank and self.freeze != "trunk":
            raise UserError(
                f"config.train.adapter.rank={self.adapter.rank} trains adapters in the place of the kernels: set "
                f"config.train.freeze='trunk', which is {self.freeze!r}"
            )
        if self.select_by == "hr@10" and self.valid_beam_rows == 0:
            raise UserError("config.train.select_by='hr@10' needs config.train.valid_beam_rows above 0")

    @property
    def rows_per_microbatch(self) -> int:
        """Packed rows of a micro-batch, over all devices."""
        return self.batch_tokens // (self.sequence_length * self.accumulation)
