"""The SID tokens outside the pretrained vocabulary: added to a tokenizer, or found in one that already has some."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np
from transformers import PreTrainedTokenizerFast

from tsrec_jax.errors import UserError
from tsrec_jax.models.tokenizer import cut_tokenizer, load_tokenizer
from tsrec_jax.progress import report

_SID_TOKEN = re.compile(r"(<[^<>\s]*?)\d+>")  # a token that may be dropped if the catalogue does not have it


@dataclasses.dataclass(frozen=True)
class BaseTokenizer:
    """The tokenizer of a model, without any SID tokens.

    Attributes:
      tokenizer: the tokenizer.
      known: the ids that SID tokens of the catalogue have in the model, by token; empty for most models.
    """

    tokenizer: PreTrainedTokenizerFast
    known: Mapping[str, int]

    def kept(self, tokens: Sequence[str], fresh_nD: np.ndarray, table_VD: np.ndarray) -> np.ndarray:
        """Rows of the tokens: from the model's table for tokens that it knows, from `fresh_nD` for the others.

        Args:
          tokens: n tokens.
          fresh_nD: a row for each.
          table_VD: the model's table.
        """
        rows_nD = np.array(fresh_nD)
        for number, token in enumerate(tokens):
            if token in self.known:
                rows_nD[number] = table_VD[self.known[token]]
        return rows_nD


def base_tokenizer(base: str | pathlib.Path, tokens: Sequence[str]) -> BaseTokenizer:
    """Loads the tokenizer of a model and removes the SID tokens that it has, whatever their order.

    Args:
      base: any path that `load_hf` takes: a pretrained model, an export, or a checkpoint in MiniOneRec's form.
      tokens: the SID tokens of the catalogue.

    Raises:
      UserError: the tokenizer knows some of them, and they are not the last ones in its vocabulary.
    """
    tokenizer = load_tokenizer(base)
    vocabulary = tokenizer.get_vocab()
    known = {token: vocabulary[token] for token in tokens if token in vocabulary}
    if not known:
        return BaseTokenizer(tokenizer, {})
    length = _first_sid_id(vocabulary, known)
    last = {token for token, index in vocabulary.items() if index >= length}
    others = sorted(token for token in last if not _SID_TOKEN.fullmatch(token))
    if others:
        raise UserError(
            f"{base}: {others[0]!r} stands among or behind the SID tokens of its vocabulary; give a model whose SID "
            "tokens come last"
        )
    try:
        cut = cut_tokenizer(tokenizer, length)
    except ValueError as error:
        raise UserError(f"{base}: its SID tokens were not added to its vocabulary but belong to it ({error})") from None
    facts = [f"{len(known)} of {len(tokens)} SID tokens are those of {base}"]
    if fresh := [token for token in tokens if token not in known]:
        facts.append(f"{len(fresh)} are new ({_listed(fresh)})")
    if gone := sorted(last - known.keys()):
        facts.append(f"{len(gone)} of its own are left out ({_listed(gone)})")
    report(f"model: {'; '.join(facts)}")
    return BaseTokenizer(cut, known)


def _first_sid_id(vocabulary: Mapping[str, int], known: Mapping[str, int]) -> int:
    """The id from which all tokens are SID tokens, including tokens before the first known one with similar names."""
    stems = {found[1] for token in known if (found := _SID_TOKEN.fullmatch(token))}
    of_id = {index: token for token, index in vocabulary.items()}
    first = min(known.values())
    while (found := _SID_TOKEN.fullmatch(of_id.get(first - 1, ""))) and found[1] in stems:
        first -= 1
    return first


def _listed(tokens: Sequence[str]) -> str:
    """The first few."""
    return ", ".join(tokens if len(tokens) <= 3 else [*tokens[:3], "..."])


def add_sid_tokens(tokenizer: PreTrainedTokenizerFast, tokens: Sequence[str]) -> int:
    """Adds the SID tokens in order and returns the base length, which is the id of the first one."""
    base_vocab_size = len(tokenizer)
    tokenizer.add_tokens(list(tokens))
    return base_vocab_size
