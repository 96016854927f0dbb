"""The recommender before a training that continues from an earlier run, evaluated on the rows that are new to it."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.held_out import evaluated_split
from tsrec_jax.data.interactions import Interactions, spread
from tsrec_jax.data.target_ranks import find_targets
from tsrec_jax.errors import UserError
from tsrec_jax.evaluation.before_after import BeforeAfter, row_group
from tsrec_jax.evaluation.predictions import Predictions, read_predictions, write_predictions
from tsrec_jax.models.local_devices import on_own_devices
from tsrec_jax.pipeline.job import Job
from tsrec_jax.pipeline.search import ModelSearch
from tsrec_jax.pipeline.train import starting_parts
from tsrec_jax.processes import first, share
from tsrec_jax.progress import report

PREDICTIONS = "predictions_before.json"
ALONE = "predictions_alone.json"  # the trained model's own, if a fusion takes part in what is evaluated


def is_predicted(job: Job, rows: Interactions) -> bool:
    """Whether the files that `before_and_after` reads exist and hold the rows that are new by today's rules.

    Args:
      job: what is evaluated.
      rows: the evaluated rows.
    """
    if job.earlier is None:
        return True
    new, catalogue = _new(job, rows), job.dataset.catalogue
    wanted = list(new.users), _target_sids(new, catalogue)
    names = (PREDICTIONS, ALONE) if job.settings.fusion.parts else (PREDICTIONS,)
    return share(not len(new) or all(_rows_of(job.workdir.path / name) == wanted for name in names))


def _rows_of(path: pathlib.Path) -> tuple[list[str], list[str]] | None:
    """Users and targets of a predictions file; None if it is missing or broken, or if another process has to look."""
    try:
        found = read_predictions(path) if first() else None
    except UserError:
        found = None
    return None if found is None else (list(found.users), list(found.targets))


def predict_before(job: Job, rows: Interactions) -> None:
    """Writes PREDICTIONS: what the model found before this training, for the new rows among `rows`.

    The model knows the new items by their SIDs. It searches alone: a dense head is learned again, and the baselines of
    a fusion would have seen the new interactions.

    Args:
      job: a run that continues from an earlier one.
      rows: the evaluated rows.
    """
    new = _new(job, rows)
    if not len(new):
        return
    report(f"evaluate: the {len(new)} new rows with the model before this training")
    parts = starting_parts(job)
    with on_own_devices(parts.model) as own:
        _search(job, new, ModelSearch.of(parts, job.settings, own), PREDICTIONS)


def predict_alone(job: Job, rows: Interactions, model: ModelSearch) -> None:
    """Writes ALONE: what the trained model finds without the fusion, for the new rows among `rows`."""
    new = _new(job, rows)
    if len(new):
        _search(job, new, model, ALONE)


def _new(job: Job, rows: Interactions) -> Interactions:
    return rows.take(_new_numbers(job))


def _new_numbers(job: Job) -> np.ndarray:
    """int64: which of the evaluated rows are new."""
    assert job.earlier is not None
    new = job.earlier.new[evaluated_split(job.dataset, job.settings.eval.split)]
    return np.flatnonzero(new[spread(len(new), job.settings.eval.max_rows or len(new))])


def _target_sids(rows: Interactions, catalogue: Catalogue) -> list[str]:
    return [catalogue.sid(int(target)) for target in rows.targets]


def _search(job: Job, new: Interactions, model: ModelSearch, name: str) -> None:
    lists = [[sid for sid, _ in ranked] for ranked in model.search(new, None)]
    if first():
        targets = _target_sids(new, job.dataset.catalogue)
        write_predictions(job.workdir.path / name, Predictions(new.users, targets, lists))


def before_and_after(job: Job, rows: Interactions, lists: Sequence[Sequence[str]]) -> BeforeAfter | None:
    """The comparison of the trained model, without a fusion, with PREDICTIONS; None if there is no earlier run.

    Args:
      job: what was evaluated.
      rows: the evaluated rows.
      lists: what was found for these rows after training.
    """
    if job.earlier is None:
        return None
    catalogue, settings = job.dataset.catalogue, job.settings
    numbers = _new_numbers(job)
    if not len(numbers):
        return BeforeAfter(job.earlier.place, len(rows), ())
    new = rows.take(numbers)
    if settings.fusion.parts:
        lists = read_predictions(job.workdir.path / ALONE).lists
    else:
        lists = [lists[number] for number in numbers]
    before = read_predictions(job.workdir.path / PREDICTIONS).lists
    after, former = (find_targets(ranked, new.targets, catalogue) for ranked in (lists, before))
    joined_I = np.array([item.id not in job.earlier.items for item in catalogue.items])
    chosen = {"new rows": np.arange(len(new)), "of these, with a new item": np.flatnonzero(joined_I[new.targets])}
    groups = [
        row_group(name, group, new.users, (after, former), resamples=settings.eval.bootstrap, seed=settings.seed)
        for name, group in chosen.items()
        if len(group)
    ]
    return BeforeAfter(job.earlier.place, len(rows), groups)
