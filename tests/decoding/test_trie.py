import jax
import numpy as np
import pytest

from tsrec_jax.data.catalogue import Catalogue, Item
from tsrec_jax.data.sid_paths import SidPaths
from tsrec_jax.decoding import trie as module
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.errors import UserError

CODES = np.array([[1, 0], [0, 2], [1, 0], [1, 1]])
IDS = [np.array([10, 11]), np.array([12, 13, 14])]
SIZES = [(9,), (4, 5), (3, 40, 5), (3, 3, 3, 3, 3)]


def ids_of(sizes):
    return [np.arange(size) for size in sizes]


def random_codes(sizes, items=60, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, size, items) for size in sizes], axis=1)


@pytest.fixture(params=[1 << 24, 128, 0], ids=["dense", "dense then sparse", "sparse"])
def forms(request, monkeypatch):
    """Runs a test with every form of the levels."""
    monkeypatch.setattr(module, "DENSE_SLOTS", request.param)
    return request.param


def reachable(trie):
    """Every SID that a walk along the device's arrays reaches."""
    found = [((), 0)]
    for level in trie.arrays.levels:
        grown = []
        for codes, slot in found:
            if level.starts is None:
                children = [(code, slot * level.stride + code) for code in range(level.width)]
            else:
                first, last = int(level.starts[slot]), int(level.starts[slot + 1])
                assert last - first <= level.width
                children = [(int(level.codes[child]), child) for child in range(first, last)]
            words = np.asarray(level.alive_RM)[0]
            grown += [((*codes, code), child) for code, child in children if words[child // 32] >> (child % 32) & 1]
        found = grown
    return sorted(codes for codes, _ in found)


@pytest.mark.parametrize("sizes", SIZES)
def test_walks_along_codes_reach_exactly_the_sids(forms, sizes):
    codes_IC = random_codes(sizes)
    trie = Trie.from_codes(codes_IC, sizes, ids_of(sizes))
    wanted = sorted(set(map(tuple, codes_IC.tolist())))
    assert reachable(trie) == wanted
    assert trie.sid_codes().tolist() == list(map(list, wanted))
    assert trie.num_sids == len(wanted)
    assert trie.level_sizes == tuple(sizes)
    for level in range(len(sizes) + 1):
        assert trie.prefixes(level) == len({codes[:level] for codes in wanted})
    trie.remove(np.array(wanted[3:6]))
    del wanted[3:6]
    for level in range(1, len(sizes)):
        for prefix in np.ndindex(*sizes[:level]):
            assert trie.sid_codes(prefix).tolist() == [list(codes) for codes in wanted if codes[:level] == prefix]
    every = np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), axis=-1).reshape(-1, len(sizes))
    assert trie.contains(every).tolist() == [tuple(codes) in set(wanted) for codes in every.tolist()]


@pytest.mark.parametrize("sizes", SIZES)
def test_sids_that_come_and_go_leave_what_a_new_trie_would_hold(forms, sizes):
    rng = np.random.default_rng(1)
    pool_NC = np.unique(random_codes(sizes, items=80, seed=2), axis=0)
    trie = Trie.from_codes(pool_NC[:5], sizes, ids_of(sizes))
    held = set(map(tuple, pool_NC[:5].tolist()))
    for _ in range(12):
        coming = pool_NC[rng.integers(0, len(pool_NC), 6)]
        trie.add(coming)
        held |= set(map(tuple, coming.tolist()))
        going = pool_NC[rng.integers(0, len(pool_NC), 4)]
        if held - set(map(tuple, going.tolist())):
            trie.remove(going)
            held -= set(map(tuple, going.tolist()))
        assert trie.num_sids == len(held)
        assert reachable(trie) == sorted(held), "also no prefix may be left that leads nowhere"
        fresh = Trie.from_codes(np.array(sorted(held)), sizes, ids_of(sizes))
        assert [trie.prefixes(c) for c in range(len(sizes))] == [fresh.prefixes(c) for c in range(len(sizes))]


def test_a_change_keeps_the_shapes_of_the_arrays(forms):
    sizes = (6, 30, 7)
    trie = Trie.from_codes(random_codes(sizes), sizes, ids_of(sizes))
    before = [(part.shape, part.dtype) for level in trie.arrays.levels for part in _parts(level)]
    trie.add(random_codes(sizes, items=5, seed=9))
    assert [(part.shape, part.dtype) for level in trie.arrays.levels for part in _parts(level)] == before


def _parts(level):
    return [part for part in (level.alive_RM, level.starts, level.codes) if part is not None]


