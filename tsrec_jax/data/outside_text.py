"""Token ids of texts that come from outside: titles, descriptions, keywords.

A tokenizer recognises ends of texts, chat roles and SID tokens by their spelling, wherever they occur. In a text from
outside, `<|endoftext|>` or `<a_1>` is nothing but characters. Such a spelling is therefore cut after its first
character and both parts are encoded separately, so that it is read as text. All other texts have the ids that the
tokenizer gives them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from tsrec_jax.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_outside(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], before: int = 0, after: int = 0
) -> list[list[int]]:
    """Token ids of each text, without any control token of the tokenizer except in our own part of the text.

    A tokenizer that puts a space before every text also puts one before the part after a cut.

    Args:
      tokenizer: any fast tokenizer.
      texts: the texts from outside.
      before, after: the number of characters at either end of every text that are our own, such as a template's; their
        tokens stay.

    Raises:
      UserError: a text holds a one-character control token, which cannot be cut.
    """
    if not texts:
        return []
    control = control_ids(tokenizer)
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return [
        ids if control.isdisjoint(ids) else _as_text(tokenizer, text, before, len(text) - after, control)
        for text, ids in zip(texts, encoded, strict=True)
    ]


def control_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids of the special tokens and of added ones, such as SID tokens.

    Added blanks count as text, and so does the token for unknown characters, unless it also ends or pads texts.
    """
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if not token.content.isspace()}
    ends = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    return frozenset({*added, *tokenizer.all_special_ids} - ({tokenizer.unk_token_id} - ends))


def _as_text(
    tokenizer: PreTrainedTokenizerBase, text: str, start: int, end: int, control: Collection[int]
) -> list[int]:
    """Token ids of a text, without any control token that overlaps its characters from `start` to `end`."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    cuts = []
    for number, (first, last) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        if number in control and first < end and last > start:
            if last - first < 2:
                raise UserError(
                    f"{text[first:last]!r} is a control token of the tokenizer and stands in {text[:60]!r}; take it out"
                )
            cuts.append(first + 1)
    if not cuts:
        return encoded["input_ids"]
    ids: list[int] = []
    for first, last in zip([0, *cuts], [*cuts, len(text)], strict=True):
        ids += _as_text(tokenizer, text[first:last], max(start - first, 0), min(end, last) - first, control)
    return ids
