"""A cell of a study, one arm (or baseline) with one seed: everything that the study's report needs of it, in one file.

Letters: N evaluated rows, S seeds, C SID levels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.target_ranks import TargetRanks
from tsrec_jax.errors import UserError
from tsrec_jax.files import write_text

CELL_FILE = "cell.json"
_ROWS = ("user", "history", "count", "group")
_LISTED = ("rank", "before", "reached")


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """What a report must know of the evaluated rows; int32 arrays of N values.

    Attributes:
      user: number of the row's user, in order of first appearance.
      history: items of the history.
      count: how often the target is a target in train; 0: a cold item.
      group: items that carry the target's SID.
      digest: of users, histories and targets by id; cells with the same one can be compared row by row.
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
      name: of the arm or baseline.
      seed: of training.
      kind: "arm" or "baseline".
      seeded: whether another seed could give another result.
      split, beams, levels: what was evaluated, with how many places, under SIDs of how many levels (C).
      sids: digest of the SIDs; SID-level metrics of other SIDs mean other things.
      rows: of the split.
      rank: int32 (N), place of the target's SID in the list, from 0; -1: not listed.
      before: int32 (N), items that carry the SIDs before it; 0 where it is not listed.
      reached: int32 (N), levels of the target's SID that some listed SID begins with, 0 to C.
      top: float64 (N), log-probability of the first listed SID; empty where scores are no probabilities.
      curve: (step, validation loss, validation HR@10) of each validation; a value that was not measured is None.
      cost: steps, tokens, examples, seconds, memory, flops, parameters; None where one is not known.
      facts: command, commit, machine, versions.
      data: digest of the source data.
      config: the resolved config that was asked for.
    """

    name: str
    seed: int
    kind: str
    seeded: bool
    split: str
    beams: int
    levels: int
    sids: str
    rows: Rows
    rank: np.ndarray
    before: np.ndarray
    reached: np.ndarray
    top: np.ndarray
    curve: tuple[tuple[int, float | None, float | None], ...]
    cost: Mapping[str, float | None]
    facts: Mapping[str, Any]
    data: str
    config: Mapping[str, Any]

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


def levels_reached(catalogue: Catalogue, predictions: Sequence[Sequence[str]], targets: np.ndarray) -> np.ndarray:
    """int32 (N): levels of the target's SID that some ranked SID begins with."""
    tokens = {sid: catalogue.sids[items[0]] for sid, items in catalogue.items_of_sid.items()}
    pairs = zip(predictions, targets, strict=True)
    found = [max((_shared(tokens[sid], catalogue.sids[t]) for sid in ranked), default=0) for ranked, t in pairs]
    return np.array(found, np.int32)


def _shared(first: Sequence[str], second: Sequence[str]) -> int:
    """Tokens that two SIDs have in common from their beginning."""
    return next((n for n, (a, b) in enumerate(zip(first, second, strict=True)) if a != b), len(first))


def write_cell(path: pathlib.Path, cell: Cell) -> None:
    """Writes a cell, one entry per line."""
    entries = {field.name: getattr(cell, field.name) for field in dataclasses.fields(cell)}
    entries["rows"] = {**{key: getattr(cell.rows, key).tolist() for key in _ROWS}, "digest": cell.rows.digest}
    for key in (*_LISTED, "top"):
        entries[key] = getattr(cell, key).tolist()
    lines = [f"{json.dumps(key)}:{json.dumps(value, separators=(',', ':'))}" for key, value in entries.items()]
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def read_cell(path: pathlib.Path) -> Cell:
    """The cell that `write_cell` wrote.

    Raises:
      UserError: it is not one.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        for key in _LISTED:
            entries[key] = np.array(entries[key], np.int32)
        entries["top"] = np.array(entries["top"], np.float64)
        entries["curve"] = tuple(tuple(point) for point in entries["curve"])
        rows = entries["rows"]
        entries["rows"] = Rows(**{key: np.array(rows[key], np.int32) for key in _ROWS}, digest=rows["digest"])
        cell = Cell(**entries)
        sizes = {len(getattr(cell.rows, key)) for key in _ROWS} | {len(getattr(cell, key)) for key in _LISTED}
        if len(sizes) != 1 or len(cell.top) not in (0, *sizes):
            raise ValueError(f"its columns have {sorted(sizes)} rows")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not a cell of a study that this program wrote ({error}); delete it to run the cell again"
        ) from None
    return cell


@dataclasses.dataclass(frozen=True)
class System:
    """The finished cells of one arm or baseline, by rising seed, all of the same rows.

    Raises:
      ValueError: no cells, or cells of other rows or SIDs.
    """

    name: str
    cells: tuple[Cell, ...]

    def __post_init__(self):
        if len({(cell.rows.digest, cell.sids) for cell in self.cells}) != 1:
            raise ValueError(f"{self.name}: needs cells of the same rows and SIDs")

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that are there."""
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
        """values_SN, a metric of each seed (by default all) and row; a system that no seed changes has any seed."""
        values_N = {cell.seed: cell.values(level, metric) for cell in self.cells}
        wanted = self.seeds if seeds is None else seeds
        return np.stack([values_N[seed if self.seeded else self.seeds[0]] for seed in wanted])


def systems_of(cells: Iterable[Cell], order: Sequence[str]) -> list[System]:
    """The systems that cells belong to, in the given order of names."""
    listed = sorted(cells, key=lambda cell: cell.seed)
    named = {name: tuple(cell for cell in listed if cell.name == name) for name in order}
    return [System(name, members) for name, members in named.items() if members]