def test_a_row_of_its_own_holds_the_named_sids_as_far_as_they_are_valid(forms):
    sizes = (4, 5, 6)
    codes_NC = np.unique(random_codes(sizes), axis=0)
    trie = Trie.from_codes(codes_NC, sizes, ids_of(sizes))
    named = np.concatenate([codes_NC[3:9], [[3, 4, 5], [0, 0, 0]]])
    wanted = {tuple(codes) for codes in named.tolist()} & {tuple(codes) for codes in codes_NC.tolist()}
    row = trie.row(named)
    only = Trie.from_codes(np.array(sorted(wanted)), sizes, ids_of(sizes))
    assert [int(np.bitwise_count(words).sum()) for words in row] == [only.prefixes(c + 1) for c in range(3)]
    slots_NC = trie.slots(np.array(sorted(wanted)))
    for level, words in enumerate(row):
        assert (words[slots_NC[:, level] // 32] >> (slots_NC[:, level] % 32) & 1).all()


def test_prefixes_die_with_the_last_sid_below_them(forms):
    codes_NC = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 0, 2]])
    trie = Trie.from_codes(codes_NC, (2, 2, 3), ids_of((2, 2, 3)))
    out = np.array([[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 1, 1]])
    slots_NC = trie.slots(codes_NC)
    dead = [sorted(slots.tolist()) for slots in trie.dead_without(out)]
    assert dead == [[], [slots_NC[0, 1]], sorted(slots_NC[[0, 1, 3], 2].tolist())]
    assert [slots.tolist() for slots in trie.dead_without(np.zeros((0, 3), int))] == [[], [], []]
    everything = trie.dead_without(codes_NC)
    assert [len(slots) for slots in everything] == [2, 3, 5]


def test_a_saved_trie_comes_back(forms, tmp_path):
    sizes = (4, 50, 6)
    trie = Trie.from_codes(random_codes(sizes), sizes, ids_of(sizes))
    trie.save(tmp_path / "trie.npz")
    loaded = Trie.load(tmp_path / "trie.npz")
    assert reachable(loaded) == reachable(trie)
    assert (loaded.num_sids, loaded.level_sizes, loaded.nbytes) == (trie.num_sids, trie.level_sizes, trie.nbytes)
    loaded.add(np.array([[3, 49, 5]]))
    assert loaded.contains(np.array([[3, 49, 5]])).all()
    (tmp_path / "trie.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match="not a trie"):
        Trie.load(tmp_path / "trie.npz")
    with pytest.raises(UserError, match="not there"):
        Trie.load(tmp_path / "absent.npz")


def test_arrays_that_a_trace_asks_for_first_are_arrays_afterwards(forms):
    trie = Trie.from_codes(CODES, [2, 3], IDS)
    traced = jax.eval_shape(lambda: trie.arrays)
    assert jax.tree.map(lambda array: array.shape, traced) == jax.tree.map(np.shape, trie.arrays)
    assert reachable(trie) == [(0, 2), (1, 0), (1, 1)]


def test_codes_of_more_than_64_bits_are_told_apart(monkeypatch):
    monkeypatch.setattr(module, "DENSE_SLOTS", 1 << 10)
    sizes = (1 << 10,) * 7
    codes_NC = random_codes(sizes, items=50)
    trie = Trie.from_codes(codes_NC, sizes, ids_of(sizes))
    assert trie.sid_codes().tolist() == sorted(codes_NC.tolist())


def test_a_catalogue_gets_consecutive_token_ids_in_its_own_order():
    sids = (("<a_2>", "<b_1>"), ("<a_1>", "<b_7>"), ("<a_2>", "<b_7>"))
    catalogue = Catalogue(tuple(Item(str(i), f"title {i}") for i in range(3)), sids)
    trie = Trie.of_catalogue(catalogue, 100)
    ids = np.concatenate(trie.token_ids).tolist()
    assert dict(zip(catalogue.tokens, ids, strict=True)) == {"<a_1>": 100, "<a_2>": 101, "<b_1>": 102, "<b_7>": 103}
    np.testing.assert_array_equal(trie.sid_codes(), [[0, 1], [1, 0], [1, 1]])


def test_what_may_follow_is_the_same_for_the_loss_and_for_the_search(forms):
    codes_IC = random_codes((3, 40, 5))
    sids = tuple(tuple(f"<{level}_{code}>" for level, code in zip("abc", row, strict=True)) for row in codes_IC)
    catalogue = Catalogue(tuple(Item(str(i), f"title {i}") for i in range(len(sids))), sids)
    trie, paths = Trie.of_catalogue(catalogue, 100), SidPaths.of_catalogue(catalogue, 100)
    walked = reachable(trie)
    for tokens in catalogue.tokens_IC + 100:
        for level, node in enumerate(paths.nodes(tokens)):
            begun = [codes for codes in walked if ids_under(trie, codes)[:level] == tokens[:level].tolist()]
            searched = {ids_under(trie, codes)[level] for codes in begun}
            assert set(np.flatnonzero(paths.allowed_Nn[node]) + 100) == searched


def ids_under(trie, codes):
    return [int(trie.token_ids[level][code]) for level, code in enumerate(codes)]


@pytest.mark.parametrize(
    ("codes", "sizes", "ids"),
    [
        (np.zeros((0, 2), int), [2, 3], IDS),
        (np.array([[2, 0]]), [2, 3], IDS),
        (np.array([[0, -1]]), [2, 3], IDS),
        (np.array([[0, 1, 0]]), [2, 3], IDS),
        (CODES, [2, 3], IDS[::-1]),
    ],
)
def test_bad_codes_are_refused(codes, sizes, ids):
    with pytest.raises(ValueError):
        Trie.from_codes(codes, sizes, ids)
    trie = Trie.from_codes(CODES, [2, 3], IDS)
    with pytest.raises(ValueError, match="outside its level"):
        trie.add(np.array([[0, 3]]))
