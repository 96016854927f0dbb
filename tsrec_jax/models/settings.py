"""Settings of the model: where it comes from, how it computes, the mesh, and the rows of the SID tokens."""

from __future__ import annotations

import dataclasses
from typing import Literal

from tsrec_jax.errors import UserError
from tsrec_jax.section import Section, setting

LAYER_KERNELS = ("q", "k", "v", "o", "gate", "up", "down")  # of a layer


@dataclasses.dataclass(frozen=True)
class ModelSettings(Section, key="model"):
    """The pretrained language model."""

    path: str = setting(
        "",
        "Hugging Face folder, hub id, .gguf file or `smollm2`; empty: the run pretrains a small model on the item"
        " texts",
    )
    trained: bool = setting(
        False,
        "whether the model at `path` writes these SIDs already, such as an export or a checkpoint of MiniOneRec's form:"
        " nothing is trained then, and the second stage, evaluation and export take it as it is",
    )
    num_layers: int = setting(0, "number of layers to keep, from the first on; 0: all", least=0)
    random: bool = setting(False, "start from random weights of the same architecture, keeping only the tokenizer")
    dtype: Literal["float32", "bfloat16"] = setting(
        "float32", "data type of the computation; in training, parameters and optimiser moments stay float32"
    )
    remat: bool = setting(True, "recompute each layer's activations in the backward pass, to save memory")
    attention: Literal["auto", "xla", "cudnn", "splash", "pallas"] = setting(
        "auto", "implementation of attention (docs/training.md)"
    )


@dataclasses.dataclass(frozen=True)
class AdapterSettings(Section, key="train.adapter"):
    """Low-rank adapters (LoRA), which are trained instead of a frozen trunk's kernels (docs/training.md)."""

    rank: int = setting(0, "rank of the change of each kernel; 0: there are no adapters", least=0)
    alpha: float = setting(32.0, "the change is multiplied by alpha / rank", above=0)
    targets: tuple[str, ...] = setting(
        LAYER_KERNELS, "kernels that have an adapter, in every layer", choices=LAYER_KERNELS
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank and (not self.targets or len(set(self.targets)) < len(self.targets)):
            raise UserError(f"config.train.adapter.targets={self.targets} must name one kernel or more, each once")


@dataclasses.dataclass(frozen=True)
class PretrainSettings(Section, key="pretrain"):
    """The small language model that a run trains on the item texts if `model.path` is empty (docs/upstream.md)."""

    vocab_size: int = setting(1500, "size of the tokenizer's vocabulary", above=0)
    hidden_size: int = setting(
        128, "model dimension, a multiple of 64; attention heads of 32 and an MLP three times as wide follow", above=0
    )
    num_layers: int = setting(4, "number of layers", above=0)
    max_steps: int = setting(300, "number of optimiser steps; 0: as many as `epochs` take", least=0)
    epochs: float = setting(5.0, "passes over the texts", least=0)
    batch_tokens: int = setting(4096, "token slots per optimiser step", above=0)
    sequence_length: int = setting(128, "length of a row, in tokens; longer texts go on in the next row", above=1)
    learning_rate: float = setting(2e-3, "peak learning rate of AdamW", above=0)
    validations: int = setting(
        0, "number of validations, of which the best weights are kept; 0: one after the last step", least=0
    )
    held_out: float = setting(
        0.0,
        "share of the items whose texts are kept for validation; 0: every 20th text, of whatever item",
        least=0,
        most=1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_size % 64:
            raise UserError(
                f"config.pretrain.hidden_size={self.hidden_size} is not a multiple of 64; try "
                f"{max(round(self.hidden_size / 64), 1) * 64}"
            )
        if self.max_steps == 0 and self.epochs == 0:
            raise UserError("config.pretrain.max_steps and config.pretrain.epochs are both 0: nothing would be learned")


@dataclasses.dataclass(frozen=True)
class MeshSettings(Section, key="mesh"):
    """Number of devices along each axis of the mesh; one axis may be -1, for all devices that are left."""

    data: int = setting(-1, "devices that split the batch")
    fsdp: int = setting(1, "devices that split both the batch and the parameters")
    tensor: int = setting(1, "devices that split the attention heads and hidden units")

    def __post_init__(self) -> None:
        super().__post_init__()
        for axis, size in dataclasses.asdict(self).items():
            if size < 1 and (size != -1 or self.sizes.count(-1) > 1):
                raise UserError(
                    f"config.mesh.{axis}={size} must be above 0, or for one axis -1: the devices that are left"
                )

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The sizes of data, fsdp and tensor."""
        return self.data, self.fsdp, self.tensor


@dataclasses.dataclass(frozen=True)
class SidInitSettings(Section, key="sid_init"):
    """How the rows of the SID tokens begin (SA-Init)."""

    mode: Literal["sa", "sa_shuffled", "mean", "hf", "normal"] = setting(
        "sa",
        "where the rows begin: at the mean of the token's keywords (`sa`); at that of another token's keywords, "
        "in TS-Align too (`sa_shuffled`); at the mean of all rows (`mean`); as transformers resizes a table "
        "(`hf`); or at random (`normal`)",
    )
    levels: tuple[int, ...] = setting(
        (),
        "levels, counted from 0, whose rows begin by `mode`, while those of the others begin at the mean of all "
        "rows; empty: all levels",
        least=0,
    )
    centred: bool = setting(
        True,
        "subtract from each row of SA-Init the mean row of its level or, with words of paths, from each path's that of "
        "its siblings",
    )
    target_norm: float = setting(
        1.0, "norm of a row of SA-Init, as a multiple of the mean norm in the pretrained table", least=0
    )
    outputs: bool = setting(True, "for models with untied embeddings: the output rows begin in the same way")
    head: Literal["plain", "scaled", "own"] = setting(
        "plain",
        "what scores the SID tokens: their output rows as they are (`plain`); these times a learned scale per "
        "level (`scaled`); or output rows of their own, in tied models too (`own`). The last two begin with the "
        "scale that has the smallest loss on train",
    )


@dataclasses.dataclass(frozen=True)
class DenseSettings(Section, key="dense"):
    """A dense head, which is learned alongside the SIDs and scores all items at once (docs/training.md)."""

    weight: float = setting(
        0.0, "weight of the head's loss, a mean over the items of `tasks.next_sid`; 0: there is no such head", least=0
    )
    temperature: float = setting(
        0.1, "temperature of the softmax over items, by which cosines of users and items are divided", above=0
    )
    embeddings: str = setting(
        "",
        ".npy file with a vector of each item's text, a row per item in catalogue order, such as index/embeddings.npy "
        "of a workdir; empty: the leading singular vectors of the texts' TF-IDF",
    )
