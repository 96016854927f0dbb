"""The stage `export`: the trained recommender as a folder that serves, `export/` in the workdir."""

from __future__ import annotations

from tsrec_jax.pipeline.evaluate import card_facts, evaluated_rows
from tsrec_jax.pipeline.job import Job
from tsrec_jax.pipeline.train import trained_parts
from tsrec_jax.progress import report
from tsrec_jax.serving.export import export_folder


def export_recommender(job: Job) -> None:
    """Writes `export/`, or skips it where it is there.

    Raises:
      UserError: nothing is trained with these settings.
    """
    settings, folder = job.settings, job.workdir.path / "export"
    inputs = {**job.identity, "export.dtype": settings.export.dtype}
    if job.workdir.finished("export", inputs, folder) is not None:
        report("export: finished before, skipped")
        return
    parts = trained_parts(job)
    card = card_facts(job)
    _, rows = evaluated_rows(settings, job.dataset)
    shown = [job.dataset.catalogue.items[item].id for history in rows.histories[:1] for item in history]
    export_folder(
        parts.model,
        parts.tokenizer,
        job.dataset.catalogue,
        parts.templates,
        folder,
        max_length=settings.train.sequence_length,
        normaliser=settings.objective,
        card_facts=card,
        history=shown,
        dtype=settings.export.dtype,
    )
    job.workdir.finish("export", inputs, {})
    report(f"export: {folder}")
