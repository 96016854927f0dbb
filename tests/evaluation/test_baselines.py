import numpy as np

from tests.evaluation.catalogues import catalogue_of
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.evaluation.baselines import popularity, repeat_last

# Items 0 and 4 share a SID: its counts add up.
CATALOGUE = catalogue_of([(n, 0) for n in (0, 1, 2, 3, 0)])
TRAIN = Interactions(("u",) * 6, ((3,),) * 6, np.array([1, 0, 2, 4, 2, 0], np.int32))
ROWS = Interactions(("v", "w"), ((1, 3, 3, 2), (4,)), np.array([0, 0], np.int32))


def sids(*items):
    return [CATALOGUE.sid(item) for item in items]


def test_popularity_counts_the_targets_of_train_by_sid():
    assert popularity(CATALOGUE, TRAIN, ROWS, 4) == [sids(0, 2, 1, 3)] * 2
    assert popularity(CATALOGUE, TRAIN, ROWS, 2) == [sids(0, 2)] * 2


def test_repeat_last_goes_back_through_the_history_and_then_to_the_popular():
    assert repeat_last(CATALOGUE, TRAIN, ROWS, 4) == [sids(2, 3, 1, 0), sids(0, 2, 1, 3)]
    assert repeat_last(CATALOGUE, TRAIN, ROWS, 1) == [sids(2), sids(0)]
