"""The catalogue of a service, without a model."""

import difflib

import pytest

from tsrec_jax.data import catalogue as ids
from tsrec_jax.data.catalogue import Catalogue, Item
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.errors import UserError
from tsrec_jax.serving.live_catalogue import LiveCatalogue

SID = ("<a_1>", "<b_1>")


def live(items):
    catalogue = Catalogue(tuple(items), (SID,) * len(items))
    return LiveCatalogue(catalogue, Trie.of_catalogue(catalogue, 10))


def found(catalogue, text, limit=10):
    return [item.id for item in catalogue.find(text, limit)]


def test_a_search_follows_what_is_put_renamed_and_removed():
    catalogue = live([Item("1", "Groß pump"), Item("2", "Steel pump")])
    assert found(catalogue, "GROSS") == ["1"]
    catalogue.put("3", "Blue PUMP", SID)
    assert found(catalogue, "pump") == ["1", "2", "3"]
    catalogue.put("2", "Steel drill", SID)
    assert found(catalogue, "pump") == ["1", "3"]
    assert found(catalogue, "drill 2") == ["2"]
    catalogue.block(["3"])
    assert found(catalogue, "pump") == ["1", "3"]
    catalogue.remove("1")
    assert found(catalogue, "pump") == ["3"]
    assert found(catalogue, "", 1) == ["2"]


def test_titles_are_folded_once_and_not_at_each_search():
    class Title(str):
        folded = 0

        def __format__(self, spec):
            Title.folded += 1
            return str(self)

    catalogue = live([Item("1", Title("Steel pump"))])
    before = Title.folded
    assert found(catalogue, "steel") == found(catalogue, "pump") == ["1"]
    assert Title.folded == before


def test_an_unknown_id_among_many_is_not_searched_for(monkeypatch):
    catalogue = live([Item(f"B{number}", "Thing") for number in range(ids.NEAREST_AMONG + 1)])
    monkeypatch.setattr(
        difflib, "get_close_matches", lambda *arguments, **options: pytest.fail("a search over all ids")
    )
    with pytest.raises(UserError, match=r"item 'B99999' is not in the catalogue of 1001 items$"):
        catalogue.item("B99999")
