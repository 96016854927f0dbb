"""Reads the splits of a dataset folder, compares them, and finds their repeats and the order of their histories."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Mapping, Sequence

from tsrec_jax.data.catalogue import Item
from tsrec_jax.data.faults import Faults
from tsrec_jax.data.interactions import Interactions, read_interactions
from tsrec_jax.data.row_facts import Direction, also_in, direction, repeats

SPLITS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True)
class FolderRows:
    """The rows of a folder, without those that have a fault.

    Attributes:
      splits: those of `train`, `valid` and `test` that exist.
      repeats: for each split, the number of rows that equal an earlier one.
      direction: which end of the histories is the newest.
    """

    splits: Mapping[str, Interactions]
    repeats: Mapping[str, int]
    direction: Direction


def read_rows(
    folder: pathlib.Path,
    files: Mapping[str, str],
    items: Sequence[Item],
    overlaps: str,
    faults: Faults,
    sids: Sequence[str] | None = None,
) -> FolderRows:
    """The rows of every split that exists; `overlaps` as in `Reading`, `sids` as in `read_interactions`."""
    splits = {
        split: read_interactions(folder / f"{split}.csv", files[f"{split}.csv"], items, faults, sids)
        for split in SPLITS
        if f"{split}.csv" in files
    }
    again = {split: repeats(rows) for split, rows in splits.items()}
    for split, count in again.items():
        if count:
            note = f"{count} of {len(splits[split])} rows repeat an earlier one; all are kept"
            faults.note(folder / f"{split}.csv", note)
    for one, other in itertools.combinations(splits, 2):
        _compare(folder, one, other, splits, overlaps, faults)
    found = direction(splits.values())
    if found.backwards:
        faults.add(
            folder,
            "",
            f"histories are written newest first: {found.oldest} of {found.rows} rows continue another row of their "
            f"user at the beginning of the history, {found.newest} at its end; the oldest item must come first, so "
            "turn every history_* list round",
        )
    return FolderRows(splits, again, found)


def _compare(
    folder: pathlib.Path,
    one: str,
    other: str,
    splits: Mapping[str, Interactions],
    overlaps: str,
    faults: Faults,
) -> None:
    """Notes the rows of the later of two splits that are also in the earlier one."""
    rows = splits[other]
    shared = also_in(rows, splits[one])
    if not shared:
        return
    before = len(rows.histories[shared[0]])
    row = f"user {rows.users[shared[0]]!r} with {before} item{'s' * (before != 1)} before"
    words = f"{len(shared)} of {len(rows)} rows stand in {one}.csv too, with user, history and item (the first: {row})"
    path = folder / f"{other}.csv"
    if overlaps == "refuse":
        faults.add(path, "", f"{words}; take them out of {one}.csv, or set config.dataset.overlaps=warn")
    else:
        faults.note(path, f"{words}; config.dataset.overlaps=refuse makes that a fault")
