"""Tokenizers: from a Hugging Face folder or hub id, or rebuilt from the metadata of a GGUF file."""

from __future__ import annotations

import os
import pathlib

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tsrec_jax.errors import UserError
from tsrec_jax.models.gguf import gguf_path, metadata, open_gguf
from tsrec_jax.models.hf import resolve_folder

CONTROL_TOKEN = 3  # GGUF's token types


def load_tokenizer(path: str | os.PathLike[str]) -> PreTrainedTokenizerFast:
    """The tokenizer of a model, by any path that `load_hf` takes.

    Raises:
      UserError: there is none, it has no end-of-text token, or it is of a kind that is not rebuilt.
    """
    gguf = gguf_path(path)
    if gguf is not None:
        return _from_gguf(gguf)
    folder = resolve_folder(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no readable tokenizer ({str(error).splitlines()[0]})") from None
    if tokenizer.eos_token_id is None:
        raise UserError(f"{folder}: its tokenizer names no eos_token, which ends every completion")
    return tokenizer


def _from_gguf(path: pathlib.Path) -> PreTrainedTokenizerFast:
    """Byte-level BPE as SmolLM2 uses it: single digits, GPT-2's byte alphabet, the file's merges and special tokens."""
    facts = metadata(open_gguf(path))
    kind = (facts.get("tokenizer.ggml.model"), facts.get("tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise UserError(
            f"{path}: its tokenizer is {kind}; only the gpt2/smollm kind is rebuilt, load the HF folder instead"
        )
    tokens = facts["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in facts["tokenizer.ggml.merges"]]
    special = [
        token
        for token, token_type in zip(tokens, facts["tokenizer.ggml.token_type"], strict=True)
        if token_type == CONTROL_TOKEN
    ]
    backend = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    end = facts["tokenizer.ggml.eos_token_id"]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=tokens[facts.get("tokenizer.ggml.bos_token_id", end)],
        eos_token=tokens[end],
        pad_token=tokens[facts.get("tokenizer.ggml.padding_token_id", end)],
        clean_up_tokenization_spaces=False,
    )
