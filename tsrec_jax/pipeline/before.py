"""The recommender before a training that goes on from an earlier run, on the rows that are new to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.target_ranks import find_targets
from tsrec_jax.evaluation.before_after import BeforeAfter, row_group
from tsrec_jax.evaluation.predictions import Predictions, read_predictions, write_predictions
from tsrec_jax.models.local_devices import on_own_devices
from tsrec_jax.pipeline.job import Job
from tsrec_jax.pipeline.search import ModelSearch
from tsrec_jax.pipeline.train import starting_parts
from tsrec_jax.processes import first
from tsrec_jax.progress import report

PREDICTIONS = "predictions_before.json"
ALONE = "predictions_alone.json"  # of the trained model, where a fusion takes part in what is evaluated


def compared_files(job: Job, rows: Interactions) -> tuple[str, ...]:
    """The files that `before_and_after` reads: none where a run goes on from none, or no row is new.

    Args:
      job: what is evaluated.
      rows: on which.
    """
    if job.earlier is None or not len(_new(job, rows)):
        return ()
    return (PREDICTIONS, ALONE) if job.settings.fusion.parts else (PREDICTIONS,)


def predict_before(job: Job, rows: Interactions) -> None:
    """Writes PREDICTIONS: what the model found before this training, for the new ones of some rows.

    It knows the new items by their SIDs. It searches alone: a dense head is learned anew, and the baselines of a fusion
    would have seen the new interactions.

    Args:
      job: goes on from an earlier run.
      rows: those that are evaluated.
    """
    new = _new(job, rows)
    if not len(new):
        return
    report(f"evaluate: the {len(new)} new rows with the model before this training")
    parts = starting_parts(job)
    with on_own_devices(parts.model) as own:
        _search(job, new, ModelSearch.of(parts, job.settings, own), PREDICTIONS)


def predict_alone(job: Job, rows: Interactions, model: ModelSearch) -> None:
    """Writes ALONE: what the trained model finds without the fusion, for the new ones of some rows."""
    new = _new(job, rows)
    if len(new):
        _search(job, new, model, ALONE)


def _new(job: Job, rows: Interactions) -> Interactions:
    assert job.earlier is not None
    return rows.take(job.earlier.new_rows(rows, job.dataset.catalogue.items))


def _search(job: Job, new: Interactions, model: ModelSearch, name: str) -> None:
    lists = [[sid for sid, _ in ranked] for ranked in model.search(new, None)]
    if first():
        targets = [job.dataset.catalogue.sid(int(target)) for target in new.targets]
        write_predictions(job.workdir.path / name, Predictions(new.users, targets, lists))


def before_and_after(job: Job, rows: Interactions, lists: Sequence[Sequence[str]]) -> BeforeAfter | None:
    """The comparison of the trained model, without a fusion, with PREDICTIONS; None where the run goes on from none.

    Args:
      job: what was evaluated.
      rows: on which.
      lists: what was found for them after training.
    """
    if job.earlier is None:
        return None
    catalogue, settings = job.dataset.catalogue, job.settings
    numbers = job.earlier.new_rows(rows, catalogue.items)
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
