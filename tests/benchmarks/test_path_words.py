"""How words of paths and of tokens are compared: shares of keywords and cosines, by hand."""

import pytest

from benchmarks.path_words import level_facts, table
from tsrec_jax.data.catalogue import Catalogue, Item, TokenDescription
from tsrec_jax.teacher.groups import groups_of

# Below <a_0> three red and three blue things, below <a_1> the colours change places.
TITLES = ["red drill"] * 3 + ["blue drill"] * 3 + ["blue saw"] * 3 + ["red saw"] * 3
SIDS = [(f"<a_{n // 6}>", f"<b_{n // 3 % 2}>") for n in range(12)]
CATALOGUE = Catalogue(tuple(Item(f"p{n}", title) for n, title in enumerate(TITLES)), tuple(SIDS))


def facts_of(unit, keywords):
    groups = groups_of(CATALOGUE, unit, 2)
    words = [TokenDescription(g.token, "x", tuple(keywords[g.name].split()), g.prefix) for g in groups]
    return level_facts(CATALOGUE, groups, words)


KINDS = {"<a_0>": "drill", "<a_1>": "saw"}
TOKENS = facts_of("token", KINDS | {"<b_0>": "red blue", "<b_1>": "blue red"})
PATHS = facts_of(
    "path", KINDS | {"<a_0><b_0>": "red", "<a_0><b_1>": "blue", "<a_1><b_0>": "blue saw", "<a_1><b_1>": "red saw"}
)


def test_keywords_are_told_apart_over_the_level_and_among_siblings():
    assert [(f.groups, f.single, f.unique) for f in TOKENS] == [(2, 0, 1.0), (2, 0, 0.0)]
    assert TOKENS[1].unique_beside == 0.0
    assert PATHS[1].unique == 0.0  # each colour in two paths, saw too
    assert PATHS[1].unique_beside == pytest.approx(4 / 6)  # but for saw, each is of one sibling only


def test_keywords_stand_in_the_texts_of_their_items_and_of_those_beside():
    assert (TOKENS[0].inside, TOKENS[0].beside) == (1.0, 0.0)
    assert (TOKENS[1].inside, TOKENS[1].beside) == (0.5, 0.5)
    # Colours stand in all items and in none beside, saw in all and in all beside.
    assert PATHS[1].inside == 1.0
    assert PATHS[1].beside == pytest.approx((0 + 0 + 0.5 + 0.5) / 4)


def test_a_path_is_more_alike_in_itself_and_a_token_is_not():
    for found in (TOKENS[1], PATHS[1]):
        # Of items of one kind and two colours; all four words have the same idf, so each is half of a text.
        assert found.cosine_beside == pytest.approx(0.5)
    assert PATHS[1].cosine == pytest.approx(1.0)
    assert TOKENS[1].cosine == pytest.approx((2 * 3 * 1.0 + 9 * 0.0) / 15)
    assert (PATHS[1].chance, TOKENS[1].chance) == (0.0, 1.0)


def test_the_table_has_a_row_for_each_level_and_unit():
    rows = table({"token": TOKENS, "path": PATHS}).splitlines()
    assert len(rows) == 2 + 4
    assert rows[-1].startswith("| b | paths | 4 | 0 | 0.000 | 0.667 | 1.000 | 0.250 | 1.000 | 0.500 |")
