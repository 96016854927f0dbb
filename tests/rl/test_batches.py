"""Prompts by number: every row once an epoch, the same for any start and any share, with what the teacher ranks."""

import types

import numpy as np
import pytest

from tsrec_jax.data.catalogue import Catalogue, Item
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.rl.batches import PromptBatches, longest_prompt

SIDS = tuple((f"<a_{n % 2}>", f"<b_{n // 2}>") for n in range(5))
CATALOGUE = Catalogue(tuple(Item(str(n), "") for n in range(6)), (*SIDS, SIDS[4]))  # the last two items share a SID
EVERYTHING = tuple(range(6))
ROWS = Interactions(
    tuple(f"u{n}" for n in range(7)),
    ((0,), (1, 2), (2,), EVERYTHING, (4, 0), (5,), (3, 3, 3)),
    np.array([1, 5, 0, 2, 3, 4, 0], np.int32),
)
BUILDER = types.SimpleNamespace(
    prompts_next_sid=lambda histories, levels: [[7] + [len(sid) for sid in own] * levels for own in histories]
)


def made(**changes):
    given = {"prompts": 4, "accumulation": 1, "length": 16, "seed": 3, "part": np.arange(4), **changes}
    return PromptBatches(ROWS, CATALOGUE, BUILDER, **given)


def test_every_row_comes_once_an_epoch_and_batches_go_on_in_the_next():
    numbers = np.concatenate([made().numbers(step) for step in range(1, 8)])
    for epoch in range(4):
        assert sorted(numbers[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert (numbers[:7] != numbers[7:14]).any()
    assert made().keys(2) == [f"train/{number}" for number in numbers[4:8]]


def test_a_start_in_the_middle_and_a_share_of_the_prompts_give_the_same():
    iterator = made().from_step(2)
    for step in (3, 4):
        batch = next(iterator)
        for name, array in made().batch(step).items():
            np.testing.assert_array_equal(batch[name], array)
            own = made(part=np.array([1, 3])).batch(step)[name]
            np.testing.assert_array_equal(own, array[:, [1, 3]])
    halves = made(accumulation=2, part=np.arange(2)).batch(3)
    np.testing.assert_array_equal(halves["tokens_BT"].reshape(4, 16), made().batch(3)["tokens_BT"][0])


def test_a_history_of_the_whole_catalogue_and_a_target_that_shares_its_sid():
    seen = {}
    for step in (1, 2):
        batch = made().batch(step)
        for place, number in enumerate(made().numbers(step).tolist()):
            seen[number] = {name: array[0, place] for name, array in batch.items()}
    assert longest_prompt(BUILDER, CATALOGUE, ROWS) == 16
    assert seen[3]["lengths_B"] == 13 and seen[3]["segment_ids_BT"].sum() == 13
    assert [seen[number]["items_B"] for number in (0, 1, 5)] == [1, 2, 2]
    np.testing.assert_array_equal(seen[1]["target_BC"], seen[5]["target_BC"])


@pytest.mark.parametrize("places", [3, 9])
def test_the_teachers_places_fall_off_and_end_with_the_catalogue(places):
    def rank(rows):
        return np.tile(np.arange(6)[::-1], (len(rows), 1)).astype(np.int32)

    batch = made(rank=rank, teacher_items=places).batch(1)
    gains = batch["teacher_gain_BM"][0]
    known = min(places, 6)
    shared = np.array([2, 2, 1, 1, 1, 1])[:known]  # the teacher's first two items have one SID
    np.testing.assert_allclose(gains[:, :known], np.tile(1 / np.log2(2 + np.arange(known)) / shared, (4, 1)), rtol=1e-6)
    assert gains.shape == (4, places) and (gains[:, known:] == 0).all()
    expected = np.asarray(CATALOGUE.codes_IC)[np.arange(6)[::-1][:known]]
    np.testing.assert_array_equal(batch["teacher_BMC"][0, 0, :known], expected)
