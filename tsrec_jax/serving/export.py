"""Writes the exported folder: Hugging Face weights and tokenizer with the SID tokens, catalogue, prompts, a card."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast

from tsrec_jax.data.catalogue import Catalogue, TokenDescription
from tsrec_jax.data.prompts import Templates
from tsrec_jax.data.token_descriptions import write_token_descriptions
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.errors import UserError
from tsrec_jax.files import EXPORT_AGAIN, new_folder, write_json, write_npz, write_text
from tsrec_jax.fusion.fusion import Fusion
from tsrec_jax.models.config import special_ids
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.dense_head import DenseScorer
from tsrec_jax.models.hf import save_hf
from tsrec_jax.models.tokenizer import save_tokenizer
from tsrec_jax.models.written_tokenizer import WrittenTokenizer
from tsrec_jax.processes import first
from tsrec_jax.serving.codebooks import Codebooks
from tsrec_jax.serving.export_files import (
    CATALOGUE_FILE,
    DENSE_FILE,
    FUSION_FILE,
    PROMPTS_FILE,
    TRIE_FILE,
    WORDS_FILE,
    first_sid_id,
    read_catalogue,
    verified,
    write_checksums,
)
from tsrec_jax.serving.model_card import fusion_card, model_card


def export_folder(
    model: Decoder,
    tokenizer: PreTrainedTokenizerFast,
    catalogue: Catalogue,
    templates: Templates,
    folder: str | os.PathLike[str],
    *,
    max_length: int,
    normaliser: str,
    card_facts: Mapping[str, Any],
    history: Sequence[str] = (),
    words: Iterable[TokenDescription] = (),
    codebooks: Codebooks | None = None,
    dtype: str = "float32",
    fusion: Fusion | None = None,
    dense: DenseScorer | None = None,
) -> None:
    """Writes a folder that `transformers.AutoModelForCausalLM` and `Recommender` load; replaces an older one entirely.

    Several processes call it together because of the weights; the first one writes.

    Args:
      model: the trained model; its vocabulary rows beyond the ids in use are not written.
      tokenizer: the tokenizer with the SID tokens.
      catalogue: the items, written without descriptions.
      templates, max_length: those of the prompts that it was trained with.
      normaliser: as in `SearchSettings`, what its scores are normalised over in a search.
      folder: where to write.
      card_facts: named facts for the model card.
      history: item ids, oldest first, of the user of the card's examples; empty: the first item.
      words: descriptions of the SID tokens, or of paths of them.
      codebooks: for coding new items from their texts.
      dtype: the type of the stored weights.
      fusion: what the search adds to the model's scores.
      dense: the model's dense head, if it is a part of the fusion.

    Raises:
      UserError: `folder` holds something else than an older export; it is left as it is.
    """
    folder = _replaceable(folder)
    ids = end_ids(model, tokenizer)
    with new_folder(folder, replace=True) if first() else contextlib.nullcontext(folder) as scratch:
        save_hf(model, scratch, dtype=dtype, special_ids=special_ids(ids))
        if not first():
            return
        save_tokenizer(tokenizer, scratch)
        # A base model's sampling settings and penalties must not leak into a beam search, so none is carried over.
        write_json(scratch / "generation_config.json", {"do_sample": False, "num_beams": 1, **ids}, indent=1)
        write_json(scratch / CATALOGUE_FILE, catalogue.to_json(), indent=1)
        prompts = {"templates": templates.to_mapping(), "max_length": max_length, "normaliser": normaliser}
        write_json(scratch / PROMPTS_FILE, prompts, indent=1)
        Trie.of_catalogue(catalogue, len(tokenizer) - len(catalogue.tokens)).save(scratch / TRIE_FILE)
        if described := list(words):
            write_token_descriptions(scratch / WORDS_FILE, described)
        if codebooks is not None:
            codebooks.save(scratch)
        tokenizer_class = json.loads((scratch / "tokenizer_config.json").read_text(encoding="utf-8"))["tokenizer_class"]
        card = model_card(
            catalogue,
            templates,
            history or (catalogue.items[0].id,),
            tokenizer_class=tokenizer_class,
            ends=ids["eos_token_id"],
            max_length=max_length,
            normaliser=normaliser,
            facts=card_facts,
            fused=fusion is not None,
        )
        write_text(scratch / "README.md", card)
        if fusion is not None:
            fusion.save(scratch / FUSION_FILE)
        if dense is not None:
            write_npz(scratch / DENSE_FILE, dense.to_arrays())
        write_checksums(scratch)


def export_fusion(
    fusion: Fusion,
    catalogue: Catalogue,
    folder: str | os.PathLike[str],
    *,
    card_facts: Mapping[str, Any],
    history: Sequence[str] = (),
    codebooks: Codebooks | None = None,
) -> None:
    """Writes a fusion without a language model as a folder that `Recommender` loads; replaces an older one entirely.

    Args:
      fusion: the fusion, all of whose parts are tables.
      catalogue, folder, card_facts, history, codebooks: as in `export_folder`.

    Raises:
      UserError: `folder` holds something else than an older export; it is left as it is.
    """
    with new_folder(_replaceable(folder), replace=True) as scratch:
        write_json(scratch / CATALOGUE_FILE, catalogue.to_json(), indent=1)
        fusion.save(scratch / FUSION_FILE)
        if codebooks is not None:
            codebooks.save(scratch)
        names = [part.name for part in fusion.parts]
        card = fusion_card(catalogue, names, history or (catalogue.items[0].id,), card_facts)
        write_text(scratch / "README.md", card)
        write_checksums(scratch)


def _replaceable(folder: str | os.PathLike[str]) -> pathlib.Path:
    """A folder that an export may be written to.

    Raises:
      UserError: it contains something else.
    """
    folder = pathlib.Path(folder)
    if folder.exists() and not (folder / CATALOGUE_FILE).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f"{folder}: not an export, so it is not replaced; give an empty or new folder")
    return folder


def accept_catalogue(folder: str | os.PathLike[str]) -> None:
    """Takes over a `sid_catalogue.json` that was edited in an export: changed titles, new items, removed items.

    Every token must still belong to an item, since the weights have a row for each, and a new item's tokens must be
    among them. The valid SIDs and the checksums are rewritten.

    Raises:
      UserError: the catalogue is inconsistent or does not fit this model, another file is not as it was exported, or
        there is a fusion, which scores the items in the order in which they were exported.
    """
    folder = pathlib.Path(folder)
    if (folder / FUSION_FILE).exists():
        raise UserError(
            f"{folder / FUSION_FILE}: scores the items as they were exported; change the catalogue of the loaded "
            f"recommender or of the service instead. If this one was edited, {EXPORT_AGAIN}"
        )
    with verified(folder, but=(CATALOGUE_FILE, TRIE_FILE)):
        catalogue = read_catalogue(folder)
        first_id = first_sid_id(folder, WrittenTokenizer(folder), catalogue)
    Trie.of_catalogue(catalogue, first_id).save(folder / TRIE_FILE)
    write_checksums(folder)


def end_ids(model: Decoder, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The bos, eos and pad ids that all files of an export state.

    They are the tokenizer's, whose eos ends every completion; if it names none, the base model's. If the base ends its
    texts with any of several ids, the others follow.
    """
    stated = dict(model.config.special_ids)
    ids: dict[str, Any] = {}
    for role in ("bos_token_id", "eos_token_id", "pad_token_id"):
        named, base = getattr(tokenizer, role), stated.get(role)
        several = list(base) if isinstance(base, tuple) else []
        if named is None:
            ids[role] = several or base
        else:
            ids[role] = [named, *(other for other in several if other != named)] if several else named
    return {role: value for role, value in ids.items() if value is not None}
