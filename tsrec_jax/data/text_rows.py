"""Item texts as rows from which a language model learns, and rows on which it is validated."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tsrec_jax.data.catalogue import Item
from tsrec_jax.data.held_out import place_of
from tsrec_jax.data.outside_text import encode_outside
from tsrec_jax.data.tasks.task import Example
from tsrec_jax.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TASK = "text"
VALID_EVERY = 20  # validate on every 20th text if no items are held out


def item_texts(items: Sequence[Item]) -> list[str]:
    """What the language model reads: sentences about each item, nothing about who bought what."""
    return [text for item in items for text in _texts_of(item)]


def _texts_of(item: Item) -> list[str]:
    texts = [item.title]
    if item.description:
        texts += [item.description, f"{item.title}. {item.description}"]
    if item.brand:
        texts.append(f"{item.title} is made by {item.brand}.")
    if item.categories:
        texts.append(f"{item.title} belongs to {item.categories}.")
    return texts


@dataclasses.dataclass(frozen=True)
class TextRows:
    """Rows of item texts.

    Attributes:
      learned, validated: examples in which every token but the first is a target.
      texts: number of texts in both.
    """

    learned: list[Example]
    validated: list[Example]
    texts: int

    @property
    def tokens(self) -> int:
        """Number of tokens in both."""
        return sum(len(row.tokens) for rows in (self.learned, self.validated) for row in rows)


def text_rows(items: Sequence[Item], tokenizer: PreTrainedTokenizerBase, length: int, held_out: float) -> TextRows:
    """The texts of the items as rows of at most `length` tokens.

    Each text has an end token before and after it. A text that is too long continues in further rows, each of which
    begins with the last token of the row before, so that every token is a target once.

    Args:
      items: a folder's items.
      tokenizer: the language model's tokenizer.
      length: tokens per row, at least 2.
      held_out: share of the items, chosen by a hash of their ids, whose texts are validated on; 0: every 20th text,
        whose item may stand in other texts that are learned.

    Raises:
      UserError: all items are held out, or none.
    """
    texts = [(item, text) for item in items for text in _texts_of(item)]
    end = tokenizer.eos_token_id
    if held_out:
        out = [place_of(item.id) < held_out for item, _ in texts]
        if all(out) or not any(out):
            raise UserError(
                f"config.pretrain.held_out={held_out} of {len(items)} items holds out {'all' if all(out) else 'none'}; "
                "use another share"
            )
    else:
        out = [number % VALID_EVERY == 0 for number in range(len(texts))]
    rows = TextRows([], [], len(texts))
    for number, ids in enumerate(encode_outside(tokenizer, [text for _, text in texts])):
        tokens = np.asarray([end, *ids, end], np.int32)
        for start in range(0, len(tokens) - 1, length - 1):
            row = Example(TASK, tokens[start : start + length], 1, f"{TASK}/{number}")
            (rows.validated if out[number] else rows.learned).append(row)
    return rows
