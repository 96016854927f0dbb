"""The teacher of the second stage, which ranks items for a user's rows and is fitted to the rows of other users.

A teacher that has seen a row knows its target by heart, and the user's later items too. How it ranks them says nothing
about how it would rank items for a new row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from tsrec_jax.baselines.ranking import Fitted, best_items
from tsrec_jax.baselines.run import fit_baseline
from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.dataset import Dataset
from tsrec_jax.data.held_out import selection_split
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.errors import UserError
from tsrec_jax.fusion.fit import halves
from tsrec_jax.fusion.settings import FusionSettings
from tsrec_jax.pipeline.fuse import fit_fusion
from tsrec_jax.pipeline.job import Job
from tsrec_jax.progress import report
from tsrec_jax.rl.settings import FUSION


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """Two fits, each to one half of the users and asked about the other half.

    Attributes:
      half_of: the half, 0 or 1, of each user of train; for any other user either fit could be asked, and the first is.
      fitted: the fits, in the order of the halves that they are asked about.
      count: items in a ranking; all items if the catalogue has fewer.
    """

    half_of: Mapping[str, int]
    fitted: tuple[Fitted, ...]
    count: int

    def rank(self, rows: Interactions) -> np.ndarray:
        """int32 items_BM of each row, best first."""
        half_B = np.array([self.half_of.get(user, 0) for user in rows.users])
        orders, ranked = [], []
        for half, fitted in enumerate(self.fitted):
            own = np.flatnonzero(half_B == half)
            if len(own):
                orders.append(own)
                ranked.append(best_items(fitted.scores([rows.histories[number] for number in own]), self.count))
        return np.concatenate(ranked)[np.argsort(np.concatenate(orders))]

    def has_target(self, rows: Interactions, catalogue: Catalogue) -> float:
        """The share of rows whose target's SID is in the ranking."""
        sids_I = catalogue.sid_numbers_I
        return float((sids_I[self.rank(rows)] == sids_I[rows.targets][:, None]).any(axis=1).mean())

    @property
    def facts(self) -> dict[str, Any]:
        """The facts of both fits."""
        return {"halves": [dict(fitted.facts) for fitted in self.fitted]}


def fit_teacher(job: Job) -> Teacher | None:
    """Fits the teacher that the settings name; None if they name none, or if the loss does not ask it.

    The teacher's own settings and weights are chosen on the selection rows of users that the fit has not seen.

    Raises:
      UserError: train has only one user, or the selection split has no rows of one half of the users.
    """
    wanted, dataset = job.settings.rl, job.dataset
    if not wanted.teachers:
        return None
    train, name = dataset.splits["train"], selection_split(dataset)
    half_N = halves(train.users)
    if not half_N.any():
        raise UserError(
            f"config.rl.teacher={wanted.teacher!r} ranks items for a user by the rows of others, and train has one "
            "user alone; set config.rl.teacher='' and a reward without one"
        )
    half_of = dict(zip(train.users, half_N.tolist(), strict=True))
    select = dataset.splits[name]
    asked_B = np.array([half_of.get(user, -1) for user in select.users])
    fitted = []
    for half in (0, 1):
        report(f"rl: the teacher {wanted.teacher}, fitted to half of the users for the other half, {half + 1} of 2")
        parts = {
            "train": train.take(np.flatnonzero(half_N != half)),
            name: select.take(np.flatnonzero(asked_B != 1 - half)),
        }
        fitted.append(_fit(job, dataclasses.replace(dataset, splits={**dataset.splits, **parts})))
    return Teacher(half_of, tuple(fitted), wanted.teacher_items)


def _fit(job: Job, dataset: Dataset) -> Fitted:
    settings, wanted = job.settings, job.settings.rl
    if wanted.teacher == FUSION:
        job = dataclasses.replace(job, dataset=dataset)
        return fit_fusion(job, FusionSettings(parts=wanted.teacher_parts, model=False), None)
    train, select = dataset.splits["train"], dataset.splits[selection_split(dataset)]
    return fit_baseline(wanted.teacher, dataset, train, select, settings.seed, report, job.vectors)
