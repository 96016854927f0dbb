"""Prediction files and the paired comparison of two of them."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.errors import UserError
from tsrec_jax.evaluation.metrics import Metrics, resampled_means, score


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two systems on the same rows.

    Attributes:
      metric: its name, as in `sid NDCG@10`.
      first, second: the means.
      difference: first - second.
      interval: 95 % bootstrap interval of the difference, rows resampled in pairs.
      p_value: two-sided bootstrap p-value of no difference.
    """

    metric: str
    first: float
    second: float
    difference: float
    interval: tuple[float, float]
    p_value: float


def write_predictions(path: pathlib.Path, targets: Sequence[str], predictions: Sequence[Sequence[str]]) -> None:
    """Writes [{"output": SID, "predict": [SID, ...]}, ...] in row order, through a temporary name."""
    rows = [{"output": target, "predict": list(ranked)} for target, ranked in zip(targets, predictions, strict=True)]
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(rows, indent=0) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def read_predictions(path: pathlib.Path) -> tuple[list[str], list[list[str]]]:
    """Target SIDs and ranked SIDs of a predictions file.

    Raises:
      UserError: the file is missing or not of that form.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [row["output"] for row in rows], [list(row["predict"]) for row in rows]
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
    targets, first_lists = read_predictions(first)
    other_targets, second_lists = read_predictions(second)
    if targets != other_targets:
        raise UserError(f"{first} and {second} do not have the same targets in the same order")
    indices = np.array([catalogue.items_of_sid[target][0] for target in targets])
    k = (int(metric.split("@")[1]),)
    return compare(score(first_lists, indices, catalogue, k), score(second_lists, indices, catalogue, k), metric)


def compare(
    first: Metrics, second: Metrics, metric: str, *, level: str = "sid", resamples: int = 2000, seed: int = 0
) -> Comparison:
    """Paired bootstrap of the per-row differences, at the level `sid` or `item` (for systems with other SIDs)."""
    difference = first.per_row[level][metric] - second.per_row[level][metric]
    means = resampled_means(difference, resamples, seed)
    low, high = np.percentile(means, [2.5, 97.5])
    tail = min(np.mean(means <= 0), np.mean(means >= 0))
    return Comparison(
        metric=f"{level} {metric}",
        first=getattr(first, level)[metric],
        second=getattr(second, level)[metric],
        difference=float(difference.mean()),
        interval=(float(low), float(high)),
        p_value=float(min(1.0, 2 * max(tail, 1 / resamples))),
    )
