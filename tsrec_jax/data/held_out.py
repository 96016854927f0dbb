"""Users whose rows are taken out of train, so that something other than the evaluated split can choose among models."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from tsrec_jax.data.dataset import Dataset
from tsrec_jax.errors import UserError

SELECT = "select"  # the split of the rows that were taken out


def hold_out_users(dataset: Dataset, share: float) -> Dataset:
    """Moves the train rows of some users to the split `select`; returns the dataset unchanged if `share` is 0.

    A hash of the user id decides who is held out, so the choice depends neither on a seed nor on the order of the rows.

    Args:
      dataset: any dataset.
      share: the share of train's users to hold out, in [0, 1).

    Raises:
      UserError: nobody is held out, or nobody is left.
    """
    if not share:
        return dataset
    rows = dataset.splits["train"]
    out_n = np.array([place_of(user) < share for user in rows.users])
    if out_n.all() or not out_n.any():
        raise UserError(
            f"config.train.held_out={share} of the {len(set(rows.users))} users of {dataset.path}/train.csv holds out "
            f"{'all' if out_n.all() else 'none'} of their rows; use another share"
        )
    parts = {"train": rows.take(np.flatnonzero(~out_n)), SELECT: rows.take(np.flatnonzero(out_n))}
    return dataclasses.replace(dataset, splits={**dataset.splits, **parts})


def selection_split(dataset: Dataset) -> str:
    """The split on which models and settings are chosen: the held-out users if there are any, otherwise valid."""
    return SELECT if SELECT in dataset.splits else "valid"


def evaluated_split(dataset: Dataset, wanted: str) -> str:
    """The split that is evaluated: the wanted one, or valid if the folder does not have it."""
    return wanted if wanted in dataset.splits else "valid"


def refuse_selection(dataset: Dataset, wanted: str) -> None:
    """Refuses to evaluate on the split on which models and settings are chosen.

    Raises:
      UserError: that split would be evaluated.
    """
    if evaluated_split(dataset, wanted) == selection_split(dataset):
        missing = "" if wanted in dataset.splits else f"{dataset.path} has no {wanted}.csv, and "
        raise UserError(f"{missing}valid is what training selects by; set config.train.held_out, say to 0.1")


def place_of(name: str) -> float:
    """The place of a user or an item in [0, 1), which depends on its id alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
