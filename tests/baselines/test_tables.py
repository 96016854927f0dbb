"""Every baseline that has tables gives by them, and by them from a file, the scores that it gives itself."""

import numpy as np
import pytest

from tests.baselines.catalogues import catalogue_of, dataset_of, quiet, rows_of
from tsrec_jax.baselines.names import BASELINES
from tsrec_jax.baselines.run import fit_baseline
from tsrec_jax.baselines.tables import BELOW, ItemTables, Seen, Term

TITLES = ["red pen", "blue pen", "red mug", "blue mug", "steel bolt", "steel nut"]
TRAIN = rows_of(((0,), 1), ((0, 1), 2), ((2,), 3), ((4,), 5), ((0, 4), 5), ((3,), 0))
HISTORIES = [(0,), (2, 4, 2), (5, 0, 1, 3)]


TABLED = [name for name, row in BASELINES.items() if row.tables]


@pytest.mark.parametrize("name", TABLED)
def test_tables_are_the_baseline_and_their_arrays_are_the_tables(name, tmp_path):
    vectors_ID = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    dataset = dataset_of(catalogue_of(TITLES), tmp_path)

    def vectors():
        return np.random.default_rng(0).normal(size=(len(TITLES), 4)).astype(np.float32)

    fitted = fit_baseline(name, dataset, TRAIN, TRAIN, 0, quiet, lambda: vectors_ID)
    scores_BI = fitted.tables.scores(HISTORIES)
    np.testing.assert_allclose(scores_BI, fitted.scores(HISTORIES), rtol=1e-5, atol=1e-6)
    assert scores_BI.std() > 0 and scores_BI.dtype == np.float32
    again = ItemTables.from_arrays(fitted.tables.to_arrays())
    assert np.array_equal(again.scores(HISTORIES), scores_BI)


def test_scores_are_the_weighted_sum_over_the_history():
    rng = np.random.default_rng(0)
    direct_II, features_IK = rng.normal(size=(4, 4)).astype(np.float32), rng.normal(size=(4, 2)).astype(np.float32)
    bias_I = rng.normal(size=4).astype(np.float32)
    tables = ItemTables(bias_I, (Term(0.5, direct_II), Term(0.0, features_IK, likeness=True)))
    wanted = bias_I + direct_II[3] / 3 + direct_II[1] * 2 / 3 + features_IK @ features_IK[1]
    np.testing.assert_allclose(tables.scores([(3, 1), ()]), [wanted, bias_I], rtol=1e-5)


def test_arrays_that_do_not_fit_together_are_refused():
    tables = ItemTables(np.zeros(3, np.float32), (Term(0.0, np.eye(3, dtype=np.float32)),))
    for bad in ({"table0": np.eye(2)}, {"table0": np.zeros((3, 4))}):
        with pytest.raises(ValueError, match="3 items"):
            ItemTables.from_arrays({**tables.to_arrays(), **bad})


SIDS_I = np.array([0, 1, 2, 0], np.int32)


def test_the_items_of_the_history_count_more_and_so_do_those_of_their_sid():
    tables = ItemTables(np.zeros(4, np.float32), seen=Seen(3.0, 0.5, SIDS_I))
    np.testing.assert_allclose(tables.scores([(1, 0), (2,), ()]), [[2, 1, 0, 2], [0, 0, 3, 0], [0] * 4], rtol=1e-6)


@pytest.mark.parametrize("bias", [[5.0, 5.5, -1.0, 0.0], [0.0] * 4])
def test_the_whole_history_falls_below_all_others_however_old_an_item_is(bias):
    tables = ItemTables(np.array(bias, np.float32), seen=Seen(BELOW, 0.0, SIDS_I))
    again = ItemTables.from_arrays(tables.to_arrays())
    for scores_BI in (tables.scores([(0, 1), (2, 2)]), again.scores([(0, 1), (2, 2)])):
        assert np.isfinite(scores_BI).all()
        assert scores_BI[0, 2] > scores_BI[0, [0, 1, 3]].max()
        assert scores_BI[1, [0, 1, 3]].min() > scores_BI[1, 2]


def test_sids_of_another_catalogue_are_refused():
    arrays = ItemTables(np.zeros(4, np.float32), seen=Seen(1.0, 0.5, SIDS_I)).to_arrays()
    with pytest.raises(ValueError, match="SIDs of 3 items for 4 items"):
        ItemTables.from_arrays({**arrays, "sids": SIDS_I[:3]})
