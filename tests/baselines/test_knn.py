import numpy as np
import pytest

from tests.baselines.catalogues import catalogue_of, quiet, rows_of
from tsrec_jax.baselines import item_to_item, knn
from tsrec_jax.baselines.knn import fit_knn
from tsrec_jax.errors import UserError

CATALOGUE = catalogue_of([f"item {n}" for n in range(12)])
RNG = np.random.default_rng(0)
# Six quiet directions, one for each pair (0, 6), (1, 7), ...; a loud one means nothing.
VECTORS = np.hstack([np.eye(6)[np.arange(12) % 6], 50 * RNG.normal(size=(12, 1)) + 200]).astype(np.float32)
PAIRS = rows_of(*[((item,), (item + 6) % 12) for item in range(12)])


def fit(select=PAIRS, vectors=VECTORS):
    return fit_knn(CATALOGUE, PAIRS, select, 0, quiet, lambda: vectors)


def test_the_nearest_item_comes_first():
    fitted = fit()
    scores_BI = fitted.scores([(item,) for item in range(12)])
    assert scores_BI.dtype == np.float32
    assert scores_BI.argmax(axis=1).tolist() == [(item + 6) % 12 for item in range(12)]
    assert fitted.facts["settings"]["whiten"] > 0  # what means nothing is only as loud as the rest


def test_weights_are_powers_of_cosines_of_centred_vectors(monkeypatch):
    monkeypatch.setattr(knn, "START", {"whiten": 0.0, "sharpness": 3.0})
    monkeypatch.setattr(knn, "GRIDS", {})
    monkeypatch.setattr(item_to_item, "KEPT", 4)
    table_II = fit().tables.terms[0].table.toarray()
    x = VECTORS.astype(np.float64) - VECTORS.mean(axis=0, dtype=np.float64)
    cosines = x @ x.T / np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(x, axis=1))
    np.fill_diagonal(cosines, 0)
    expected = np.maximum(cosines, 0) ** 3
    expected[expected < np.sort(expected, axis=1)[:, -4, None]] = 0
    np.testing.assert_allclose(table_II, expected / expected.max(axis=1).mean(), rtol=1e-3, atol=1e-6)


def test_vectors_that_are_all_equal_leave_popularity():
    scores_BI = fit(vectors=np.ones((12, 3), np.float32)).scores([(0,), (3,)])
    assert np.isfinite(scores_BI).all()


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        (np.ones((11, 3)), r"shape \(11, 3\) for a catalogue of 12 items; it needs one for each item"),
        (np.ones(12), r"shape \(12,\)"),
        (np.where(np.arange(36).reshape(12, 3) > 20, np.nan, 1.0), r"the vector of item 7 \(of 5\) is not finite"),
    ],
)
def test_vectors_that_are_not_one_an_item_are_refused(vectors, words):
    with pytest.raises(UserError, match=words):
        fit(vectors=vectors)


def test_items_are_compared_once_for_each_whitening_and_the_number_of_pairs_is_said_before(monkeypatch):
    compared, said = [], []
    strongest = knn.strongest
    monkeypatch.setattr(knn, "strongest", lambda *given: compared.append(len(said)) or strongest(*given))
    fit_knn(CATALOGUE, PAIRS, PAIRS, 0, said.append, lambda: VECTORS)
    assert "12 items, 1.4e+02 cosines for each whitening" in said[0]
    assert compared == [1] * len({knn.START["whiten"], *knn.GRIDS["whiten"]})


def test_too_many_pairs_are_refused_before_there_are_vectors(monkeypatch):
    monkeypatch.setattr(knn, "MOST_PAIRS", 143)
    with pytest.raises(UserError, match=r"12 items are 1\.4e\+02 pairs .* leave this baseline out"):
        fit_knn(CATALOGUE, PAIRS, PAIRS, 0, quiet, lambda: pytest.fail("vectors were made"))


def test_a_selection_without_rows_is_refused():
    with pytest.raises(UserError, match="no rows"):
        fit(select=rows_of())
