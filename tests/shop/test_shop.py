"""The embedded shop: a correct dataset whose histories follow the stated process, and the process's own ranking."""

import numpy as np
import pytest

from tsrec_jax.data.dataset import read_dataset, write_dataset
from tsrec_jax.shop.shop import FINISHES, KINDS, SHARES, TASTE, make_shop


@pytest.fixture(scope="module")
def shop():
    return make_shop(seed=3)


def test_equal_arguments_give_equal_shops_and_other_seeds_others():
    shops = [make_shop(seed, num_items=80, num_users=30) for seed in (3, 3, 4)]
    same, again, other = ([shop.catalogue, shop.splits["train"].histories, shop.token_descriptions] for shop in shops)
    assert same == again
    assert same[0] != other[0] and same[1] != other[1]


@pytest.mark.parametrize(("items", "users"), [(67, 10), (300, 900), (333, 40)])
def test_a_shop_is_a_correct_dataset_folder(items, users, tmp_path):
    shop = make_shop(1, num_items=items, num_users=users)
    write_dataset("shop", shop.catalogue, shop.splits, shop.token_descriptions, tmp_path / "shop")
    dataset = read_dataset(tmp_path / "shop")
    assert dataset.catalogue == shop.catalogue
    assert dataset.catalogue.num_items == items
    assert set(dataset.catalogue.tokens) == set(dataset.token_descriptions)
    for name, rows in shop.splits.items():
        assert dataset.splits[name].histories == rows.histories
        np.testing.assert_array_equal(dataset.splits[name].targets, rows.targets)
        assert max(map(len, rows.histories)) <= 10


def test_items_have_words_of_their_codes_and_some_share_a_sid(shop):
    kinds = [(category, kind) for category, names in KINDS.items() for kind in names]
    for item, sid in zip(shop.catalogue.items, shop.catalogue.sids, strict=True):
        a, b, c = (int(token[3:-1]) for token in sid)
        category, kind = kinds[b]
        assert list(KINDS)[a] == category == item.categories
        assert item.title == f"{item.brand} {list(FINISHES)[c]} {kind}"
        assert kinds[shop.goes_with[b]][1] in item.description
    assert len({item.title for item in shop.catalogue.items}) == 300
    assert 300 - len(shop.catalogue.items_of_sid) == 12


def test_the_splits_follow_time_and_prefixes(shop):
    sizes = [len(shop.splits[name]) for name in ("train", "valid", "test")]
    assert sizes[0] == int(sum(sizes) * 0.8)
    assert abs(sizes[1] - sizes[2]) <= 1
    train = shop.splits["train"]
    longest = {}
    for user, history in zip(train.users, train.histories, strict=True):
        longest[user] = max(longest.get(user, 0), len(history))
    for user, history in zip(shop.splits["test"].users, shop.splits["test"].histories, strict=True):
        assert len(history) >= longest.get(user, 0), "a user's later rows must be in later splits"


def test_next_items_are_distributed_as_stated():
    """Drawn histories against the stated shares, with the favourite finish unknown."""
    shop = make_shop(seed=5, num_items=300, num_users=3000)
    rows = [
        (history[-1], int(target))
        for part in shop.splits.values()
        for history, target in zip(part.histories, part.targets, strict=True)
    ]
    last, nxt = np.array(rows).T
    goes = (shop.goes_with[shop.kinds_I[last]] == shop.kinds_I[nxt]).mean()
    assert goes == pytest.approx(SHARES["goes with"] + 0.05, abs=0.05)
    same_category = (shop.categories_I[last] == shop.categories_I[nxt]).mean()
    assert same_category > SHARES["category"] + SHARES["kind"]
    assert not (last == nxt).any(), "the last item is never bought twice in a row"


def test_the_process_predicts_its_own_draws_with_calibrated_probabilities(shop):
    """Over all rows, the probability given to the items of a group must equal how often they are bought."""
    rows = shop.splits["train"]
    given, bought = [], []
    for history, target in zip(rows.histories[:1500], rows.targets[:1500], strict=True):
        probabilities_I = shop.next_item_probabilities(history)
        assert probabilities_I.sum() == pytest.approx(1.0)
        assert probabilities_I[history[-1]] < 1e-12
        top = np.argsort(-probabilities_I)[:10]
        given.append(probabilities_I[top].sum())
        bought.append(target in top)
    assert np.mean(given) == pytest.approx(np.mean(bought), abs=0.04)


def test_a_favourite_finish_seen_twice_is_expected_again(shop):
    finish = int(np.bincount(shop.finishes_I).argmax())
    liked = np.flatnonzero(shop.finishes_I == finish)[:3]
    probabilities_I = shop.next_item_probabilities([int(item) for item in liked])
    share = probabilities_I[shop.finishes_I == finish].sum()
    assert share > 3 * (shop.finishes_I == finish).mean()
    assert TASTE > 1


@pytest.mark.parametrize(("items", "users", "words"), [(66, 50, "67 to 320"), (400, 50, "67 to 320"), (100, 9, "10")])
def test_sizes_that_no_shop_can_have_are_refused(items, users, words):
    with pytest.raises(ValueError, match=words):
        make_shop(0, num_items=items, num_users=users)
