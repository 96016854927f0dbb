"""Users whose rows are taken out of train, so that something other than the evaluated split can choose among models."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from tsrec_jax.data.dataset import Dataset
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.errors import UserError

SELECT = "select"  # the split of the rows that were taken out


def hold_out_users(dataset: Dataset, share: float) -> Dataset:
    """Moves the train rows of some users to the split `select`; the dataset as it is where `share` is 0.

    Who is held out is decided by a hash of the user id: it does not depend on a seed or on the order of the rows.

    Args:
      dataset: any.
      share: of the users of train, in [0, 1).

    Raises:
      UserError: nobody is held out, or nobody is left.
    """
    if not share:
        return dataset
    rows = dataset.splits["train"]
    out_n = np.array([_place(user) < share for user in rows.users])
    if out_n.all() or not out_n.any():
        raise UserError(
            f"config.train.held_out={share} of the {len(set(rows.users))} users of {dataset.path}/train.csv holds out "
            f"{'all' if out_n.all() else 'none'} of their rows; use another share"
        )
    parts = {"train": _rows(rows, ~out_n), SELECT: _rows(rows, out_n)}
    return dataclasses.replace(dataset, splits={**dataset.splits, **parts})


def selection_split(dataset: Dataset) -> str:
    """The split by which models and settings are chosen: the held-out users where there are some, else valid."""
    return SELECT if SELECT in dataset.splits else "valid"


def _place(user: str) -> float:
    """The place of a user in [0, 1), by its id."""
    return int.from_bytes(hashlib.sha256(user.encode()).digest()[:8], "big") / 2**64


def _rows(rows: Interactions, kept_n: np.ndarray) -> Interactions:
    numbers = np.flatnonzero(kept_n)
    return Interactions(
        tuple(rows.users[n] for n in numbers), tuple(rows.histories[n] for n in numbers), rows.targets[numbers]
    )
