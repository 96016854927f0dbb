"""A cell of a study, one arm (or baseline) with one seed: everything about it that the study's report needs.

A file holds one cell or many: ranks as compressed integers, and the facts of evaluated rows once for all their cells.
Letters: N evaluated rows, S seeds, C SID levels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.target_ranks import TargetRanks
from tsrec_jax.errors import UserError
from tsrec_jax.files import write_npz

CELL_FILE = "cell.npz"
CONFIDENCES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # edges of the bins of calibration
_ROWS = ("user", "history", "count", "group")
_RANKS = ("rank", "before")


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """What a report must know about the evaluated rows; int32 arrays of N values.

    Attributes:
      user: number of the row's user, in order of first appearance.
      history: number of items in the history.
      count: how often the target is a target in train; 0: a cold item.
      group: number of items that carry the target's SID.
      digest: digest of users, histories and targets by id; cells with equal digests can be compared row by row.
    """

    user: np.ndarray
    history: np.ndarray
    count: np.ndarray
    group: np.ndarray
    digest: str


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """What one arm with one seed did.

    Attributes:
      name: name of the arm or baseline.
      seed: training seed.
      kind: "arm" or "baseline".
      seeded: whether another seed could give another result.
      split, beams: the evaluated split, and the number of places of a list.
      sids: digest of the SIDs; SID-level metrics with other SIDs mean something else.
      rows: the evaluated rows of the split.
      rank, before: as in `TargetRanks`.
      lost: C + 1 numbers of rows: those lost at level 1, 2, ..., C, and those whose target is listed.
      calibration: (rows, sum of their probabilities, hits) of the first listed SID, for each bin of CONFIDENCES; empty
        if scores are not probabilities.
      curve: (step, validation loss, validation HR@10) of each validation; a value that was not measured is None.
      cost: steps, tokens, examples, seconds, memory, flops, request_flops, parameters; an unknown one is None or
        absent.
      facts: command, commit, machine, versions.
      data: digest of the source data.
      config: the resolved config that was requested.
      beyond: the metrics of `beyond.BEYOND`; empty in cells made before these metrics existed.
    """

    name: str
    seed: int
    kind: str
    seeded: bool
    split: str
    beams: int
    sids: str
    rows: Rows
    rank: np.ndarray
    before: np.ndarray
    lost: Sequence[int]
    calibration: Sequence[Sequence[float]]
    curve: Sequence[Sequence[float | None]]
    cost: Mapping[str, float | None]
    facts: Mapping[str, Any]
    data: str
    config: Mapping[str, Any]
    beyond: Mapping[str, float | None] = dataclasses.field(default_factory=dict)

    def values(self, level: str, metric: str) -> np.ndarray:
        """As `TargetRanks.values`."""
        return TargetRanks(self.rank, self.before, self.rows.group).values(level, metric)


def rows_of(catalogue: Catalogue, train: Interactions, rows: Interactions) -> Rows:
    """The facts of evaluated rows; `train` is what the arm was trained on."""
    numbers: dict[str, int] = {}
    counts = np.bincount(train.targets, minlength=catalogue.num_items)
    ids = [item.id for item in catalogue.items]
    named = [
        [user, [ids[i] for i in history], ids[target]]
        for user, history, target in zip(rows.users, rows.histories, rows.targets, strict=True)
    ]
    return Rows(
        user=np.array([numbers.setdefault(user, len(numbers)) for user in rows.users], np.int32),
        history=np.array([len(history) for history in rows.histories], np.int32),
        count=counts[rows.targets].astype(np.int32),
        group=np.array([len(catalogue.items_of_sid[catalogue.sid(int(t))]) for t in rows.targets], np.int32),
        digest=hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16],
    )


def sids_digest(catalogue: Catalogue) -> str:
    """A digest of which item has which SID."""
    pairs = [[item.id, catalogue.sid(number)] for number, item in enumerate(catalogue.items)]
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:16]


def lost_at(catalogue: Catalogue, predictions: Sequence[Sequence[str]], targets: np.ndarray) -> list[int]:
    """C + 1 numbers of rows: those lost at level 1, 2, ..., C, and those whose target is listed.

    A target is lost at the first level at which no listed SID continues as the target's SID does.
    """
    tokens = {sid: catalogue.sids[items[0]] for sid, items in catalogue.items_of_sid.items()}
    pairs = zip(predictions, targets, strict=True)
    reached = [max((_shared(tokens[sid], catalogue.sids[t]) for sid in ranked), default=0) for ranked, t in pairs]
    return np.bincount(reached, minlength=catalogue.num_levels + 1).tolist()


def _shared(first: Sequence[str], second: Sequence[str]) -> int:
    """The number of tokens that two SIDs have in common at the beginning."""
    return next((n for n, (a, b) in enumerate(zip(first, second, strict=True)) if a != b), len(first))


def calibration_bins(first_N: Sequence[float], hit_N: np.ndarray) -> list[tuple[int, float, int]]:
    """`Cell.calibration`, from the log-probability of each row's first SID and whether this SID is the target's."""
    probability_N = np.exp(first_N)
    bin_N = np.clip(np.digitize(probability_N, CONFIDENCES) - 1, 0, len(CONFIDENCES) - 2)
    counts = [np.bincount(bin_N, weights, len(CONFIDENCES) - 1).tolist() for weights in (None, probability_N, hit_N)]
    return [(int(rows), total, int(hits)) for rows, total, hits in zip(*counts, strict=True)]


def write_cells(path: pathlib.Path, cells: Sequence[Cell]) -> None:
    """Writes cells."""
    arrays: dict[str, np.ndarray] = {}
    entries: list[dict[str, Any]] = []
    rows_known: dict[tuple[str, bytes], int] = {}
    for number, cell in enumerate(cells):
        rows = np.stack([getattr(cell.rows, key) for key in _ROWS])
        place = rows_known.setdefault((cell.rows.digest, rows.tobytes()), len(rows_known))
        arrays[f"rows {place}"], arrays[f"ranks {number}"] = rows, np.stack([getattr(cell, key) for key in _RANKS])
        entry = {
            field.name: getattr(cell, field.name) for field in dataclasses.fields(cell) if field.name not in _RANKS
        }
        entries.append({**entry, "rows": {"place": place, "digest": cell.rows.digest}})
    arrays = {name: _smallest(array) for name, array in arrays.items()}
    arrays["cells"] = np.frombuffer(json.dumps(entries).encode(), np.uint8)
    write_npz(path, arrays, compressed=True)


def _smallest(array: np.ndarray) -> np.ndarray:
    """The same integers in the smallest type that holds them all."""
    return array.astype(np.result_type(np.min_scalar_type(array.min()), np.min_scalar_type(array.max())))


class DamagedCells(UserError):
    """A file of cells cannot be read, or `write_cells` did not write it."""


def read_cells(path: pathlib.Path, way_out: str = "delete it to run the cell again") -> list[Cell]:
    """The cells that `write_cells` wrote.

    Args:
      path: the file.
      way_out: what the user can do about a file that is damaged.

    Raises:
      DamagedCells: `write_cells` did not write this file, or it cannot be read.
      FileNotFoundError: there is no such file.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes())) as arrays:
            rows = {name: arrays[name].astype(np.int32) for name in arrays.files if name != "cells"}
            entries = json.loads(arrays["cells"].tobytes())
        cells = []
        for number, entry in enumerate(entries):
            place, digest = entry.pop("rows").values()
            found = Rows(**dict(zip(_ROWS, rows[f"rows {place}"], strict=True)), digest=digest)
            ranks = dict(zip(_RANKS, rows[f"ranks {number}"], strict=True))
            cells.append(Cell(**entry, **ranks, rows=found))
            if len(ranks["rank"]) != len(found.user):
                raise ValueError(f"{len(ranks['rank'])} ranks for {len(found.user)} rows")
    except FileNotFoundError:
        raise
    except Exception as error:  # a broken archive fails anywhere in zipfile, zlib or NumPy
        raise DamagedCells(f"{path}: no cells of a study that this program wrote ({error}); {way_out}") from None
    return cells


