"""Turns a dataset and a pretrained model into the parts that training and decoding share, alike for every stage."""

from __future__ import annotations

import dataclasses
import pathlib

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from transformers import PreTrainedTokenizerFast

from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.dataset import Dataset
from tsrec_jax.data.outside_text import encode_outside
from tsrec_jax.data.prompts import PromptBuilder, Templates
from tsrec_jax.data.token_words import TokenWords, shuffled_words
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.errors import UserError
from tsrec_jax.models.adapter import make_adapter
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.hf import load_hf
from tsrec_jax.models.sharding import host_copy
from tsrec_jax.models.sid_outputs import give_outputs
from tsrec_jax.models.vocabulary import extend_vocabulary, sid_init_rows
from tsrec_jax.pipeline.dense import Texts, make_head, text_vectors
from tsrec_jax.pipeline.mesh import open_mesh
from tsrec_jax.pipeline.sid_tokens import add_sid_tokens, base_tokenizer
from tsrec_jax.settings import Settings


@dataclasses.dataclass(frozen=True)
class RecommenderParts:
    """A recommender before or after training.

    Attributes:
      dataset: the catalogue, the splits and the descriptions of tokens or paths; for `sid_init.mode=sa_shuffled` each
        has the words of another, for both SA-Init and TS-Align.
      tokenizer: the base tokenizer with the SID tokens added.
      base_vocab_size: length of the base tokenizer; SID tokens are base_vocab_size, base_vocab_size + 1, ... in
        catalogue order.
      templates: the prompt wording.
      builder: makes prompts and examples.
      trie: the valid SIDs.
      model: the extended decoder.
      mesh: the device mesh, None on one device.
    """

    dataset: Dataset
    tokenizer: PreTrainedTokenizerFast
    base_vocab_size: int
    templates: Templates
    builder: PromptBuilder
    trie: Trie
    model: Decoder
    mesh: Mesh | None


def load_parts(
    settings: Settings, dataset: Dataset, base: str | pathlib.Path, texts: Texts = text_vectors
) -> RecommenderParts:
    """Loads the base model, extends its vocabulary with initialised SID rows and builds prompts and trie.

    SID tokens whose names the model already knows keep their rows.

    Args:
      settings: `seed`, the sections `model`, `mesh`, `sid_init`, `dense` and `templates`, and in `train` the sequence
        length, `freeze` and `adapter` are read.
      dataset: gives the SID tokens and their keywords.
      base: the pretrained model, any path that `load_hf` takes.
      texts: gives the vectors of the item texts for a dense head.

    Raises:
      UserError: keywords are missing for the chosen mode, the model or mesh does not fit, or a model that
        `model.trained` calls trained does not know a SID token.
    """
    mesh = open_mesh(settings)
    catalogue = dataset.catalogue
    found = base_tokenizer(base, catalogue.tokens)
    tokenizer, fresh = found.tokenizer, [token for token in catalogue.tokens if token not in found.known]
    if settings.model.trained and fresh:
        raise UserError(
            f"config.model.trained=True, but {base} knows {len(found.known)} of the catalogue's "
            f"{len(catalogue.tokens)} SID tokens and not {fresh[0]!r}; give the SIDs it was trained with, or train"
        )
    if settings.sid_init.mode == "sa_shuffled":
        shuffled = shuffled_words(catalogue, dataset.token_descriptions, settings.seed)
        dataset = dataclasses.replace(dataset, token_descriptions=shuffled)
    words, keyword_ids = words_for_rows(settings, dataset, tokenizer) if fresh else (None, [])
    base_vocab_size = add_sid_tokens(tokenizer, catalogue.tokens)
    model = base_model(settings, base, mesh)

    def rows(table_VD: jax.Array) -> np.ndarray:
        pretrained_VD = np.asarray(host_copy(table_VD), np.float32)[: model.num_tokens]
        if not fresh:
            return found.kept(
                catalogue.tokens, np.zeros((len(catalogue.tokens), pretrained_VD.shape[1])), pretrained_VD
            )
        begun_nD = sid_init_rows(
            pretrained_VD,
            words=words,
            keyword_ids=keyword_ids,
            levels_n=catalogue.token_levels,
            init_levels=tuple(settings.sid_init.levels),
            mode="sa" if words else settings.sid_init.mode,
            target_norm=settings.sid_init.target_norm,
            centred=settings.sid_init.centred,
            base_vocab_size=base_vocab_size,
            seed=settings.seed,
        )
        return found.kept(catalogue.tokens, begun_nD, pretrained_VD)

    own_outputs = settings.sid_init.outputs or bool(found.known)
    outputs = rows(model.head[...]) if model.head is not None and own_outputs else None
    model = extend_vocabulary(
        model, base_vocab_size=base_vocab_size, input_rows_nD=rows(model.embedding[...]), output_rows_nD=outputs
    )
    model = give_outputs(model, settings.sid_init.head, level_sizes(catalogue))
    if settings.dense.weight:
        model.dense = nnx.data(make_head(settings, catalogue, model.config.d_model, base_vocab_size, mesh, texts))
    if settings.train.adapter.rank:
        model.adapter = nnx.data(make_adapter(model.config, settings.train.adapter, settings.seed, mesh))
    return RecommenderParts(
        dataset=dataset,
        tokenizer=tokenizer,
        base_vocab_size=base_vocab_size,
        templates=settings.templates,
        builder=PromptBuilder(tokenizer, settings.templates, settings.train.sequence_length),
        trie=Trie.of_catalogue(catalogue, base_vocab_size),
        model=model,
        mesh=mesh,
    )


def level_sizes(catalogue: Catalogue) -> tuple[int, ...]:
    """Number of tokens on each level."""
    return tuple(map(len, catalogue.level_tokens))


def base_model(settings: Settings, base: str | pathlib.Path, mesh: Mesh | None) -> Decoder:
    """The pretrained model, or one of its shape with weights drawn by `settings.seed`.

    Its parameters are float32. If the trunk is frozen, they have the compute dtype, to which each step would round them
    anyway, until `extend_vocabulary` makes the tables float32 for the new rows.
    """
    return load_hf(
        base,
        dtype=settings.model.dtype,
        param_dtype=settings.model.dtype if settings.train.freeze == "trunk" else "float32",
        num_layers=settings.model.num_layers or None,
        mesh=mesh,
        remat=settings.model.remat,
        attention=settings.model.attention,
        rngs=nnx.Rngs(settings.seed) if settings.model.random else None,
    )


def words_for_rows(
    settings: Settings, dataset: Dataset, tokenizer: PreTrainedTokenizerFast
) -> tuple[TokenWords | None, list[list[int]]]:
    """What SA-Init reads: which descriptions speak for which token, and the sub-word ids of each one's keywords.

    Keywords are joined by single spaces. None and an empty list if the mode does not read them.

    Raises:
      UserError: a token has no keywords.
    """
    if settings.sid_init.mode not in ("sa", "sa_shuffled"):
        return None, []
    words = TokenWords.of(dataset.catalogue, dataset.token_descriptions)
    spoken_for = {description.token for description in words.descriptions}
    missing = [token for token in dataset.catalogue.tokens if token not in spoken_for]
    if missing:
        raise UserError(
            f"{dataset.path}/{dataset.name}.description_keywords.json: no keywords for {len(missing)} SID token(s), "
            f"{missing[0]} first; SA-Init needs them (or set config.sid_init.mode=mean and "
            "config.tasks.ts_align.weight=0)"
        )
    return words, encode_outside(tokenizer, [" ".join(found.keywords) for found in words.descriptions])
