"""Settings of the model: where it comes from, how it computes, the mesh, and the rows of the SID tokens."""

from __future__ import annotations

import dataclasses
from typing import Literal

from tsrec_jax.errors import UserError
from tsrec_jax.section import Section, setting


@dataclasses.dataclass(frozen=True)
class ModelSettings(Section, key="model"):
    """The pretrained language model."""

    path: str = setting(
        "", "HF folder, hub id, .gguf file or `smollm2`; empty: the run pretrains a small one on the item texts"
    )
    num_layers: int = setting(0, "keep the first n layers; 0: all", least=0)
    random: bool = setting(False, "weights of that shape drawn anew: nothing of the pretraining but the tokenizer")
    dtype: Literal["float32", "bfloat16"] = setting(
        "float32", "compute type; parameters and moments stay float32 in training"
    )
    remat: bool = setting(True, "recompute a layer's activations in the backward pass")
    attention: Literal["auto", "xla", "cudnn", "splash", "pallas"] = setting(
        "auto", "what computes attention (docs/training.md)"
    )


@dataclasses.dataclass(frozen=True)
class PretrainSettings(Section, key="pretrain"):
    """The small language model of the embedded default, where `model.path` is empty."""

    vocab_size: int = setting(1500, "tokens of its tokenizer", above=0)
    max_steps: int = setting(300, "optimiser steps", above=0)
    batch_tokens: int = setting(4096, "token slots of a step", above=0)
    sequence_length: int = setting(128, "of a row, in tokens", above=0)
    learning_rate: float = setting(2e-3, "peak rate", above=0)


@dataclasses.dataclass(frozen=True)
class MeshSettings(Section, key="mesh"):
    """Devices along each axis of the mesh; one axis may be -1: the devices that are left."""

    data: int = setting(-1, "the batch is split")
    fsdp: int = setting(1, "the batch and the parameters are split")
    tensor: int = setting(1, "heads and hidden units are split")

    def __post_init__(self) -> None:
        super().__post_init__()
        for axis, size in dataclasses.asdict(self).items():
            if size < 1 and (size != -1 or self.sizes.count(-1) > 1):
                raise UserError(
                    f"config.mesh.{axis}={size} must be above 0, or for one axis -1: the devices that are left"
                )

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Of data, fsdp and tensor."""
        return self.data, self.fsdp, self.tensor


@dataclasses.dataclass(frozen=True)
class SidInitSettings(Section, key="sid_init"):
    """How the rows of the SID tokens begin (SA-Init)."""

    mode: Literal["sa", "sa_shuffled", "mean", "hf", "normal"] = setting(
        "sa",
        "the mean of a token's keywords; the same where every token has the words of another, in TS-Align too; the "
        "mean of all rows; as transformers resizes a table; or drawn at random",
    )
    levels: tuple[int, ...] = setting(
        (), "levels, from 0, that begin by `mode`, while the others begin with the mean; empty: all", least=0
    )
    centred: bool = setting(True, "take from each row of SA-Init what all rows of its level share")
    target_norm: float = setting(1.0, "norm of a row, as a multiple of the mean row of the pretrained table", least=0)
    outputs: bool = setting(True, "untied models: the output rows begin in the same way")
    head: Literal["plain", "scaled", "own"] = setting(
        "plain",
        "what scores the SID tokens: their output rows as they are; times a learned scale of their level; or, in tied "
        "models too, output rows of their own. The last two begin with the scale of the smallest loss on train",
    )
