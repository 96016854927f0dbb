"""The agreement of two teachers: what the figures mean, and the control beside them."""

import pytest

from benchmarks.keyword_overlap import keyword_overlap, overlap_table
from tsrec_jax.data.catalogue import Catalogue, Item, TokenDescription


def clusters_of(keywords):
    return {token: TokenDescription(token, "x", tuple(words)) for token, words in keywords.items()}


@pytest.fixture
def two_tokens():
    return Catalogue((Item("p1", "x"), Item("p2", "y")), (("<a_1>",), ("<a_2>",)))


def test_figures_of_a_case_worked_by_hand(two_tokens):
    first = clusters_of({"<a_1>": ["Steel bolt", "nut"], "<a_2>": ["saw", "nut"]})
    second = clusters_of({"<a_1>": ["steel  bolt", "washer"], "<a_2>": ["blade", "steel nut", "washer"]})
    (level,) = keyword_overlap(two_tokens, first, second)
    assert level.tokens == 2
    assert level.jaccard == pytest.approx((1 / 3 + 0) / 2)
    assert level.contained == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert (level.distinct_first, level.distinct_second) == (pytest.approx(3 / 4), pytest.approx(4 / 5))
    assert (level.unique_first, level.unique_second) == (pytest.approx(2 / 4), pytest.approx(3 / 5))


def test_the_control_loses_what_belongs_to_the_tokens():
    items = tuple(Item(f"p{n}", "x") for n in range(40))
    catalogue = Catalogue(items, tuple((f"<a_{n}>", f"<b_{n % 2}>") for n in range(40)))
    clusters = clusters_of({token: [f"word {token}", "all"] for token in catalogue.tokens})
    first, second = keyword_overlap(catalogue, clusters, clusters)
    assert (first.jaccard, first.contained) == (1.0, 1.0)
    assert first.jaccard_shuffled < 0.5
    assert (first.tokens, second.tokens) == (40, 2)
    assert keyword_overlap(catalogue, clusters, clusters)[0] == first


def test_the_table_has_a_row_for_each_level(two_tokens):
    clusters = clusters_of({"<a_1>": ["a"], "<a_2>": ["b"]})
    table = overlap_table(keyword_overlap(two_tokens, clusters, clusters), "offline", "gemini")
    assert table.splitlines()[0].count("|") == table.splitlines()[2].count("|") == 7
    assert table.splitlines()[2].startswith("| 0 | 2 | 1.000 (")


def test_the_published_keywords_give_the_published_shares(shared_data):
    from tsrec_jax.data.dataset import read_dataset

    found = read_dataset(shared_data / "Industrial_and_Scientific")
    levels = keyword_overlap(found.catalogue, found.token_descriptions, found.token_descriptions)
    assert [round(level.distinct_first, 3) for level in levels] == [0.605, 0.250, 0.185]
