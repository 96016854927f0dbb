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

    sids: Literal["auto", "given", "make"] = setting("auto", "`auto`: given where the folder has them, else made")
    given_sids: str = setting(
        "", "JSON of SIDs, {item id: [token, ...]}, that take the place of the folder's; empty: NAME.index.json"
    )
    method: str = setting("rq_kmeans_balanced", "quantiser", choices=QUANTISERS)
    sizes: tuple[int, ...] = setting(
        (), "number of codes of each level, for any number of levels; empty: chosen by the number of items", above=0
    )
    collisions: Literal["none", "sinkhorn", "extra_level"] = setting(
        "sinkhorn", "items of one SID: kept, given other codes on the last level, or counted on a level more"
    )
    whiten: int = setting(
        256, "principal components of the embeddings that are kept, with one variance; 0: no whitening", least=0
    )
    iterations: int = setting(20, "of k-means, on each level", above=0)
    rows_per_code: int = setting(0, "rq_kmeans: items per code that k-means looks at; 0: all", least=0)
    hidden: tuple[int, ...] = setting(
        (512, 256, 128), "rq_vae: widths of the encoder; the reference has (2048, 1024, 512, 256, 128, 64)", above=0
    )
    latent: int = setting(32, "rq_vae: width of what is quantised", above=0)
    epochs: int = setting(100, "rq_vae: passes over the items", above=0)
    batch_size: int = setting(256, "rq_vae: items of a step", above=0)
    embeddings: str = setting("", ".npy of (items, features) in the folder's item order; empty: `encoder` makes them")
    encoder: Literal["llm", "sentence_transformers"] = setting(
        "llm", "the run's own pretrained model, or one of the extra `sentence_transformers`"
    )
    model: str = setting("", "another model for the encoder; empty: `model.path`, with all its layers")
    text_fields: tuple[str, ...] = setting(
        TEXT_FIELDS, "parts of an item's text that are embedded", choices=TEXT_FIELDS
    )
    max_tokens: int = setting(128, "of an item's text", above=0)
    batch_rows: int = setting(16, "texts of a batch on each device", above=0)
    extend: str = setting("", "sid_index.npz of an earlier run: its items keep their SIDs, new ones are coded by it")
    max_collision_rate: float = setting(1.0, "a report beyond this limit fails the run", least=0, most=1)
    min_code_use: float = setting(0.0, "the same, of each level: share of its codes in use", least=0, most=1)
    min_perplexity: float = setting(0.0, "the same: perplexity as a share of its codes", least=0, most=1)

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
