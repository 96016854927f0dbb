import numpy as np
import pytest

from tests.baselines.catalogues import rows_of
from tsrec_jax.baselines.chains import Chain, chains_of, pack_chains, pad_histories
from tsrec_jax.data.interactions import Interactions


def test_prefixes_of_one_user_become_one_chain_and_others_their_own():
    rows = Interactions(
        ("u", "v", "u", "w", "u"), ((1,), (1,), (1, 2), (5, 6, 7), (1, 9)), np.array([2, 4, 3, 8, 5], np.int32)
    )
    assert chains_of(rows, 10) == [Chain((1, 2, 3), 2), Chain((1, 4), 1), Chain((5, 6, 7, 8), 1), Chain((1, 9, 5), 1)]


def test_a_history_longer_than_the_context_keeps_its_newest_items():
    rows = rows_of(((1,), 2), ((1, 2), 3), ((1, 2, 3), 4), ((1, 2, 3, 4), 5))
    assert chains_of(rows, 2) == [Chain((1, 2, 3), 2), Chain((2, 3, 4), 1), Chain((3, 4, 5), 1)]


def test_packing_keeps_every_input_with_its_target_and_marks_those_of_rows():
    rng = np.random.default_rng(0)
    chains = [
        Chain(tuple(map(int, rng.integers(0, 99, n))), int(rng.integers(1, n))) for n in rng.integers(2, 9, size=50)
    ]
    packed = pack_chains(chains, 16, rng.permutation(50))
    found = []
    for row in range(len(packed.items_BT)):
        for segment in range(1, packed.segments_BT[row].max() + 1):
            slots = np.flatnonzero(packed.segments_BT[row] == segment)
            assert packed.positions_BT[row, slots].tolist() == list(range(len(slots)))
            items = (*packed.items_BT[row, slots].tolist(), int(packed.next_BT[row, slots[-1]]))
            assert items[1:] == tuple(packed.next_BT[row, slots])
            found.append(Chain(items, int(packed.weight_BT[row, slots].sum())))
            assert packed.weight_BT[row, slots[-found[-1].targets :]].all()
    assert sorted(found, key=repr) == sorted(chains, key=repr)
    assert packed.weight_BT[packed.segments_BT == 0].sum() == 0


def test_the_last_rows_are_filled_up_with_empty_ones():
    packed = pack_chains([Chain((1, 2), 1)] * 3, 1, np.arange(3)).rows(2, 2)
    assert packed.items_BT.tolist() == [[1], [0]]
    assert packed.weight_BT.tolist() == [[1.0], [0.0]]


def test_a_chain_that_fits_in_no_row_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        pack_chains([Chain((1, 2, 3), 2)], 1, np.arange(1))


def test_histories_stand_at_the_left_with_their_newest_items():
    padded = pad_histories(((1, 2, 3), (4,)), 3, 2)
    assert padded.items_BT.tolist() == [[2, 3], [4, 0], [0, 0]]
    assert padded.segments_BT.tolist() == [[1, 1], [1, 0], [0, 0]]
    assert padded.positions_BT.tolist() == [[0, 1], [0, 0], [0, 0]]
