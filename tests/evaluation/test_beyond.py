"""What is recommended, whether or not it is right, against values worked out by hand or over every order of ties."""

import itertools
import math

import numpy as np
import pytest

from tests.evaluation.catalogues import catalogue_of
from tsrec_jax.data.catalogue import Catalogue, Item
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.evaluation.beyond import BEYOND, Background, exposures, gini
from tsrec_jax.text.likeness import text_features


def rows_with(targets):
    return Interactions(tuple(map(str, range(len(targets)))), ((0,),) * len(targets), np.array(targets, np.int32))


def titled(titles, codes):
    items = tuple(Item(str(n), title) for n, title in enumerate(titles))
    return Catalogue(items, tuple((f"<a_{a}>", f"<b_{b}>") for a, b in codes))


def test_values_are_those_worked_out_by_hand():
    """Twelve items with a SID each; train takes item 0 six times, item 1 twice and no other."""
    catalogue = catalogue_of([(n, 0) for n in range(12)])
    sids = [catalogue.sid(n) for n in range(12)]
    found = Background.of(catalogue, rows_with([0] * 6 + [1] * 2)).measure(
        [sids[:10], [sids[0], sids[1]]], [(3, 11, 3, 4), (5,)]
    )
    assert set(found) == set(BEYOND)
    assert found["coverage@10"] == pytest.approx(10 / 12)
    # Exposures 0, 0, 1 (eight times), 2, 2: sum of (2 i - 13) x_i = -9 - 7 - 5 - 3 - 1 + 1 + 3 + 5 + 2 (9 + 11) - 2 (0)
    weighted = sum((2 * i - 13) * x for i, x in enumerate([0, 0, *[1] * 8, 2, 2], 1))
    assert weighted == 40
    assert found["Gini@10"] == pytest.approx(40 / (12 * 12))
    # Means of train counts: (6 + 2) / 10 and (6 + 2) / 2; of the targets of train: (36 + 4) / 8 = 5.
    assert found["popularity@10"] == pytest.approx((0.8 + 4.0) / 2 / 5)
    bits = [-math.log2(7 / 20), -math.log2(3 / 20), -math.log2(1 / 20)]
    means = (bits[0] + bits[1] + 8 * bits[2]) / 10, (bits[0] + bits[1]) / 2
    assert found["novelty@10"] == pytest.approx(sum(means) / 2)
    assert found["repeats@10"] == pytest.approx((2 / 10 + 0) / 2), "items 3 and 4 of the first list"


def test_diversity_is_one_less_the_mean_cosine_of_the_pairs_of_a_list():
    titles = ["red wool scarf", "red wool hat", "steel hammer", "steel hammer", "zzyzx"]
    catalogue = titled(titles, [(n, 0) for n in range(5)])
    features_IK = text_features(catalogue.items).toarray().astype(float)
    cosine = features_IK @ features_IK.T
    assert cosine[2, 3] == pytest.approx(1.0), "the same words"
    assert not cosine[4].any(), "a word of its own only"
    sids = [catalogue.sid(n) for n in range(5)]
    background = Background.of(catalogue, rows_with([0, 1]))

    def diversity(*lists):
        return background.measure([[sids[n] for n in each] for each in lists], [(0,)] * len(lists))["diversity@10"]

    assert diversity([2, 3]) == pytest.approx(0.0, abs=1e-6)
    assert diversity([0, 2]) == pytest.approx(1.0)
    assert diversity([0, 4]) == pytest.approx(1.0)
    assert diversity([0, 1, 2]) == pytest.approx(1 - cosine[0, 1] / 3)
    assert diversity([2, 3], [0, 2]) == pytest.approx(0.5), "the mean over rows"
    assert diversity([2, 3], [0]) == pytest.approx(0.0, abs=1e-6), "a list of one item has no pairs"
    assert diversity([0]) is None


def test_texts_that_tell_nothing_leave_diversity_unknown_and_the_rest_known():
    catalogue = titled(["aa", "bb", "cc"], [(n, 0) for n in range(3)])
    found = Background.of(catalogue, rows_with([0])).measure([[catalogue.sid(0), catalogue.sid(1)]], [(0,)])
    assert found.pop("diversity@10") is None
    assert all(value is not None for value in found.values())


def test_items_of_a_colliding_sid_count_as_in_every_order_of_their_tie():
    """Groups of 2, 5 and 6 items: the first ten places cut the last group after its third item."""
    codes = [(0, 0)] * 2 + [(1, 0)] * 5 + [(2, 0)] * 6
    titles = [f"{colour} {thing}" for colour in ("red", "blue") for thing in ("hat", "scarf", "glove", "boot")]
    catalogue = titled([*titles, *titles[:5]], codes)
    ranked = list(catalogue.items_of_sid)
    train = rows_with([0, 0, 3, 7, 7, 7, 12])
    count_I = np.bincount(train.targets, minlength=13)
    features_IK = text_features(catalogue.items).toarray().astype(float)
    history = (1, 7, 8, 9, 2)
    shown, popular, bits, diverse, repeats = [], [], [], [], []
    for last in itertools.combinations(range(7, 13), 3):
        items = [*range(7), *last]
        shown.append(np.isin(np.arange(13), items))
        popular.append(count_I[items].mean() / ((count_I**2).sum() / count_I.sum()))
        bits.append(np.mean([-math.log2((count_I[i] + 1) / (count_I.sum() + 13)) for i in items]))
        diverse.append(1 - np.mean([features_IK[i] @ features_IK[j] for i, j in itertools.combinations(items, 2)]))
        repeats.append(np.isin(items, history).mean())
    found = Background.of(catalogue, train).measure([ranked], [history])
    np.testing.assert_allclose(exposures([ranked], catalogue).toarray()[0], np.mean(shown, axis=0))
    assert found["coverage@10"] == 1.0
    assert found["popularity@10"] == pytest.approx(np.mean(popular))
    assert found["novelty@10"] == pytest.approx(np.mean(bits))
    assert found["diversity@10"] == pytest.approx(np.mean(diverse))
    assert found["repeats@10"] == pytest.approx(np.mean(repeats))


def test_the_gini_coefficient_is_half_the_relative_mean_difference():
    exposure = np.random.default_rng(0).integers(0, 9, 40).astype(float)
    difference = np.abs(exposure[:, None] - exposure[None]).mean()
    assert gini(exposure) == pytest.approx(difference / 2 / exposure.mean())
    assert gini(np.ones(7)) == pytest.approx(0.0)
    assert gini(np.array([0.0, 5.0, 0.0, 0.0])) == pytest.approx(3 / 4)


def test_rows_without_a_list_count_for_nothing():
    catalogue = catalogue_of([(n, 0) for n in range(3)])
    background = Background.of(catalogue, rows_with([0, 1]))
    lists = [[catalogue.sid(0), catalogue.sid(2)]]
    assert background.measure([*lists, []], [(2,), (0,)]) == background.measure(lists, [(2,)])
    with pytest.raises(ValueError, match="no row"):
        background.measure([[]], [(0,)])
