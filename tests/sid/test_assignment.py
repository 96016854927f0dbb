"""The size-constrained assignment: exact sizes, least cost, whatever the prices it starts from."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from tsrec_jax.sid.assignment import _Flow, balanced_assignment, transport_prices


def least_cost(cost_IE):
    """By the Hungarian method on places: floor(I / E) in every code and one more in any, at most one a code."""
    rows, codes = cost_IE.shape
    base, extra = divmod(rows, codes)
    if extra == 0:
        places = np.repeat(cost_IE, base, axis=1)
    else:
        places = np.concatenate([np.repeat(cost_IE, base, axis=1), cost_IE], axis=1)
        unused = np.concatenate([np.full((codes - extra, base * codes), 1e9), np.zeros((codes - extra, codes))], axis=1)
        places = np.concatenate([places, unused])
    chosen = linear_sum_assignment(places)
    return places[chosen].sum()


def problem(rows, codes, seed, clustered=False):
    rng = np.random.default_rng(seed)
    x_ID = rng.normal(size=(rows, 4)) + (4 * rng.integers(3, size=(rows, 1)) if clustered else 0)
    centres = x_ID[rng.choice(rows, codes, replace=False)]
    return ((x_ID[:, None] - centres[None]) ** 2).sum(-1).astype(np.float32)


def total(cost_IE, codes_I):
    return cost_IE[np.arange(len(cost_IE)), np.asarray(codes_I)].sum()


@pytest.mark.parametrize(
    ("rows", "codes", "clustered"),
    [(12, 4, False), (40, 7, True), (100, 10, True), (61, 60, False), (9, 9, True), (5, 1, False), (101, 8, True)],
)
def test_sizes_are_even_and_the_cost_is_the_least(rows, codes, clustered):
    cost_IE = problem(rows, codes, seed=rows, clustered=clustered)
    codes_I = np.asarray(balanced_assignment(jnp.asarray(cost_IE)))
    sizes_E = np.bincount(codes_I, minlength=codes)
    assert sizes_E.min() == rows // codes
    assert sizes_E.max() == -(-rows // codes)
    assert total(cost_IE, codes_I) == pytest.approx(least_cost(cost_IE), rel=1e-4, abs=1e-4)


def test_fewer_rows_than_codes_take_different_codes():
    cost_IE = problem(20, 20, seed=1)[:6]
    codes_I = np.asarray(balanced_assignment(jnp.asarray(cost_IE)))
    assert len(set(codes_I.tolist())) == 6


@pytest.mark.parametrize("prices", ["zero", "random", "wrong way"])
def test_the_prices_it_starts_from_do_not_change_the_cost(prices):
    cost_IE = problem(80, 8, seed=5, clustered=True)
    found = np.asarray(transport_prices(jnp.asarray(cost_IE)))
    start = {"zero": np.zeros(8), "random": np.random.default_rng(0).random(8), "wrong way": -found}[prices]
    codes_I = balanced_assignment(jnp.asarray(cost_IE), jnp.asarray(start, jnp.float32))
    assert total(cost_IE, codes_I) == pytest.approx(least_cost(cost_IE), rel=1e-4)


@pytest.mark.parametrize("cost_IE", [np.ones((30, 6)), np.arange(30.0)[:, None] + np.zeros((1, 6)), np.ones((5, 1))])
def test_costs_that_tell_no_code_from_another_price_none(cost_IE):
    assert np.asarray(transport_prices(jnp.asarray(cost_IE, jnp.float32))).tolist() == [0.0] * cost_IE.shape[1]


def test_costs_of_moves_are_brought_up_to_date_with_every_move_and_the_first_of_equal_rows_moves():
    cost_IE = np.random.default_rng(4).integers(0, 5, size=(60, 6)).astype(np.float32)  # many ties
    flow = _Flow(cost_IE, np.zeros(60, np.int32), np.zeros(6, bool), 10, 0.0)
    while (flow.sizes_E > 10).any():
        flow.augment()
        fresh = _Flow(cost_IE, flow.codes_I.copy(), flow.spare_E, 10, 0.0)
        assert np.array_equal(flow.moves_EF, fresh.moves_EF)
        assert all(map(np.array_equal, flow._members, fresh._members))
    assert total(cost_IE, flow.codes_I) == least_cost(cost_IE)


def test_equal_rows_are_dealt_out_evenly():
    codes_I = np.asarray(balanced_assignment(jnp.ones((30, 6))))
    assert np.bincount(codes_I, minlength=6).tolist() == [5] * 6


def test_prices_alone_leave_the_sizes_nearly_even():
    cost_IE = problem(400, 10, seed=3, clustered=True)
    free_E = np.bincount(cost_IE.argmin(axis=1), minlength=10)
    priced_E = np.bincount((cost_IE + np.asarray(transport_prices(jnp.asarray(cost_IE)))).argmin(axis=1), minlength=10)
    assert free_E.std() > 5 * priced_E.std()
    assert np.isfinite(np.asarray(transport_prices(jnp.asarray(1e4 * cost_IE)))).all()


def test_it_costs_what_k_means_constrained_assigns_for():
    constrained = pytest.importorskip("k_means_constrained")
    rng = np.random.default_rng(6)
    x_ID = rng.normal(size=(150, 5)) + 3 * rng.integers(4, size=(150, 1))
    theirs = constrained.KMeansConstrained(12, size_min=12, size_max=13, n_init=1, random_state=0).fit(x_ID)
    # Their assignment and their centres are of successive iterations: on equal centres ours may only be cheaper.
    cost_IE = ((x_ID[:, None] - theirs.cluster_centers_[None]) ** 2).sum(-1).astype(np.float32)
    codes_I = np.asarray(balanced_assignment(jnp.asarray(cost_IE)))
    assert np.bincount(codes_I, minlength=12).min() == 12
    assert total(cost_IE, codes_I) == pytest.approx(total(cost_IE, theirs.predict(x_ID)), rel=1e-4)
    assert total(cost_IE, codes_I) <= theirs.inertia_ * (1 + 1e-5)
