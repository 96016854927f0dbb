import numpy as np
import pytest

from tsrec_jax.baselines.packed_chains import pack_chains, pad_histories
from tsrec_jax.data.user_sequences import ItemSequence


def chain(items, targets):
    return ItemSequence(tuple(items), len(items) - targets, ())


def test_packing_keeps_every_input_with_its_target_and_marks_those_of_rows():
    rng = np.random.default_rng(0)
    chains = [chain(rng.integers(0, 99, n).tolist(), int(rng.integers(1, n))) for n in rng.integers(2, 9, size=50)]
    packed = pack_chains(chains, 16, rng.permutation(50))
    found = []
    for row in range(len(packed.items_BT)):
        for segment in range(1, packed.segments_BT[row].max() + 1):
            slots = np.flatnonzero(packed.segments_BT[row] == segment)
            assert packed.positions_BT[row, slots].tolist() == list(range(len(slots)))
            items = (*packed.items_BT[row, slots].tolist(), int(packed.next_BT[row, slots[-1]]))
            assert items[1:] == tuple(packed.next_BT[row, slots])
            found.append(chain(items, int(packed.weight_BT[row, slots].sum())))
            assert packed.weight_BT[row, slots[found[-1].first - 1 :]].all()
    assert sorted(found, key=repr) == sorted(chains, key=repr)
    assert packed.weight_BT[packed.segments_BT == 0].sum() == 0


def test_the_last_rows_are_filled_up_with_empty_ones():
    packed = pack_chains([chain((1, 2), 1)] * 3, 1, np.arange(3)).rows(2, 2)
    assert packed.items_BT.tolist() == [[1], [0]]
    assert packed.weight_BT.tolist() == [[1.0], [0.0]]


def test_a_chain_that_fits_in_no_row_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        pack_chains([chain((1, 2, 3), 2)], 1, np.arange(1))


def test_histories_stand_at_the_left_with_their_newest_items():
    padded = pad_histories(((1, 2, 3), (4,)), 3, 2)
    assert padded.items_BT.tolist() == [[2, 3], [4, 0], [0, 0]]
    assert padded.segments_BT.tolist() == [[1, 1], [1, 0], [0, 0]]
    assert padded.positions_BT.tolist() == [[0, 1], [0, 0], [0, 0]]
