import numpy as np
import pytest

from tsrec_jax.data.dataset import Dataset
from tsrec_jax.data.held_out import hold_out_users, selection_split
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.errors import UserError
from tsrec_jax.shop.shop import make_shop


@pytest.fixture(scope="module")
def dataset():
    shop = make_shop(3, num_items=70, num_users=200)
    return Dataset("shop", "folder", shop.catalogue, shop.splits, {}, "hash")


def test_users_move_whole_from_train_to_the_selection_split(dataset):
    held = hold_out_users(dataset, 0.2)
    train, select = held.splits["train"], held.splits["select"]
    assert not set(train.users) & set(select.users)
    assert len(train) + len(select) == len(dataset.splits["train"])
    users = len(set(dataset.splits["train"].users))
    assert 0.1 < len(set(select.users)) / users < 0.3
    triples = sorted(zip(*(train.users + select.users, train.histories + select.histories), strict=True))
    assert triples == sorted(zip(dataset.splits["train"].users, dataset.splits["train"].histories, strict=True))
    assert (held.splits["valid"], held.splits["test"]) == (dataset.splits["valid"], dataset.splits["test"])
    assert selection_split(held) == "select"


def test_who_is_held_out_depends_on_the_user_alone(dataset):
    rows = dataset.splits["train"]
    back = Interactions(rows.users[::-1], rows.histories[::-1], rows.targets[::-1])
    reversed_rows = Dataset("shop", "folder", dataset.catalogue, {**dataset.splits, "train": back}, {}, "hash")
    held = [set(hold_out_users(each, 0.2).splits["select"].users) for each in (dataset, reversed_rows)]
    assert held[0] == held[1]
    assert held[0] < set(hold_out_users(dataset, 0.4).splits["select"].users)


def test_the_order_and_the_targets_of_rows_are_kept(dataset):
    rows, train = dataset.splits["train"], hold_out_users(dataset, 0.2).splits["train"]
    kept = [n for n, user in enumerate(rows.users) if user in set(train.users)]
    assert train.histories == tuple(rows.histories[n] for n in kept)
    np.testing.assert_array_equal(train.targets, rows.targets[kept])


def test_nothing_is_held_out_without_a_share_and_an_impossible_share_is_refused(dataset):
    assert hold_out_users(dataset, 0.0) is dataset
    assert selection_split(dataset) == "valid"
    for share, word in ((1e-9, "none"), (1.0, "all")):
        with pytest.raises(UserError, match=f"held_out={share} .* holds out {word}"):
            hold_out_users(dataset, share)
