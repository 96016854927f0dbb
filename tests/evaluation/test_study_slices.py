import numpy as np
import pytest

from tests.evaluation.cells import cell_of, rows_by
from tsrec_jax.evaluation.study_cells import System, calibration_bins
from tsrec_jax.evaluation.study_slices import calibration, calibration_error, convergence, curve, lost_levels, slices


def test_rows_are_sliced_by_target_and_history():
    rows = rows_by([0, 1, 2, 3], history=[1, 3, 6, 7], count=[0, 0, 2, 30])
    first = cell_of([0, -1, 1, -1], rows=rows)
    second = cell_of([0, 0, 1, -1], rows=rows, seed=2)
    found = slices(System("a", (first, second)))
    cold, warm = found["target"]
    assert (cold.name, cold.rows, cold.means["HR@10"]) == ("cold", 2, 0.75)
    assert (warm.rows, warm.means["HR@10"]) == (2, 0.5)
    assert warm.means["NDCG@10"] == pytest.approx(0.5 / np.log2(3))
    assert [(part.name, part.rows) for part in found["history length"]] == [("1", 1), ("2-3", 1), ("4-6", 1), ("7+", 1)]
    by_count = {part.name: part for part in found["target count in train"]}
    assert {name: part.rows for name, part in by_count.items()} == {"0": 2, "1-2": 1, "3-9": 0, "10+": 1}
    assert by_count["3-9"].means["HR@10"] is None, "no rows, no mean"


def test_the_level_at_which_targets_are_lost_is_counted_over_seeds():
    cells = (cell_of([0, -1, -1, -1], lost=[1, 1, 1, 1]), cell_of([0, 0, -1, -1], seed=2, lost=[2, 0, 0, 2]))
    assert lost_levels(System("a", cells)) == [3 / 8, 1 / 8, 1 / 8, 3 / 8]


def test_calibration_sets_confidence_against_hits():
    bins = calibration_bins(np.log([0.9, 0.9, 0.9, 0.15]), np.array([True, True, False, False]))
    found = calibration(System("a", (cell_of([0, 0, 1, -1], calibration=bins),)))
    assert [(each.low, each.rows) for each in found] == [(0.1, 1), (0.8, 3)]
    assert found[1].hits == pytest.approx(2 / 3)
    assert calibration_error(found) == pytest.approx((3 * (0.9 - 2 / 3) + 0.15) / 4)
    assert calibration(System("a", (cell_of([0]),))) == []
    assert calibration_error([]) is None
    both = calibration(System("a", tuple(cell_of([0, 0, 1, -1], seed=n, calibration=bins) for n in (1, 2))))
    assert [(each.rows, each.hits) for each in both] == [(2 * each.rows, each.hits) for each in found]


def arm(name, *curves):
    return System(name, tuple(cell_of([0], name=name, seed=n, curve=points) for n, points in enumerate(curves, 1)))


def test_a_curve_has_the_validations_that_all_seeds_reached():
    found = curve(arm("a", ((5, 2.0, 0.1), (10, 1.0, 0.2), (15, 0.5, 0.3)), ((5, 4.0, 0.3), (10, 2.0, None))), "loss")
    assert found.step_P.tolist() == [5, 10]
    assert found.mean_P.tolist() == [3.0, 1.5]
    assert curve(arm("a", ((5, 2.0, None),)), "HR@10") is None
    apart = curve(arm("a", ((112, 2.0, 0.1), (225, 1.0, 0.2)), ((114, 1.0, 0.3), (227, 0.0, 0.4))), "HR@10")
    assert apart.step_P.tolist() == [113, 226]
    assert apart.value_SP.tolist() == [[0.1, 0.2], [0.3, 0.4]]


def test_convergence_is_measured_against_the_best_final_value():
    fast = arm("fast", ((5, 1, 0.18), (10, 1, 0.2)), ((5, 1, 0.20), (10, 1, 0.2)))
    slow = arm("slow", ((5, 1, 0.1), (10, 1, 0.18)), ((5, 1, 0.1), (10, 1, 0.16)))
    found = convergence([fast, slow, arm("blind", ((5, 1.0, None),))])
    assert set(found) == {"fast", "slow"}
    assert found["fast"].threshold == pytest.approx(0.18)
    assert (found["fast"].step, found["fast"].of_seeds) == (5, [5, 5])
    assert (found["slow"].step, found["slow"].of_seeds) == (None, [10, None])
    assert convergence([]) == {}
