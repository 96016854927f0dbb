import numpy as np
import pytest

from tests.baselines.catalogues import catalogue_of, quiet, rows_of
from tsrec_jax.baselines import ease, item_to_item
from tsrec_jax.baselines.ease import fit_ease, users_had
from tsrec_jax.baselines.item_to_item import strongest, table_of
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.errors import UserError

CATALOGUE = catalogue_of([f"item {n}" for n in range(9)])
RNG = np.random.default_rng(0)
HISTORIES = [tuple(map(int, RNG.integers(0, 8, RNG.integers(1, 5)))) for _ in range(60)]
TRAIN = Interactions(
    tuple(f"u{n % 25}" for n in range(60)), tuple(HISTORIES), np.array(RNG.integers(0, 8, 60), np.int32)
)  # nobody had item 8


def ridge_by_columns(had_UI, regularisation):
    """Each item predicted from the others alone: what a zero diagonal means."""
    items = had_UI.shape[1]
    weights_II = np.zeros((items, items))
    for item in range(items):
        others = np.setdiff1d(np.arange(items), [item])
        x = had_UI[:, others]
        weights_II[others, item] = np.linalg.solve(x.T @ x + regularisation * np.eye(items - 1), x.T @ had_UI[:, item])
    return weights_II


def test_the_weights_are_those_of_a_ridge_regression_of_each_item_on_the_others(monkeypatch):
    monkeypatch.setattr(ease, "START", {"regularisation": 3.0})
    monkeypatch.setattr(ease, "GRIDS", {})
    had_UI = np.zeros((25, 9))
    for user, history, target in zip(TRAIN.users, TRAIN.histories, TRAIN.targets, strict=True):
        had_UI[int(user[1:]), [*history, target]] = 1
    expected_II = ridge_by_columns(had_UI, 3.0)
    (term,) = fit_ease(CATALOGUE, TRAIN, TRAIN, 0, quiet).tables.terms
    table_II = term.table.toarray()
    assert not table_II.diagonal().any()
    scale = expected_II.max(axis=1).mean()
    np.testing.assert_allclose(table_II * scale, expected_II, atol=1e-5)
    assert table_II.max(axis=1).mean() == pytest.approx(1, rel=1e-5)


def test_a_user_had_an_item_once_however_many_rows_hold_it():
    rows = Interactions(("a", "b", "a"), ((1, 1), (2,), (1, 3)), np.array([3, 2, 0], np.int32))
    np.testing.assert_array_equal(users_had(rows, 4).toarray(), [[1, 1, 0, 1], [0, 0, 1, 0]])


def test_the_strongest_weights_are_kept_whatever_their_sign(monkeypatch):
    monkeypatch.setattr(item_to_item, "KEPT", 2)
    monkeypatch.setattr(item_to_item, "BLOCK", 3)
    weights_II = np.random.default_rng(2).normal(size=(7, 7)).astype(np.float32)
    table_II = table_of(*strongest(lambda start, end: weights_II[start:end], 7)).toarray()
    np.fill_diagonal(weights_II, 0)
    for kept, row in zip(table_II, weights_II, strict=True):
        assert set(np.flatnonzero(kept)) == set(np.argsort(-np.abs(row))[:2])
    ratio = table_II[table_II != 0] / weights_II[table_II != 0]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)


def test_repeats_are_wanted_where_selection_repeats_and_not_where_it_never_does():
    often = rows_of(*[((item,), item) for item in range(8)])
    never = rows_of(
        *[((item, 7 - item), (item + 1) % 8) for item in range(8) if (item + 1) % 8 not in (item, 7 - item)]
    )
    own = [fit_ease(CATALOGUE, TRAIN, select, 0, quiet).tables.seen.weight for select in (often, never)]
    assert own[0] > 0 >= own[1]


def test_a_catalogue_too_large_to_invert_is_refused_before_anything_is_made(monkeypatch):
    monkeypatch.setattr(ease, "MOST_BYTES", 4 * 9**2 - 1)
    with pytest.raises(UserError, match=r"ease: 9 items need .* leave this baseline out"):
        fit_ease(CATALOGUE, TRAIN, TRAIN, 0, quiet)


def test_it_says_what_memory_it_needs():
    said = []
    fit_ease(catalogue_of(["a"] * 9), TRAIN, TRAIN, 0, said.append)
    assert "9 items, a matrix of" in said[0]


def test_a_selection_without_rows_is_refused():
    with pytest.raises(UserError, match="no rows"):
        fit_ease(CATALOGUE, TRAIN, rows_of(), 0, quiet)
