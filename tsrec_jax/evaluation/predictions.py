"""Prediction files, and the paired comparison of two of them."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import numpy as np

from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.target_ranks import find_targets
from tsrec_jax.errors import UserError
from tsrec_jax.evaluation.statistics import Comparison, compare, draw_users
from tsrec_jax.files import write_json


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
      UserError: the file is missing or not of that form.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return Predictions(*([row[key] for row in rows] for key in ("user", "output", "predict")))
    except FileNotFoundError:
        raise UserError(f"{path}: not there; run the verb `evaluate` first") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a predictions file ({type(error).__name__}: {error})") from None


def compare_files(
    first: pathlib.Path, second: pathlib.Path, catalogue: Catalogue, metric: str = "NDCG@10"
) -> Comparison:
    """Paired SID-level comparison of two predictions files.

    Raises:
      UserError: the files are not about the same rows.
    """
    pair = [read_predictions(path) for path in (first, second)]
    users, targets = pair[0].users, pair[0].targets
    if (pair[1].users, pair[1].targets) != (users, targets):
        raise UserError(f"{first} and {second} do not have the same users and targets in the same order")
    indices = np.array([catalogue.items_of_sid[target][0] for target in targets])
    values = [find_targets(each.lists, indices, catalogue).values("sid", metric)[None] for each in pair]
    names = str(first), str(second)
    return compare(names, (values[0], values[1]), draw_users(users), metric=metric, level="sid", seeds=(0,))
