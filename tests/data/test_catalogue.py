"""The catalogue: vocabulary order, codes, collisions, look-ups, and its JSON."""

import dataclasses
import difflib
import json

import numpy as np
import pytest

from tsrec_jax.data.catalogue import NEAREST_AMONG, Catalogue, unknown_item
from tsrec_jax.errors import UserError


def test_tokens_are_ordered_by_level_then_by_code_number(catalogue):
    assert catalogue.level_tokens == (
        ("<a_2>", "<a_9>", "<a_10>"),
        ("<b_1>", "<b_2>", "<b_7>"),
        ("<c_0>", "<c_1>", "<c_3>"),
    )
    assert catalogue.tokens == sum(catalogue.level_tokens, ())
    assert catalogue.token_levels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert catalogue.token_levels.dtype == np.int32


def test_codes_point_at_the_tokens_of_each_item(catalogue):
    assert catalogue.codes_IC.tolist() == [[1, 0, 2], [1, 1, 0], [2, 0, 2], [0, 2, 1], [1, 0, 2]]
    assert catalogue.codes_IC.dtype == np.int32


def test_colliding_items_share_a_sid_in_catalogue_order(catalogue):
    assert catalogue.sid(0) == catalogue.sid(4) == "<a_9><b_1><c_3>"
    assert catalogue.items_of_sid["<a_9><b_1><c_3>"] == (0, 4)
    assert len(catalogue.items_of_sid) == 4
    assert (catalogue.num_items, catalogue.num_levels) == (5, 3)


def test_an_item_is_found_by_its_id_and_an_unknown_one_names_its_neighbours(catalogue):
    assert [catalogue.item_index(item.id) for item in catalogue.items] == [0, 1, 2, 3, 4]
    assert catalogue.item_index(42) == 3
    with pytest.raises(UserError, match=r"'p55' is not in the catalogue of 5 items; nearest ids: p5"):
        catalogue.item_index("p55")
    with pytest.raises(UserError, match=r"'zzzzzz' is not in the catalogue of 5 items$"):
        catalogue.item_index("zzzzzz")


def test_an_unknown_id_is_compared_with_few_ids_only(monkeypatch):
    known = dict.fromkeys(f"B{number}" for number in range(NEAREST_AMONG))
    assert str(unknown_item("B9999", known, len(known))).endswith(
        "is not in the catalogue of 1000 items; nearest ids: B999, B99, B998"
    )
    monkeypatch.setattr(
        difflib, "get_close_matches", lambda *arguments, **options: pytest.fail("a search over all ids")
    )
    known["another"] = None
    assert str(unknown_item("B9999", known, len(known))) == "item 'B9999' is not in the catalogue of 1001 items"
    long = str(unknown_item("x" * 1_000_000, known, len(known)))
    assert long == f"item '{'x' * 100}'... is not in the catalogue of 1001 items"


def test_the_json_gives_the_same_codes_and_items_but_for_descriptions(catalogue):
    items = [dataclasses.replace(item, image="https://shop.example/1.jpg") for item in catalogue.items[:1]]
    catalogue = Catalogue((*items, *catalogue.items[1:]), catalogue.sids)
    facts = json.loads(json.dumps(catalogue.to_json()))
    again = Catalogue.from_json(facts)
    assert again.sids == catalogue.sids
    assert again.tokens == catalogue.tokens == tuple(facts["tokens"])
    assert again.items == tuple(dataclasses.replace(item, description="") for item in catalogue.items)


def test_json_whose_tokens_are_in_another_order_is_refused(catalogue):
    facts = catalogue.to_json()
    facts["tokens"] = facts["tokens"][::-1]
    with pytest.raises(ValueError, match="not those of its items"):
        Catalogue.from_json(facts)
