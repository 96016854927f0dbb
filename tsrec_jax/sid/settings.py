"""Settings of the stage `index`: item texts to semantic IDs."""

from __future__ import annotations

import dataclasses
from typing import Literal

from tsrec_jax.errors import UserError
from tsrec_jax.section import Section, setting
from tsrec_jax.sid.quantisers import QUANTISERS

TEXT_FIELDS = ("title", "brand", "categories", "description")


SHAPE_ALL_CODES = ("method", "sizes", "collisions", "whiten")  # the fields that shape the codes of every method


@dataclasses.dataclass(frozen=True)
class IndexSettings(Section, key="index"):
    """Item texts to semantic IDs (docs/upstream.md)."""

    sids: Literal["auto", "given", "make"] = setting(
        "auto", "whether SIDs are taken from the folder (`given`) or made; `auto`: taken where the folder has them"
    )
    given_sids: str = setting(
        "", "JSON file of SIDs, {item id: [token, ...]}, to use instead of the folder's; empty: NAME.index.json"
    )
    method: str = setting("rq_kmeans_balanced", "quantiser that turns embeddings into codes", choices=QUANTISERS)
    sizes: tuple[int, ...] = setting(
        (), "number of codes on each level, for any number of levels; empty: chosen from the number of items", above=0
    )
    collisions: Literal["none", "sinkhorn", "extra_level"] = setting(
        "sinkhorn",
        "what happens to items with the same SID: nothing; they get other codes on the last level; or an extra "
        "level numbers them",
    )
    whiten: int = setting(
        256,
        "number of principal components of the embeddings to keep, scaled to equal variance; 0: no whitening",
        least=0,
    )
    iterations: int = setting(20, "iterations of k-means on each level", above=0)
    rows_per_code: int = setting(0, "rq_kmeans only: items per code that k-means is fitted on; 0: all items", least=0)
    hidden: tuple[int, ...] = setting(
        (512, 256, 128),
        "rq_vae only: widths of the encoder's hidden layers; the reference has (2048, 1024, 512, 256, 128, 64)",
        above=0,
    )
    latent: int = setting(32, "rq_vae only: width of the vectors that are quantised", above=0)
    epochs: int = setting(100, "rq_vae only: number of passes over the items", above=0)
    batch_size: int = setting(256, "rq_vae only: items per step", above=0)
    embeddings: str = setting(
        "", ".npy file of shape (items, features), in the folder's item order; empty: `encoder` computes them"
    )
    encoder: Literal["llm", "sentence_transformers"] = setting(
        "llm", "what embeds the item texts: the run's own pretrained model, or one of the extra `sentence_transformers`"
    )
    model: str = setting("", "another model for the encoder to use; empty: `model.path`, with all its layers")
    text_fields: tuple[str, ...] = setting(TEXT_FIELDS, "parts of an item's text to embed", choices=TEXT_FIELDS)
    max_tokens: int = setting(128, "largest number of tokens of an item's text", above=0)
    batch_rows: int = setting(16, "texts per batch on each device", above=0)
    extend: str = setting(
        "", "sid_index.npz of an earlier run: its items keep their SIDs, and its quantiser encodes new items"
    )
    max_collision_rate: float = setting(1.0, "largest collision rate; a higher one fails the run", least=0, most=1)
    min_code_use: float = setting(
        0.0, "smallest share of a level's codes in use; a lower one fails the run", least=0, most=1
    )
    min_perplexity: float = setting(
        0.0,
        "smallest perplexity of a level's codes, as a share of their number; a lower one fails the run",
        least=0,
        most=1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.given_sids and self.sids == "make":
            raise UserError(
                f"config.index.given_sids={self.given_sids!r} names SIDs and config.index.sids=make makes others; "
                "set index.sids=given, or leave index.given_sids empty"
            )
        if not self.text_fields:
            raise UserError(f"config.index.text_fields is empty; name some of {', '.join(TEXT_FIELDS)}")
        if self.encoder == "sentence_transformers" and not self.model:
            raise UserError("config.index.encoder='sentence_transformers' needs config.index.model, a folder or hub id")

    @property
    def code_fields(self) -> tuple[str, ...]:
        """The fields that shape the codes of this method."""
        return (*SHAPE_ALL_CODES, *QUANTISERS[self.method].settings)
