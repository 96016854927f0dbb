import numpy as np
import pytest

from tests.baselines.catalogues import rows_of
from tsrec_jax.baselines.packed_chains import item_chains, pack_chains, pad_histories
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.user_sequences import ItemSequence


def chain(items, targets):
    return ItemSequence(tuple(items), len(items) - targets, ())


def prefixes(sequence, context):
    """(history, target) of every place of a sequence, histories cut at their oldest end."""
    return [(tuple(sequence[max(0, end - context) : end]), sequence[end]) for end in range(1, len(sequence))]


def test_rows_whose_histories_were_cut_are_read_as_one_sequence_again():
    sequence = list(range(11))
    chains = item_chains(rows_of(*prefixes(sequence, 4)), 50)
    assert chains == [chain(sequence[6:], 4), chain(sequence[2:7], 4), chain(sequence[:3], 2)]


def test_every_row_is_the_target_once_behind_the_newest_part_of_its_history():
    rng = np.random.default_rng(0)
    pairs = [
        (f"u{user}", *row)
        for user in range(40)
        for row in prefixes(rng.integers(0, 3, rng.integers(2, 15)).tolist(), 4)  # few items: many equal rows
        if rng.random() < 0.9  # and gaps
    ]
    users, histories, targets = zip(*pairs, strict=True)
    rows = Interactions(users, histories, np.array(targets, np.int32))
    for context in (2, 4, 9):
        learned = [
            (part.items[:place], part.items[place])
            for part in item_chains(rows, context)
            for place in range(part.first, len(part.items))
        ]
        assert all(1 <= len(history) <= min(context, 4) for history, _ in learned)
        assert sorted(target for _, target in learned) == sorted(targets)
        known = {(history[-length:], target) for _, history, target in pairs for length in range(1, len(history) + 1)}
        assert set(learned) <= known


def test_one_item_had_over_and_over_is_one_sequence():
    chains = item_chains(rows_of(*prefixes([7] * 12, 3)), 50)
    assert sum(len(part.items) - part.first for part in chains) == 11
    assert len(chains) == 4


def test_rows_of_other_users_and_rows_that_do_not_fit_are_not_joined():
    rows = Interactions(("a", "b", "a"), ((1,), (1, 2), (2, 2)), np.array([2, 3, 4], np.int32))
    assert item_chains(rows, 9) == [chain((1, 2), 1), chain((1, 2, 3), 1), chain((2, 2, 4), 1)]


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


def test_a_row_without_a_history_teaches_nothing():
    rows = rows_of(((), 5), ((1,), 2))
    assert [chain.items for chain in item_chains(rows, 4)] == [(1, 2)]


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
