"""Residual quantisation: levels refine, sizes are even where asked, the same input gives the same codes."""

import types

import numpy as np
import pytest

from tests.said import said
from tsrec_jax.models.sharding import make_mesh
from tsrec_jax.sid import fit_levels, kmeans
from tsrec_jax.sid.quantisers.residual import BalancedQuantiser, ResidualQuantiser
from tsrec_jax.sid.settings import IndexSettings


@pytest.fixture(scope="module")
def x_ID():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(30, 12))[rng.integers(30, size=400)] + 0.3 * rng.normal(size=(400, 12))).astype(np.float32)


def fit(x_ID, sizes, balanced=False, seed=0, **settings):
    kind = BalancedQuantiser if balanced else ResidualQuantiser
    return kind.fit(x_ID, IndexSettings(sizes=sizes, **settings), seed)


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("sizes", [(16,), (8, 16), (4, 8, 16, 5)])
def test_any_number_of_levels_of_any_size(x_ID, sizes, balanced):
    quantiser, codes_IC = fit(x_ID, sizes, balanced, iterations=5)
    assert quantiser.sizes == sizes
    assert codes_IC.shape == (400, len(sizes))
    assert codes_IC.dtype == np.int32
    for level, size in enumerate(sizes):
        counts_E = np.bincount(codes_IC[:, level], minlength=size)
        assert len(counts_E) == size
        assert counts_E.min() > 0
        if balanced:
            assert counts_E.min() == 400 // size
            assert counts_E.max() == -(-400 // size)


def test_every_level_leaves_less_and_the_lines_say_so(x_ID):
    with said() as lines:
        quantiser, codes_IC = fit(x_ID, (16, 16, 16), iterations=10)
    left = [np.square(x_ID - quantiser.decode(codes_IC[:, :depth])).sum() for depth in range(1, 4)]
    assert left[0] > left[1] > left[2]
    shares = [float(line.split(", ")[1].split("%")[0]) / 100 for line in lines]
    total = np.square(x_ID - x_ID.mean(axis=0)).sum()
    assert shares == pytest.approx([value / total for value in left], abs=1e-3)


def test_free_codes_are_those_that_encode_gives(x_ID):
    quantiser, codes_IC = fit(x_ID, (16, 8), iterations=5)
    assert np.array_equal(quantiser.encode(x_ID), codes_IC)
    costs_IE = quantiser.last_level_costs(x_ID, codes_IC)
    assert np.array_equal(costs_IE.argmin(axis=1), codes_IC[:, -1])
    distance = np.square(x_ID - quantiser.decode(codes_IC)).sum(axis=1)
    assert np.allclose(costs_IE.min(axis=1), distance, atol=1e-4)


def test_the_same_seed_gives_the_same_codes_and_another_one_does_not(x_ID):
    first, again, other = (fit(x_ID, (16, 16), balanced=True, seed=seed, iterations=3)[1] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_balanced_centres_are_the_means_of_their_items(x_ID):
    quantiser, codes_IC = fit(x_ID, (10,), balanced=True, iterations=5)
    means_ED = np.stack([x_ID[codes_IC[:, 0] == code].mean(axis=0) for code in range(10)])
    assert np.allclose(quantiser.codebooks[0], means_ED, atol=1e-5)


@pytest.mark.parametrize(("balanced", "rows_per_code"), [(True, 0), (False, 0), (False, 20)])
def test_levels_of_many_items_are_the_same_on_one_and_on_eight_devices(balanced, rows_per_code, monkeypatch):
    x_ID = np.random.default_rng(1).normal(size=(301, 7)).astype(np.float32)
    kind = BalancedQuantiser if balanced else ResidualQuantiser
    settings = IndexSettings(sizes=(8, 4), iterations=3, rows_per_code=rows_per_code)
    for module in (fit_levels, kmeans):
        monkeypatch.setattr(module, "GROUP", 32)
    one, eight = (kind.fit(x_ID, settings, 0, None, mesh) for mesh in (None, make_mesh(data=2, fsdp=2, tensor=2)))
    for alone_ED, spread_ED in zip(one[0].codebooks, eight[0].codebooks, strict=True):
        assert np.array_equal(alone_ED, spread_ED)
    assert np.array_equal(one[1], eight[1])


def test_groups_of_rows_are_assigned_and_averaged_as_all_rows_are(x_ID, monkeypatch):
    prices_E = np.linspace(0, 1, 5, dtype=np.float32)
    whole = kmeans.assigned(x_ID, x_ID[:5], prices_E)
    monkeypatch.setattr(kmeans, "GROUP", 64)
    behind_ID = np.concatenate([x_ID, np.zeros((70, 12), np.float32)])  # which count for nothing
    grouped = kmeans.assigned(behind_ID, x_ID[:5], prices_E, rows=len(x_ID))
    for wanted, found in zip(whole, grouped, strict=True):
        assert np.allclose(wanted, found[: len(wanted)], atol=1e-5)
    assert set(grouped[0][400:].tolist()) == {5}


def test_prices_of_a_sample_change_little_and_the_last_sizes_stay_even(x_ID, monkeypatch):
    def fitted():
        quantiser, codes_IC = fit(x_ID, (10,), balanced=True, iterations=5)
        assert set(np.bincount(codes_IC[:, 0])) == {40}
        return np.square(x_ID - quantiser.decode(codes_IC)).mean()

    priced_by_all = fitted()
    monkeypatch.setattr(fit_levels, "PRICED_ROWS", 0)
    monkeypatch.setattr(fit_levels, "PRICED_ROWS_PER_CODE", 20)
    assert fitted() != priced_by_all
    assert fitted() < 1.05 * priced_by_all


def test_processes_await_what_the_first_one_finds_at_a_barrier_and_not_in_a_collective(monkeypatch):
    steps = []
    monkeypatch.setattr(fit_levels, "first_makes", lambda make: [steps.append("barrier"), make()][1])
    monkeypatch.setattr(fit_levels, "agree", lambda array: [steps.append("collective"), array][1])
    monkeypatch.setattr(fit_levels, "first", lambda: False)
    several = fit_levels._Fit(IndexSettings(), types.SimpleNamespace(is_multi_process=True))
    found = several.found_by_first(lambda: pytest.fail("it is for the first process alone"), np.zeros(3))
    assert steps == ["barrier", "collective"] and found.tolist() == [0, 0, 0]
    alone = fit_levels._Fit(IndexSettings(), None)
    assert alone.found_by_first(lambda: np.ones(2), np.zeros(2)).tolist() == [1, 1]
    assert len(steps) == 2


def test_embeddings_without_variance_are_not_said_to_be_coded_well():
    with said() as lines:
        fit(np.zeros((12, 3), np.float32), (4,), iterations=2)
    assert lines == ["level 1 of 1: 4 codes, there is no variance to code: all embeddings are equal"]


def test_a_sample_fits_nearly_as_well_as_all_items(x_ID):
    def error(rows_per_code):
        quantiser, codes = fit(x_ID, (16,), rows_per_code=rows_per_code)
        return np.square(x_ID - quantiser.decode(codes)).mean()

    assert error(12) < 1.25 * error(0)
    assert error(12) != error(0)


def test_arrays_bring_the_quantiser_back(x_ID):
    quantiser, codes_IC = fit(x_ID, (6, 5, 4), iterations=3)
    again = ResidualQuantiser.from_arrays(quantiser.arrays())
    assert np.array_equal(again.encode(x_ID), codes_IC)
