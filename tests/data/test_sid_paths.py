"""Paths of the catalogue: which tokens of an example continue a SID, and what else could stand there."""

import numpy as np
import pytest

from tsrec_jax.data.catalogue import Catalogue, Item
from tsrec_jax.data.sid_paths import SidPaths

FIRST = 258


@pytest.fixture
def paths(catalogue):
    return SidPaths.of_catalogue(catalogue, FIRST)


@pytest.fixture
def ids(catalogue):
    """Token ids of tokens by their texts; everything else is a word."""
    known = {token: FIRST + number for number, token in enumerate(catalogue.tokens)}
    return lambda *tokens: np.array([known.get(token, 7) for token in tokens], np.int32)


def siblings(paths, catalogue, node):
    return {catalogue.tokens[number] for number in np.flatnonzero(paths.allowed_Nn[node])}


def test_every_token_of_a_sid_stands_among_its_siblings(paths, catalogue, ids):
    nodes = paths.nodes(ids("word", "<a_9>", "<b_1>", "<c_3>", "<a_9>", "<b_2>", "<c_0>", "word"))
    assert (nodes >= 0).tolist() == [False, True, True, True, True, True, True, False]
    assert siblings(paths, catalogue, nodes[1]) == {"<a_9>", "<a_10>", "<a_2>"}
    assert siblings(paths, catalogue, nodes[2]) == siblings(paths, catalogue, nodes[5]) == {"<b_1>", "<b_2>"}
    assert siblings(paths, catalogue, nodes[3]) == {"<c_3>"}
    assert siblings(paths, catalogue, nodes[6]) == {"<c_0>"}


@pytest.mark.parametrize(
    ("tokens", "known"),
    [
        (("<b_1>",), [False]),  # no level above it
        (("<c_3>", "<a_9>"), [False, True]),
        (("<a_9>", "word", "<b_1>"), [True, False, False]),  # interrupted
        (("<a_2>", "<b_1>", "<c_1>"), [True, False, False]),  # no SID begins so
        (("<a_9>", "<b_1>", "<c_0>"), [True, True, False]),  # nor ends so
        (("<a_9>", "<a_10>", "<b_1>"), [True, True, True]),
        ((), []),
    ],
)
def test_tokens_off_the_paths_are_not_taken_for_sids(paths, ids, tokens, known):
    assert (paths.nodes(ids(*tokens)) >= 0).tolist() == known


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_any_number_of_levels_agrees_with_a_search_through_all_sids(levels):
    rng = np.random.default_rng(levels)
    codes = rng.integers(0, 4, (20, levels))
    sids = tuple(tuple(f"<{'abcd'[level]}_{code}>" for level, code in enumerate(row)) for row in codes)
    catalogue = Catalogue(tuple(Item(str(i), "") for i in range(20)), sids)
    paths = SidPaths.of_catalogue(catalogue, 10)
    known = {token: 10 + number for number, token in enumerate(catalogue.tokens)}
    for sid in sids:
        nodes = paths.nodes(np.array([known[token] for token in sid]))
        for level, node in enumerate(nodes):
            expected = {other[level] for other in sids if other[:level] == sid[:level]}
            assert siblings(paths, catalogue, node) == expected
