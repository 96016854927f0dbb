"""The splits of a dataset folder: read, held against each other, and what they say of repeats and of order."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Mapping, Sequence

from tsrec_jax.data.catalogue import Item
from tsrec_jax.data.faults import Faults
from tsrec_jax.data.interactions import Interactions, read_interactions
from tsrec_jax.data.row_facts import also_in, direction, repeats

SPLITS = ("train", "valid", "test")


def read_splits(
    folder: pathlib.Path,
    files: Mapping[str, str],
    items: Sequence[Item],
    overlaps: str,
    faults: Faults,
    sids: Sequence[str] | None = None,
) -> dict[str, Interactions]:
    """The rows of every split that is there; `overlaps` as in `Reading`, `sids` as in `read_interactions`."""
    splits = {
        split: read_interactions(folder / f"{split}.csv", files[f"{split}.csv"], items, faults, sids)
        for split in SPLITS
        if f"{split}.csv" in files
    }
    for split, rows in splits.items():
        if again := repeats(rows):
            faults.note(folder / f"{split}.csv", f"{again} of {len(rows)} rows repeat an earlier one; all are kept")
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
    return splits


def _compare(
    folder: pathlib.Path,
    one: str,
    other: str,
    splits: Mapping[str, Interactions],
    overlaps: str,
    faults: Faults,
) -> None:
    """Notes the rows of the later of two splits that stand in the earlier one too."""
    rows = splits[other]
    shared = also_in(rows, splits[one])
    if not shared:
        return
    first = shared[0]
    row = f"user {rows.users[first]!r} with {_items(len(rows.histories[first]))} before"
    words = f"{len(shared)} of {len(rows)} rows stand in {one}.csv too, with user, history and item (the first: {row})"
    path = folder / f"{other}.csv"
    if overlaps == "refuse":
        faults.add(path, "", f"{words}; take them out of {one}.csv, or set config.dataset.overlaps=warn")
    else:
        faults.note(path, f"{words}; config.dataset.overlaps=refuse makes that a fault")


def _items(count: int) -> str:
    return f"{count} item{'s' * (count != 1)}"
