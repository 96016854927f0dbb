"""The recommender before a training that goes on from an earlier run, on the rows that are new to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.target_ranks import find_targets
from tsrec_jax.evaluation.before_after import BeforeAfter, row_group
from tsrec_jax.evaluation.predictions import Predictions, read_predictions, write_predictions
from tsrec_jax.models.local_devices import on_own_devices
from tsrec_jax.pipeline.fuse import fit_fusion, fused_rows
from tsrec_jax.pipeline.job import Job
from tsrec_jax.pipeline.search import ModelSearch
from tsrec_jax.pipeline.train import starting_parts
from tsrec_jax.processes import first
from tsrec_jax.progress import report

PREDICTIONS = "predictions_before.json"


def predict_before(job: Job, rows: Interactions) -> None:
    """Writes PREDICTIONS: what the recommender found before this training, for the new ones of some rows.

    It knows the new items by their SIDs. A fusion has weights that are fitted to the model as it was then.

    Args:
      job: goes on from an earlier run.
      rows: those that are evaluated.
    """
    assert job.earlier is not None
    catalogue = job.dataset.catalogue
    new = rows.take(job.earlier.new_rows(rows, catalogue.items))
    if not len(new):
        return
    report(f"evaluate: the {len(new)} new rows again, with the model before this training")
    parts = starting_parts(job)
    with on_own_devices(parts.model) as own:
        model = ModelSearch.of(parts, job.settings, own)
        fusion = fit_fusion(job, job.settings.fusion, model) if job.settings.fusion.parts else None
        found = model.search(new, None if fusion is None else fused_rows(fusion, new, model))
    if first():
        targets = [catalogue.sid(int(target)) for target in new.targets]
        lists = [[sid for sid, _ in ranked] for ranked in found]
        write_predictions(job.workdir.path / PREDICTIONS, Predictions(new.users, targets, lists))


def before_and_after(job: Job, rows: Interactions, lists: Sequence[Sequence[str]]) -> BeforeAfter | None:
    """The comparison with PREDICTIONS; None where the run goes on from none.

    Args:
      job: what was evaluated.
      rows: on which.
      lists: what the recommender found for them after training.
    """
    if job.earlier is None:
        return None
    catalogue, settings = job.dataset.catalogue, job.settings
    numbers = job.earlier.new_rows(rows, catalogue.items)
    if not len(numbers):
        return BeforeAfter(job.earlier.place, len(rows), ())
    new = rows.take(numbers)
    before = read_predictions(job.workdir.path / PREDICTIONS).lists
    after, former = (
        find_targets(ranked, new.targets, catalogue) for ranked in ([lists[number] for number in numbers], before)
    )
    joined_I = np.array([item.id not in job.earlier.items for item in catalogue.items])
    chosen = {"new rows": np.arange(len(new)), "of these, with a new item": np.flatnonzero(joined_I[new.targets])}
    groups = [
        row_group(name, group, new.users, (after, former), resamples=settings.eval.bootstrap, seed=settings.seed)
        for name, group in chosen.items()
        if len(group)
    ]
    return BeforeAfter(job.earlier.place, len(rows), groups)
