"""The tokenizer of an export, from its files alone: importing transformers takes longer than the rest of a service."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from tokenizers import Tokenizer

from tsrec_jax.errors import UserError
from tsrec_jax.files import read_json


class WrittenTokenizer:
    """What `tokenizer.json` says, called like a tokenizer of transformers; it reads our own texts, not others'.

    Args:
      folder: with `tokenizer.json` and `tokenizer_config.json`.

    Attributes:
      eos_token_id: id of the token that ends every completion.

    Raises:
      UserError: a file is broken, or there is no end-of-text token.
    """

    def __init__(self, folder: pathlib.Path):
        self._backend = read_tokenizer(folder / "tokenizer.json")
        self._backend.no_truncation()
        self._backend.no_padding()
        path = folder / "tokenizer_config.json"
        facts = read_json(path, "a tokenizer has one that names its eos_token")
        named = facts.get("eos_token") if isinstance(facts, dict) else None
        named = named.get("content") if isinstance(named, dict) else named
        found = self._backend.token_to_id(named) if isinstance(named, str) else None
        if found is None:
            raise UserError(f"{path}: names no eos_token of tokenizer.json, which ends every completion")
        self.eos_token_id = found

    def __len__(self) -> int:
        """Number of tokens in the vocabulary, added ones included."""
        return int(self._backend.get_vocab_size())

    def __call__(self, texts: Sequence[str], *, add_special_tokens: bool) -> dict[str, list[list[int]]]:
        """The `input_ids` of each text."""
        encoded = self._backend.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        return {"input_ids": [each.ids for each in encoded]}

    def get_vocab(self) -> dict[str, int]:
        """{token: id}."""
        return dict(self._backend.get_vocab())


def read_tokenizer(path: pathlib.Path) -> Tokenizer:
    """A `tokenizer.json` as it is written.

    Raises:
      UserError: it is not one.
    """
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust code raises plain Exception
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{path}: not a tokenizer ({reason[0]})") from None
