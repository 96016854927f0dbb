"""Item texts as rows of a language model: every token is learned once, and what is validated on is not learned."""

import dataclasses

import pytest

from tsrec_jax.data.catalogue import Item
from tsrec_jax.data.text_rows import item_texts, text_rows
from tsrec_jax.errors import UserError

ITEMS = tuple(
    Item(f"i{number}", f"Title {number}", "words " * (9 * number), "Brand", "A > B") for number in range(1, 41)
)
END = 0


class Letters:
    """A tokenizer with an id for each character."""

    eos_token_id, bos_token_id, pad_token_id, unk_token_id = END, END, END, END
    all_special_ids = (END,)

    @property
    def added_tokens_decoder(self):
        return {}

    def __call__(self, texts, **_):
        return {"input_ids": [[ord(letter) for letter in text] for text in texts]}


def text_of(rows):
    """The texts that rows of one text make when they are laid end to end."""
    ids = [*rows[0].tokens, *(token for row in rows[1:] for token in row.tokens[1:])]
    assert ids[0] == ids[-1] == END
    return "".join(map(chr, ids[1:-1]))


def by_text(rows):
    found = {}
    for row in rows:
        found.setdefault(row.key, []).append(row)
    return {key: text_of(parts) for key, parts in found.items()}


@pytest.mark.parametrize("length", [2, 32, 129, 10_000])
def test_every_token_of_every_text_is_learned_or_validated_on_once(length):
    rows = text_rows(ITEMS, Letters(), length, 0.0)
    assert max(len(row.tokens) for row in (*rows.learned, *rows.validated)) <= length
    assert all(len(row.tokens) > 1 and row.prompt_length == 1 for row in (*rows.learned, *rows.validated))
    texts = by_text(rows.learned) | by_text(rows.validated)
    assert sorted(texts.values()) == sorted(item_texts(ITEMS))
    assert not by_text(rows.learned).keys() & by_text(rows.validated).keys()
    assert list(by_text(rows.validated).values()) == item_texts(ITEMS)[::20]
    targets = sum(len(row.tokens) - 1 for row in (*rows.learned, *rows.validated))
    assert targets == sum(len(text) + 1 for text in item_texts(ITEMS))


def test_items_that_are_held_out_are_in_no_text_that_is_learned():
    rows = text_rows(ITEMS, Letters(), 64, 0.2)
    learned, out = (set(by_text(part).values()) for part in (rows.learned, rows.validated))
    names = {item.id for item in ITEMS if item.title in out}
    assert 0.05 * len(ITEMS) < len(names) < 0.5 * len(ITEMS)
    for item in ITEMS:
        texts = set(item_texts([item])) - {f"{item.title} is made by Brand.", f"{item.title} belongs to A > B."}
        assert texts <= (out if item.id in names else learned)
    again = text_rows(tuple(reversed(ITEMS)), Letters(), 64, 0.2)
    assert set(by_text(again.validated).values()) == out, "the order of the items decides nothing"


@pytest.mark.parametrize(("share", "words"), [(1.0, "all"), (1e-6, "none")])
def test_a_share_that_holds_out_all_items_or_none_is_refused(share, words):
    with pytest.raises(UserError, match=rf"config\.pretrain\.held_out={share} of 40 items holds out {words}"):
        text_rows(ITEMS, Letters(), 64, share)


def test_what_an_item_lacks_makes_no_text():
    bare = [dataclasses.replace(ITEMS[0], description="", brand="", categories="")]
    assert item_texts(bare) == [ITEMS[0].title]
