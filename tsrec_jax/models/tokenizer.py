"""Tokenizers: from a Hugging Face folder or hub id, or rebuilt from the metadata of a GGUF file; and written again."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tsrec_jax.errors import UserError
from tsrec_jax.models.gguf import gguf_path, metadata, open_gguf
from tsrec_jax.models.hf import resolve_folder
from tsrec_jax.models.written_tokenizer import read_tokenizer

CONTROL_TOKEN, USER_DEFINED_TOKEN = 3, 4  # GGUF's types of tokens that stay whole in any text
GENERIC_CLASS = "PreTrainedTokenizerFast"  # in transformers 4 and 5, a tokenizer that is its tokenizer.json
_GENERIC_CLASSES = ("TokenizersBackend", GENERIC_CLASS)
_LEFTOVERS = ("backend", "is_local", "local_files_only")  # say how it was loaded; transformers 4 knows none of them
# What tokenizers of different kinds cut differently: numbers, spaces, case, accents, scripts, signs.
_PROBE = (
    "Price 123 456 7890, 12cm x 3.5 m²; it's THE End's\n\n  two  spaces\tand a tab \r\nStraße naïve e\u0301tude ﬁne "
    "Ⅷ 木 木材の鍋 제품 продукт مقلاة หม้อ 🙂👍🏽 foo_bar/baz-42 <a_1><b_2>, {x: [1]} == 'q' \"r\" …  "
)
_SAMPLED = 200  # tokens of the vocabulary at the end of the probe


def load_tokenizer(path: str | os.PathLike[str]) -> PreTrainedTokenizerFast:
    """The tokenizer of a model, by any path that `load_hf` takes.

    A `tokenizer.json` is read as it is written. Some classes of transformers rebuild their model's tokenizer from its
    vocabulary alone, whatever else the file says; if that gives other ids, the file is used without the class.

    Raises:
      UserError: there is none, it has no end-of-text token, or its kind cannot be rebuilt.
    """
    gguf = gguf_path(path)
    if gguf is not None:
        return _from_gguf(gguf)
    folder = resolve_folder(path)
    tokenizer = _from_class(folder, AutoTokenizer)
    if (folder / "tokenizer.json").is_file():
        written = read_tokenizer(folder / "tokenizer.json")
        if not _same(tokenizer, written):
            named = tokenizer.eos_token
            tokenizer = _from_class(folder, PreTrainedTokenizerFast)
            if tokenizer.eos_token is None and named in tokenizer.get_vocab():
                tokenizer.eos_token = named  # its class's default
            if not _same(tokenizer, written):
                raise UserError(
                    f"{folder}: transformers reads tokenizer.json otherwise than the package tokenizers does "
                    "(tokenizer_config.json changes it); give a folder whose files agree"
                )
    if tokenizer.eos_token_id is None:
        raise UserError(f"{folder}: its tokenizer names no eos_token, which ends every completion")
    return tokenizer


def _from_class(folder: pathlib.Path, kind: type[Any]) -> PreTrainedTokenizerFast:
    try:
        tokenizer = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # file parsers may raise anything; those in Rust raise plain Exception
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{folder}: no readable tokenizer ({reason[0]})") from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(f"{folder}: a {type(tokenizer).__name__} has no tokenizer.json, and none can be made of it")
    return tokenizer


def _same(tokenizer: PreTrainedTokenizerFast, written: Tokenizer) -> bool:
    """Whether a mixed text with words of the vocabulary has the same ids and is decoded from them in the same way."""
    backend = tokenizer.backend_tokenizer
    size = written.get_vocab_size()
    ids = range(0, size, max(1, size // _SAMPLED))
    text = _PROBE + " ".join(written.decode([index], skip_special_tokens=False) for index in ids)
    found, wanted = (each.encode(text, add_special_tokens=False).ids for each in (backend, written))
    return found == wanted and backend.decode(found) == written.decode(found)


def cut_tokenizer(tokenizer: PreTrainedTokenizerFast, length: int) -> PreTrainedTokenizerFast:
    """The tokenizer without the tokens that were added to it with ids from `length` on.

    Raises:
      ValueError: a token from that id on was not added but belongs to its own vocabulary.
    """
    facts = json.loads(tokenizer.backend_tokenizer.to_str())
    facts["added_tokens"] = [token for token in facts["added_tokens"] if token["id"] < length]
    roles = {role: token for role, token in tokenizer.special_tokens_map.items() if role.endswith("_token")}
    backend = Tokenizer.from_str(json.dumps(facts))
    cut = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **roles)
    if len(cut) != length:
        raise ValueError(f"{len(cut)} tokens are left, not {length}")
    return cut


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: str | os.PathLike[str]) -> None:
    """Writes a tokenizer so that transformers 4.57 and 5 read it with the same ids, and pad batches on the left.

    Args:
      tokenizer: any from `load_tokenizer`, with or without added tokens.
      folder: receives `tokenizer.json` and `tokenizer_config.json`.
    """
    tokenizer.save_pretrained(folder)
    path = pathlib.Path(folder) / "tokenizer_config.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    facts = {key: value for key, value in facts.items() if key not in _LEFTOVERS}
    if facts.get("tokenizer_class") in _GENERIC_CLASSES:
        facts["tokenizer_class"] = GENERIC_CLASS
    if isinstance(facts.get("extra_special_tokens"), list):  # transformers 4 expects a mapping here
        facts["additional_special_tokens"] = facts.pop("extra_special_tokens")
    facts["padding_side"] = "left"
    path.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _from_gguf(path: pathlib.Path) -> PreTrainedTokenizerFast:
    """Byte-level BPE as SmolLM2 uses it: single digits, GPT-2's byte alphabet, the file's merges and added tokens."""
    facts = metadata(open_gguf(path))
    kind = (facts.get("tokenizer.ggml.model"), facts.get("tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise UserError(
            f"{path}: its tokenizer is {kind}; only the gpt2/smollm kind is rebuilt, load the HF folder instead"
        )
    try:
        tokens, types = facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"]
        merges = [tuple(merge.split(" ", 1)) for merge in facts["tokenizer.ggml.merges"]]
        added = [
            AddedToken(token, normalized=False, special=token_type == CONTROL_TOKEN)
            for token, token_type in zip(tokens, types, strict=True)
            if token_type in (CONTROL_TOKEN, USER_DEFINED_TOKEN)
        ]
        backend = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
        end = facts["tokenizer.ggml.eos_token_id"]
        roles = {
            role: tokens[facts.get(f"tokenizer.ggml.{name}_token_id", end)]
            for role, name in (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"))
        }
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]!r} is missing") from None
    except Exception as error:  # facts of another kind or length, or merges that the BPE refuses with a plain Exception
        raise UserError(f"{path}: its tokenizer cannot be read ({error})") from None
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(added)
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **roles)
