"""The plan of rows: nothing lost, nothing twice, both capacities kept, rows full; epochs that miss nothing."""

import collections

import numpy as np
import pytest

from tsrec_jax.data.packing import epoch_of_task, pack


def mixed_lengths(count, seed=0):
    """Short questions with short answers and long ones with long answers, as the tasks have them."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(20, 140, count)
    share = rng.choice([0.1, 0.5], count)
    return np.stack([tokens, np.maximum(1, tokens * share).astype(int)], axis=1)


def test_every_example_is_placed_once_and_no_row_is_over_full():
    lengths = mixed_lengths(3000)
    rows = [row for (row,) in pack(lengths, (512, 180))]
    assert sorted(np.concatenate(rows).tolist()) == list(range(3000))
    sums = np.array([lengths[row].sum(axis=0) for row in rows])
    assert (sums <= (512, 180)).all()


def test_rows_are_at_least_95_percent_full_though_slots_are_scarce():
    lengths = mixed_lengths(3000)
    slots = int(512 * 1.04 * lengths[:, 1].sum() / lengths[:, 0].sum())
    rows = pack(lengths, (512, slots))
    assert lengths[:, 0].sum() / (512 * len(rows)) > 0.95


def test_groups_of_rows_fill_tokens_and_slots():
    lengths = mixed_lengths(3000)
    slots = int(8 * 160 * 1.04 * lengths[:, 1].sum() / lengths[:, 0].sum())
    groups = pack(lengths, (160, slots), group=8)
    assert sorted(np.concatenate([row for rows in groups for row in rows]).tolist()) == list(range(3000))
    assert all(len(rows) <= 8 for rows in groups)
    assert max(lengths[row, 0].sum() for rows in groups for row in rows) <= 160
    needed = np.array([sum(lengths[row, 1].sum() for row in rows) for rows in groups])
    assert needed.max() <= slots
    assert needed.sum() / (slots * len(groups)) > 0.93
    assert lengths[:, 0].sum() / (8 * 160 * len(groups)) > 0.93


def test_slots_that_are_too_scarce_for_whole_groups_leave_rows_out_but_no_example():
    lengths = np.array([[10, 8]] * 40)
    groups = pack(lengths, (10, 17), group=4)
    assert [len(rows) for rows in groups] == [2] * 20
    assert sorted(np.concatenate([row for rows in groups for row in rows]).tolist()) == list(range(40))


def test_no_example_waits_longer_than_the_window():
    lengths = np.array([[10, 5]] * 50 + [[9, 5]] + [[10, 5]] * 50)  # ten fill a row of 100; nine leave room
    rows = pack(lengths, (100, 50), window=20)
    assert next(number for number, (row,) in enumerate(rows) if 50 in row) <= 5


def test_an_example_that_fits_in_no_row_is_refused():
    with pytest.raises(ValueError, match="does not fit in a row of"):
        pack(np.array([[5, 2], [9, 9]]), (10, 8))
    assert pack(np.zeros((0, 2), int), (10, 8)) == []


@pytest.mark.parametrize("rate", [0.25, 0.3, 1.0, 2.5])
def test_epochs_of_a_task_are_consecutive_pieces_of_whole_permutations(rate):
    epochs = [epoch_of_task(20, rate, epoch, (7, 1)) for epoch in range(10)]
    assert [len(epoch) for epoch in epochs] == [int(20 * rate + 1e-9)] * 10
    stream = np.concatenate(epochs)
    whole = len(stream) // 20
    assert set(collections.Counter(stream[: whole * 20].tolist()).values()) == {whole}
    assert (epoch_of_task(20, 1.0, 0, (7, 1)) != epoch_of_task(20, 1.0, 0, (7, 2))).any()
