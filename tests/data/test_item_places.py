"""Items found in packed batches, against the rows that were packed."""

import numpy as np
import pytest

from tsrec_jax.data.catalogue import Catalogue, Item
from tsrec_jax.data.input import packed_batches, train_batches
from tsrec_jax.data.item_places import ItemPlaces
from tsrec_jax.data.sid_paths import SidPaths
from tsrec_jax.data.tasks.task import Example

FIRST = 50
SIDS = (("<a_1>", "<b_2>"), ("<a_2>", "<b_1>"), ("<a_1>", "<b_2>"), ("<a_2>", "<b_3>"))  # items 0 and 2 collide
CATALOGUE = Catalogue(tuple(Item(str(n), "") for n in range(4)), SIDS)
IDS = {token: FIRST + number for number, token in enumerate(CATALOGUE.tokens)}
PATHS = SidPaths.of_catalogue(CATALOGUE, FIRST)
PLACES = ItemPlaces.of_catalogue(CATALOGUE, FIRST)


def example(task, key, items, first, before=(7,), separator=(), behind=()):
    """Words, then items, of which those from `first` on are learned, and what is learned behind them."""
    tokens, prompt = [*before], 0
    for number, item in enumerate(items):
        prompt = len(tokens) if number == first else prompt
        tokens += [*(separator if number else ()), *(IDS[token] for token in SIDS[item])]
    prompt += len(separator) if first else 0
    return Example(task, np.array([*tokens, *behind], np.int32), prompt, key)


def wanted(rows, tasks):
    """(SID, its place in the example, whether it is learned) of each item of some examples."""
    sids = [(IDS["<a_1>"], IDS["<b_2>"]), (IDS["<a_2>"], IDS["<b_1>"]), (IDS["<a_2>"], IDS["<b_3>"])]
    return [
        (sids.index(pair), place, place >= row.prompt_length and row.task in tasks)
        for row in rows
        for place, pair in enumerate(zip(row.tokens[:-1].tolist(), row.tokens[1:].tolist(), strict=True))
        if pair in sids
    ]


@pytest.mark.parametrize("paths", [PATHS, None], ids=["among siblings", "among all"])
@pytest.mark.parametrize("separator", [(), (9,)], ids=["chained", "separated"])
def test_every_item_is_found_with_its_place_and_whether_it_is_learned(paths, separator):
    rows = [
        example("sequence", "0", [0, 1, 3, 1], 1, separator=separator),  # three are learned in one row
        example("single", "1", [2, 2, 0], 2, behind=(3, 4)),
        example("other", "2", [3], 0),
        example("sequence", "3", [1], 0),
    ]
    tasks = ("sequence", "single", "other")
    sources = {task: [row for row in rows if row.task == task] for task in tasks}
    batches = train_batches(
        sources, rates=dict.fromkeys(tasks, 1.0), sequence_length=16, rows=2, loss_slots=24, accumulation=2, seed=0,
        group=2, paths=paths,
    )  # fmt: skip
    by_key = {row.key: row for row in rows}
    for step in (1, 2):
        batch = batches.batch(step)
        added = PLACES.add(batch, (0, 1))
        assert {name: value.shape for name, value in added.items() if name.startswith("item")} == {
            f"item_{name}_BS": (2, 2, 8) for name in ("sid", "segment", "place", "learned")
        }
        found = []
        for micro, row in np.ndindex(2, 2):
            arrays = {name: added[f"item_{name}_BS"][micro, row] for name in ("sid", "segment", "place", "learned")}
            used = arrays["sid"] >= 0
            assert not (arrays["learned"] & ~used).any() and (used == np.sort(used)[::-1]).all()
            for sid, segment, place, learned in zip(*(array[used] for array in arrays.values()), strict=True):
                start = np.argmax(batch["segment_ids_BT"][micro, row] == segment)
                found.append((int(sid), int(place + 1 - start), bool(learned)))
        keys = [by_key[key] for key in batches.keys(step)]
        assert sorted(found) == sorted(wanted(keys, ("sequence", "single")))
        assert sum(learned for _, _, learned in found) > 0


def test_what_is_left_of_a_sid_that_was_cut_is_no_item_even_beside_another_row():
    cut = [Example("a", np.array([5, IDS["<a_1>"]], np.int32), 1, "0"),
           Example("a", np.array([IDS["<b_2>"], 6, IDS["<a_1>"], IDS["<b_1>"]], np.int32), 1, "1")]  # fmt: skip
    (batch,) = packed_batches(cut, 8, 1, 8)
    assert (PLACES.add(batch, (0,))["item_sid_BS"] == -1).all()
