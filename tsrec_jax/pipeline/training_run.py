"""What the stages `train` and `rl` share: where they keep what they train, how they validate it, what they leave."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from tsrec_jax.data.interactions import Interactions
from tsrec_jax.decoding.generate import search_all
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.inference import InferenceModel
from tsrec_jax.models.local_devices import on_own_devices
from tsrec_jax.pipeline.job import Job
from tsrec_jax.pipeline.recommender_parts import RecommenderParts
from tsrec_jax.processes import first, share
from tsrec_jax.progress import report
from tsrec_jax.settings import Settings
from tsrec_jax.training.checkpoints import best_folder
from tsrec_jax.training.loop import Run, TrainResult
from tsrec_jax.training.metrics_log import read_metrics
from tsrec_jax.training.wandb_log import WandbSettings


def run_of(
    job: Job,
    stage: str,
    folder: pathlib.Path,
    identity: Mapping[str, Any],
    step_flops: float,
    profile: range = range(0),
) -> Run:
    """The run of a stage; only process 0 draws its curves and sends its metrics.

    Args:
      job: gives the working directory and the project that receives the metrics.
      stage: name of the stage.
      folder: where the stage trains.
      identity: as in `Run`.
      step_flops: model FLOPs of a step over all devices.
      profile: the steps for which a trace is written.
    """
    project = job.settings.train.wandb_project if first() else ""
    return Run(
        folder,
        identity,
        stage,
        checkpoints_at=job.workdir.checkpoints(folder),
        before_save=job.workdir.push,
        after_validation=functools.partial(_draw, stage, folder) if first() else lambda: None,
        step_flops=step_flops,
        profile=profile,
        wandb=WandbSettings(project, f"{job.workdir.path.name} {stage}", job.settings.resolved()) if project else None,
    )


def facts_of(result: TrainResult, step_flops: float) -> dict[str, Any]:
    """What a finished stage records about how it ended."""
    return {
        "steps": result.steps,
        "best_step": result.best_step,
        "best_value": result.best_value,
        "stopped_early": result.stopped_early,
        "seconds": round(result.seconds, 1),
        "step_flops": step_flops,
    }


def weights_are_there(job: Job, stage: str, folder: pathlib.Path, facts: Mapping[str, Any] | None) -> bool:
    """Whether the best weights of a finished stage are there; a stage whose weights are gone is forgotten.

    Args:
      job: gives the working directory.
      stage: name of the stage.
      folder: where the stage was trained.
      facts: the facts that it left; None: it has not finished.
    """
    if facts is None:
        return False
    best = best_folder(job.workdir.checkpoints(folder), facts["best_step"])
    there = share(best.exists())
    if not there:
        report(f"{stage}: finished before, but its weights, {best}, are gone")
        job.workdir.forget(stage)
    return there


def searched_by(
    settings: Settings, parts: RecommenderParts, rows: Interactions
) -> Callable[[Decoder], list[list[str]]]:
    """A function that gives a model's SIDs for these rows, best first, searched as in the evaluation."""
    catalogue, builder = parts.dataset.catalogue, parts.builder
    prompts = builder.prompts_next_sid(
        [[catalogue.sid(item) for item in history] for history in rows.histories], catalogue.num_levels
    )
    prefix = builder.prefix("next_sid")

    def searched(model: Decoder) -> list[list[str]]:
        with on_own_devices(model) as own:
            found = search_all(
                InferenceModel.of(own),
                parts.trie,
                catalogue,
                prompts,
                beams=settings.eval.beams,
                batch_size=settings.eval.batch_size,
                prefix=prefix,
                normaliser=settings.objective,
            )
        return [[sid for sid, _ in ranked] for ranked in found]

    return searched


def _draw(stage: str, folder: pathlib.Path) -> None:
    from tsrec_jax.evaluation.plots import plot_training  # imports matplotlib

    plot_training({stage: read_metrics(folder)}, folder / "plots" / "training.png")