@dataclasses.dataclass(frozen=True)
class System:
    """The finished cells of one arm or baseline, by rising seed, all with the same rows.

    Raises:
      ValueError: there are no cells, or their rows or SIDs differ.
    """

    name: str
    cells: tuple[Cell, ...]

    def __post_init__(self):
        if len({(cell.rows.digest, cell.sids) for cell in self.cells}) != 1:
            raise ValueError(f"{self.name}: needs cells of the same rows and SIDs")

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the cells."""
        return tuple(cell.seed for cell in self.cells)

    @property
    def seeded(self) -> bool:
        """Whether another seed could give another result."""
        return self.cells[0].seeded

    @property
    def rows(self) -> Rows:
        """The evaluated rows."""
        return self.cells[0].rows

    def values(self, level: str, metric: str, seeds: Sequence[int] | None = None) -> np.ndarray:
        """values_SN, a metric for each seed (by default all) and row; any seed will do if none changes the system."""
        values_N = {cell.seed: cell.values(level, metric) for cell in self.cells}
        wanted = self.seeds if seeds is None else seeds
        return np.stack([values_N[seed if self.seeded else self.seeds[0]] for seed in wanted])


def systems_of(cells: Iterable[Cell], order: Sequence[str]) -> list[System]:
    """The systems that cells belong to, in the given order of names."""
    listed = sorted(cells, key=lambda cell: cell.seed)
    named = {name: tuple(cell for cell in listed if cell.name == name) for name in order}
    return [System(name, members) for name, members in named.items() if members]
