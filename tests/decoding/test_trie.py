import numpy as np
import pytest

from tsrec_jax.data.catalogue import Catalogue, Item
from tsrec_jax.decoding.trie import Trie

CODES = np.array([[1, 0], [0, 2], [1, 0], [1, 1]])
IDS = [np.array([10, 11]), np.array([12, 13, 14])]


def test_walks_along_codes_reach_exactly_the_sids():
    trie = Trie.from_codes(CODES, [2, 3], IDS)
    reached = {}
    for a in range(2):
        for b in range(3):
            node = trie.children[0][0, a]
            leaf = -1 if node < 0 else int(trie.children[1][node, b])
            if leaf >= 0:
                reached[(a, b)] = leaf
    assert reached == {(0, 2): 0, (1, 0): 1, (1, 1): 2}
    np.testing.assert_array_equal(trie.sid_codes_NC, [[0, 2], [1, 0], [1, 1]])


@pytest.mark.parametrize("sizes", [(9,), (4, 5), (3, 4, 5), (3, 3, 3, 3, 3)])
def test_every_number_of_levels_keeps_all_sids(sizes):
    rng = np.random.default_rng(0)
    codes_IC = np.stack([rng.integers(0, size, 60) for size in sizes], axis=1)
    trie = Trie.from_codes(codes_IC, sizes, [np.arange(size) for size in sizes])
    assert trie.num_levels == len(sizes)
    assert trie.num_sids == len({tuple(row) for row in codes_IC.tolist()})
    for codes in codes_IC:
        node = 0
        for level, code in enumerate(codes):
            node = int(trie.children[level][node, code])
            assert node >= 0
        np.testing.assert_array_equal(trie.sid_codes_NC[node], codes)
    assert (np.asarray(trie.children[-1]) >= 0).sum() == trie.num_sids


def test_a_catalogue_gets_consecutive_token_ids_in_its_own_order():
    sids = (("<a_2>", "<b_1>"), ("<a_1>", "<b_7>"), ("<a_2>", "<b_7>"))
    catalogue = Catalogue(tuple(Item(str(i), f"title {i}") for i in range(3)), sids)
    trie = Trie.of_catalogue(catalogue, 100)
    ids = np.concatenate(trie.token_ids).tolist()
    assert dict(zip(catalogue.tokens, ids, strict=True)) == {"<a_1>": 100, "<a_2>": 101, "<b_1>": 102, "<b_7>": 103}
    np.testing.assert_array_equal(trie.sid_codes_NC, [[0, 1], [1, 0], [1, 1]])


@pytest.mark.parametrize(
    ("codes", "sizes", "ids"),
    [
        (np.zeros((0, 2), int), [2, 3], IDS),
        (np.array([[2, 0]]), [2, 3], IDS),
        (np.array([[0, -1]]), [2, 3], IDS),
        (CODES, [2, 3], IDS[::-1]),
    ],
)
def test_bad_codes_are_refused(codes, sizes, ids):
    with pytest.raises(ValueError):
        Trie.from_codes(codes, sizes, ids)
