import numpy as np
import pytest

from tests.evaluation.catalogues import catalogue_of
from tests.evaluation.cells import cell_of, rows_by
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.target_ranks import find_targets
from tsrec_jax.errors import UserError
from tsrec_jax.evaluation.study_cells import (
    System,
    calibration_bins,
    lost_at,
    read_cells,
    rows_of,
    sids_digest,
    systems_of,
    write_cells,
)

# Items 0, 1 and 2 share one SID, items 3 and 4 another.
CATALOGUE = catalogue_of([(0, 0), (0, 0), (0, 0), (1, 0), (1, 0), *((2, n) for n in range(9))])
SIDS = list(CATALOGUE.items_of_sid)
METRICS = [f"{name}@{k}" for name in ("HR", "NDCG") for k in (1, 3, 5, 10)]


def test_metrics_of_a_cell_are_those_of_the_scorer_on_the_same_lists():
    """Colliding SIDs, targets that are missed, and groups that lie across a cut-off."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, CATALOGUE.num_items, 200)
    lists = [list(rng.permutation(SIDS)[: rng.integers(1, len(SIDS))]) for _ in targets]
    users = tuple(str(n % 50) for n in range(200))
    rows = Interactions(users, tuple((0,) for _ in targets), targets.astype(np.int32))
    placed, lost = find_targets(lists, targets, CATALOGUE), lost_at(CATALOGUE, lists, targets)
    facts = rows_of(CATALOGUE, rows, rows)
    cell = cell_of(placed.rank, before=placed.before, lost=lost, rows=facts)
    for level in ("sid", "item"):
        for metric in METRICS:
            np.testing.assert_allclose(cell.values(level, metric), placed.values(level, metric), atol=1e-12)
    assert (sum(lost), lost[2]) == (200, (cell.rank >= 0).sum())


def test_a_target_is_followed_through_the_levels():
    catalogue = catalogue_of([(0, 0), (0, 1), (1, 2), (2, 3)])
    first, second, third, _ = catalogue.items_of_sid
    lists, targets = [[second, first], [second], [third], []], np.array([0, 0, 0, 0])
    placed = find_targets(lists, targets, catalogue)
    assert lost_at(catalogue, lists, targets) == [2, 1, 1]
    assert placed.rank.tolist() == [1, -1, -1, -1]
    assert placed.before.tolist() == [1, 0, 0, 0]
    with pytest.raises(ValueError, match="row 0: a SID stands twice"):
        find_targets([[first, first]], np.array([0]), catalogue)


def test_rows_say_how_often_their_target_was_one_in_train():
    train = Interactions(("u", "u", "v"), ((1,), (1, 2), (5,)), np.array([3, 4, 4], np.int32))
    rows = Interactions(("w", "v", "w"), ((1, 2), (3,), (1, 2, 4)), np.array([4, 0, 3], np.int32))
    facts = rows_of(CATALOGUE, train, rows)
    assert facts.user.tolist() == [0, 1, 0]
    assert facts.history.tolist() == [2, 1, 3]
    assert facts.count.tolist() == [2, 0, 1], "an item counts by itself, not by its SID"
    assert facts.group.tolist() == [2, 3, 2]
    moved = Interactions(("v", "w", "w"), rows.histories, rows.targets)
    assert rows_of(CATALOGUE, train, moved).digest != facts.digest
    assert sids_digest(CATALOGUE) != sids_digest(catalogue_of([(0, 0)] * CATALOGUE.num_items))


def test_cells_come_back_as_written(tmp_path):
    rows = rows_by([0, 1, 1], group=[1, 300, 2])
    calibration = calibration_bins(np.log([0.5, 0.3, 0.01]), np.array([True, False, False]))
    curve = [[5, 1.5, None], [10, 1.25, 0.5]]
    cells = [
        cell_of([0, -1, 4], seed=7, rows=rows, calibration=calibration, curve=curve),
        cell_of([1, 2, -1], rows=rows_by([0, 0, 0], digest="other"), before=[1, 70_000, 0]),
        cell_of([-1, -1, 0], seed=8, rows=rows),
    ]
    write_cells(tmp_path / "cells.npz", cells)
    for back, cell in zip(read_cells(tmp_path / "cells.npz"), cells, strict=True):
        for field in ("name", "seed", "kind", "seeded", "split", "beams", "sids", "lost", "curve", "cost", "facts"):
            assert getattr(back, field) == getattr(cell, field), field
        assert [tuple(each) for each in back.calibration] == cell.calibration
        for field in ("rank", "before"):
            np.testing.assert_array_equal(getattr(back, field), getattr(cell, field))
        for field in ("user", "history", "count", "group", "digest"):
            np.testing.assert_array_equal(getattr(back.rows, field), getattr(cell.rows, field))
    assert [entry.name for entry in tmp_path.iterdir()] == ["cells.npz"]


def test_ranks_of_many_cells_take_a_byte_or_two_a_row(tmp_path):
    rng = np.random.default_rng(0)
    rows = rows_by(range(5000), history=rng.integers(1, 11, 5000), count=rng.integers(0, 40, 5000))
    ranks = [np.where(rng.random(5000) < 0.2, rng.integers(0, 20, 5000), -1) for _ in range(60)]
    write_cells(tmp_path / "cells.npz", [cell_of(rank, seed=n, rows=rows) for n, rank in enumerate(ranks)])
    assert (tmp_path / "cells.npz").stat().st_size < 60 * 5000 * 1.5


def test_a_file_that_holds_no_cells_is_refused(tmp_path):
    path = tmp_path / "cell.npz"
    write_cells(path, [cell_of([0, 1], rows=rows_by([0, 0, 1]))])
    with pytest.raises(UserError, match=r"cell\.npz: no cells .*2 ranks for 3 rows"):
        read_cells(path)
    write_cells(path, [cell_of([0, 1])])
    whole = path.read_bytes()
    np.savez(tmp_path / "other.npz", x=np.zeros(2))
    other = (tmp_path / "other.npz").read_bytes()
    for damaged in (b"", b"{}", whole[:-9], whole[:90] + bytes(9) + whole[99:], other):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="delete it"):
            read_cells(path)


def test_cells_are_gathered_by_system_and_seed():
    cells = [cell_of([0], name="b", seed=2), cell_of([1], name="a"), cell_of([2], name="b", seed=1)]
    systems = systems_of(cells, ["b", "absent", "a"])
    assert [(system.name, system.seeds) for system in systems] == [("b", (1, 2)), ("a", (1,))]
    np.testing.assert_array_equal(systems[0].values("sid", "HR@1"), [[0.0], [1.0]])
    with pytest.raises(ValueError, match="same rows"):
        System("a", (cell_of([0]), cell_of([0], rows=rows_by([0], digest="other"))))
