"""What rows say of themselves: repeats, rows of two splits, which end of a history is the newest, and their order."""

import numpy as np
import pytest

from tsrec_jax.data.interactions import Interactions, spread
from tsrec_jax.data.row_facts import Direction, also_in, direction, out_of_time, repeats
from tsrec_jax.shop.shop import make_shop


def rows_of(*rows):
    users, histories, targets = zip(*rows, strict=True)
    return Interactions(users, histories, np.array(targets, np.int32))


@pytest.fixture(scope="module")
def shop():
    return make_shop(3, num_items=80, num_users=60).splits


def turned(rows, cut=0):
    """The rows with histories written newest first, of which the newest are kept."""
    return Interactions(rows.users, tuple(history[::-1][: cut or None] for history in rows.histories), rows.targets)


def newest(rows, cut):
    return Interactions(rows.users, tuple(history[-cut:] for history in rows.histories), rows.targets)


def test_repeats_are_rows_of_one_user_history_and_target():
    rows = rows_of(("u", (1,), 2), ("v", (1,), 2), ("u", (1,), 2), ("u", (1,), 3), ("u", (1, 1), 2), ("u", (1,), 2))
    assert repeats(rows) == 2
    other = rows_of(("u", (1,), 3), ("w", (1,), 2), ("v", (1,), 2))
    assert also_in(other, rows) == [0, 2]
    assert also_in(rows, other) == [1, 3]


@pytest.mark.parametrize("cut", [50, 3])
def test_the_end_at_which_rows_continue_each_other_is_the_newest(shop, cut):
    found = direction([newest(rows, cut) for rows in shop.values()])
    assert found.newest > 0.7 * found.rows and found.oldest < 0.03 * found.rows and not found.backwards
    found = direction([turned(rows, cut) for rows in shop.values()])
    assert found.oldest > 0.7 * found.rows and found.newest < 0.03 * found.rows and found.backwards


def test_a_user_who_buys_one_thing_and_rows_without_others_say_nothing_of_direction():
    same = rows_of(*(("u", (7,) * min(k, 10), 7) for k in range(1, 25)), ("v", (1, 2), 3))
    assert direction([same]) == Direction(rows=24, newest=0, oldest=0)
    assert out_of_time(same) == ""


def test_order_of_time_is_that_of_growing_histories(shop):
    train = shop["train"]
    assert out_of_time(train) == out_of_time(newest(train, 3)) == ""
    backwards = train.take(np.arange(len(train))[::-1])
    assert out_of_time(backwards).startswith("0 of ")
    shuffled = train.take(np.random.default_rng(0).permutation(len(train)))
    assert out_of_time(shuffled).endswith(" rows that continue another one stand behind it")
    by_user = train.take(np.argsort(train.users, kind="stable"))
    assert out_of_time(by_user) == "they stand user by user"


def test_rows_are_spread_from_the_first_to_the_last(shop):
    assert spread(9, 3).tolist() == [0, 4, 8]
    assert spread(3, 5).tolist() == [0, 1, 2]
    assert spread(3, 0).tolist() == []
    train = shop["train"]
    assert train.spread(len(train)) == train
    assert train.spread(2) == train.take([0, len(train) - 1])
