"""Recommendations from an exported folder."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.prompts import PromptBuilder, Templates
from tsrec_jax.decoding.generate import search_all
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.errors import UserError
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.hf import load_hf
from tsrec_jax.models.tokenizer import load_tokenizer
from tsrec_jax.serving.export import CATALOGUE_FILE, PROMPTS_FILE

MAX_BATCH = 16
MIN_BEAMS = 20


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """One recommended item; `score` is the log-probability of its SID in nats."""

    item_id: str
    title: str
    score: float
    sid: str


@dataclasses.dataclass(frozen=True)
class Recommender:
    """A loaded export; make one with `Recommender.load`."""

    model: Decoder
    catalogue: Catalogue
    builder: PromptBuilder
    trie: Trie

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, dtype: str = "float32") -> Recommender:
        """Loads an exported folder.

        Args:
          folder: what the verb `export` wrote.
          dtype: compute and parameter type.

        Raises:
          UserError: the folder is not a complete export.
        """
        folder = pathlib.Path(folder)
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; give one that the verb `export` wrote")
        facts = _read_json(folder / CATALOGUE_FILE)
        prompts = _read_json(folder / PROMPTS_FILE)
        try:
            catalogue = Catalogue.from_json(facts)
            templates, max_length = Templates.from_mapping(prompts["templates"]), int(prompts["max_length"])
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise UserError(f"{folder}: not a consistent export ({error}); export it again") from None
        tokenizer = load_tokenizer(folder)
        known = tokenizer.get_vocab()
        first_id = len(tokenizer) - len(catalogue.tokens)
        if [known.get(token) for token in catalogue.tokens] != list(range(first_id, len(tokenizer))):
            raise UserError(f"{folder}: its tokenizer does not end with the catalogue's SID tokens; export it again")
        model = load_hf(folder, dtype=dtype, remat=False)
        if model.config.vocab_rows != len(tokenizer):
            raise UserError(
                f"{folder}: the weights have {model.config.vocab_rows} vocabulary rows, the tokenizer has "
                f"{len(tokenizer)} tokens; export it again"
            )
        builder = PromptBuilder(tokenizer, templates, max_length)
        return cls(model, catalogue, builder, Trie.of_catalogue(catalogue, first_id))

    def recommend(
        self, histories: Sequence[Sequence[str]], k: int = 10, *, beams: int | None = None
    ) -> list[list[Recommendation]]:
        """The k best items for each history.

        Args:
          histories: item ids, oldest first.
          k: items wanted; fewer come back only where the catalogue has fewer.
          beams: width of the search; None: 20, or k where that is more. At least k.

        Returns:
          For each history the best items first; items of one SID share its score and come in catalogue order.

        Raises:
          UserError: an empty history, one text in the place of a list, an unknown item, k below 1 or beams below k.
        """
        beams = max(k, MIN_BEAMS) if beams is None else beams
        if k < 1:
            raise UserError(f"k={k}: must be at least 1")
        if beams < k:
            raise UserError(f"beams={beams}: must be at least k={k}")
        sids = []
        for number, history in enumerate(histories, 1):
            if isinstance(history, str):
                raise UserError(
                    f"history {number} is the text {history!r}: give a list of histories, each a list of item ids"
                )
            if not len(history):
                raise UserError(f"history {number} is empty: give at least one item id")
            sids.append([self.catalogue.sid(self.catalogue.item_index(item_id)) for item_id in history])
        prompts = self.builder.prompts_next_sid(sids, self.catalogue.num_levels)
        ranked = search_all(
            self.model,
            self.trie,
            self.catalogue,
            prompts,
            beams=min(beams, self.trie.num_sids),
            batch_size=min(MAX_BATCH, 1 << max(0, len(prompts) - 1).bit_length()),
        )
        return [self._items(row)[:k] for row in ranked]

    def _items(self, ranked: Sequence[tuple[str, float]]) -> list[Recommendation]:
        return [
            Recommendation(item.id, item.title, score, sid)
            for sid, score in ranked
            for item in (self.catalogue.items[index] for index in self.catalogue.items_of_sid[sid])
        ]


def _read_json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not there; give a folder that the verb `export` wrote") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); export it again") from None
