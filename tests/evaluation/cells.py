"""Cells of a study made by hand."""

import numpy as np

from tsrec_jax.evaluation.study_cells import Cell, Rows


def rows_by(users, history=None, count=None, group=None, digest="rows"):
    """Rows of these users; all alike where nothing else is said."""
    ones = np.ones(len(users), np.int32)
    parts = [ones if each is None else np.array(each, np.int32) for each in (history, count, group)]
    return Rows(np.array(users, np.int32), *parts, digest)


def cell_of(rank, *, name="arm", seed=1, rows=None, before=None, lost=None, **changed):
    """A cell with the targets at these ranks; every row is another user's where nothing else is said."""
    rank = np.array(rank, np.int32)
    listed = np.where(rank < 0, 0, rank)
    entries = {
        "kind": "arm",
        "seeded": True,
        "split": "test",
        "beams": 20,
        "sids": "sids",
        "calibration": [],
        "curve": [],
        "cost": {"steps": 10.0 * seed},
        "facts": {"command": "study", "commit": "c", "machine": "m", "versions": {"jax": "0"}, "data_hash": "d"},
        "data": "d",
        "config": {},
    } | changed
    return Cell(
        name=name,
        seed=seed,
        rows=rows_by(range(len(rank))) if rows is None else rows,
        rank=rank,
        before=listed if before is None else np.array(before, np.int32),
        lost=[int((rank < 0).sum()), 0, 0, int((rank >= 0).sum())] if lost is None else lost,
        **entries,
    )
