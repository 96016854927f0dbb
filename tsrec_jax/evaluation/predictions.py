"""Prediction files, and the paired comparison of two of them."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.target_ranks import find_targets
from tsrec_jax.errors import UserError
from tsrec_jax.evaluation.statistics import Comparison, compare, draw_users
from tsrec_jax.files import read_json, write_json

_AGAIN = "a run's own is made again by the verb `evaluate` once it is deleted"


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a system predicted for some rows: each row's user, target SID, and ranked SIDs, best first."""

    users: Sequence[str]
    targets: Sequence[str]
    lists: Sequence[Sequence[str]]


def write_predictions(path: pathlib.Path, predictions: Predictions) -> None:
    """Writes [{"user": id, "output": SID, "predict": [SID, ...]}, ...] in row order."""
    columns = zip(predictions.users, predictions.targets, predictions.lists, strict=True)
    rows = [{"user": user, "output": target, "predict": list(ranked)} for user, target, ranked in columns]
    write_json(path, rows, indent=0)


def read_predictions(path: pathlib.Path) -> Predictions:
    """What `write_predictions` wrote.

    Raises:
      UserError: the file is missing or has another form.
    """
    if not path.exists():
        raise UserError(f"{path}: not there; run the verb `evaluate` first")
    rows = read_json(path, f"not a predictions file; {_AGAIN}")
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: not a predictions file, since it is no list with at least one row; {_AGAIN}")
    for number, row in enumerate(rows, 1):
        if fault := _fault(row):
            raise UserError(f"{path}, row {number}: {fault}; {_AGAIN}")
    return Predictions(*([row[key] for row in rows] for key in ("user", "output", "predict")))


def _fault(row: Any) -> str:
    """Why a row does not belong in a predictions file; empty if it does."""
    if not isinstance(row, dict) or not {"output", "predict"} <= row.keys():
        return "not a row of a predictions file, which has user, output and predict"
    if "user" not in row:
        return "has no user, as an earlier version wrote it"
    ranked = row["predict"]
    if not isinstance(ranked, list) or not all(isinstance(text, str) for text in (row["user"], row["output"], *ranked)):
        return "user and output must be texts, and predict a list of texts"
    if len(set(ranked)) < len(ranked):
        return "a SID stands twice in predict"
    return ""


def compare_files(
    first: pathlib.Path, second: pathlib.Path, catalogue: Catalogue, metric: str = "NDCG@10"
) -> Comparison:
    """Paired SID-level comparison of two predictions files.

    Raises:
      UserError: a file cannot be read or names a SID that is not in the catalogue, or the two are about different rows.
    """
    pair = [read_predictions(path) for path in (first, second)]
    for path, found in zip((first, second), pair, strict=True):
        for number, (target, ranked) in enumerate(zip(found.targets, found.lists, strict=True), 1):
            if unknown := [sid for sid in (target, *ranked) if sid not in catalogue.items_of_sid]:
                raise UserError(
                    f"{path}, row {number}: SID {unknown[0]!r} is not in the catalogue; give the catalogue of the "
                    "dataset that was evaluated"
                )
    users, targets = pair[0].users, pair[0].targets
    if (pair[1].users, pair[1].targets) != (users, targets):
        raise UserError(f"{first} and {second} do not have the same users and targets in the same order")
    indices = np.array([catalogue.items_of_sid[target][0] for target in targets])
    values = [find_targets(each.lists, indices, catalogue).values("sid", metric)[None] for each in pair]
    names = str(first), str(second)
    return compare(names, (values[0], values[1]), draw_users(users), metric=metric, level="sid", seeds=(0,))
