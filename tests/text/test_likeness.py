"""Likeness: who is near whom, and with what chance."""

import numpy as np
import pytest

from tsrec_jax.data.catalogue import Item
from tsrec_jax.errors import UserError
from tsrec_jax.text.likeness import nearest_items, text_features

ITEMS = [Item(str(n), title) for n, title in enumerate(["red drill", "red drill", "red saw", "blue saw", "green lamp"])]

TITLES = ["red drill", "red saw", "blue saw", "blue drill", "red zebra", "wombat"]


def test_features_are_tf_idf_of_shared_words_in_rows_of_length_one():
    titled = [Item(str(n), title) for n, title in enumerate(TITLES)]
    features = text_features(titled).toarray()  # columns: blue, drill, red, saw
    rare, common = np.log(7 / 3) + 1, np.log(7 / 4) + 1  # red stands in three of the six titles, the others in two
    drill_and_red = np.array([rare, common]) / np.hypot(rare, common)
    np.testing.assert_allclose(features[0], [0, drill_and_red[0], drill_and_red[1], 0], rtol=1e-6)
    np.testing.assert_allclose(features[4], [0, 0, 1, 0], rtol=1e-6)
    assert not features[5].any()


def test_the_nearest_come_first_and_chances_grow_with_likeness():
    nearest, chances = nearest_items(ITEMS, 3, 2.0)
    assert nearest[0].tolist()[:2] == [1, 2]
    assert chances[0][0] > chances[0][1] > chances[0][2] == 0.0
    assert nearest[3][0] == 2
    np.testing.assert_allclose(chances[:4].sum(axis=1), 1.0, rtol=1e-6)
    assert all(item not in row for item, row in enumerate(nearest))


def test_an_item_like_no_other_has_no_chances():
    _, chances = nearest_items(ITEMS, 3, 2.0)
    assert chances[4].tolist() == [0.0, 0.0, 0.0]


def test_a_small_catalogue_gives_all_others():
    assert nearest_items(ITEMS, 50, 1.0)[0].shape == (5, 4)


def test_sharpness_prefers_the_most_alike():
    flat, sharp = (nearest_items(ITEMS, 3, value)[1][0][0] for value in (0.5, 5.0))
    assert sharp > flat


def test_texts_that_share_nothing_are_refused():
    with pytest.raises(UserError, match=r"share fewer than two words.*tfidf.*distilled_sid"):
        nearest_items([Item("1", "cat"), Item("2", "dog"), Item("3", "emu")], 2, 1.0)
