"""What the stages from training on share: the settings, the working directory, the data and the pretrained model."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Collection
from typing import Any

from tsrec_jax.data.dataset import Dataset
from tsrec_jax.data.held_out import hold_out_users, refuse_selection
from tsrec_jax.pipeline.earlier import Earlier, open_earlier
from tsrec_jax.pipeline.inputs import make_inputs
from tsrec_jax.pipeline.provenance import fingerprint, input_facts
from tsrec_jax.pipeline.vectors import ItemVectors, need_vectors, rl_needs_vectors, teachers
from tsrec_jax.pipeline.workdir import Workdir
from tsrec_jax.rl.settings import FUSION
from tsrec_jax.settings import Settings, flat

_SHAPES_TRAINING = ("model", "sid_init", "tasks", "templates", "train")
# Settings that do not shape the weights, or that only decide other settings, which do.
ONLY_LOGISTICS = ("train.from_run", "train.log_every", "train.keep", "train.checkpoint_every", "train.explode_factor",
                  "train.wandb_project", "model.remat", "model.attention")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Job:
    """One run, ready for training.

    Attributes:
      settings: the settings of all rooms.
      workdir: where everything goes.
      dataset: the dataset with SIDs and words; held-out users are removed from train.
      base: the pretrained model, a folder or a name; empty if no language model takes part.
      earlier: the run that this one continues from; None: there is none.
    """

    settings: Settings
    workdir: Workdir
    dataset: Dataset
    base: str
    earlier: Earlier | None = None

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What distinguishes this training from every other."""
        return {**training_identity(self.settings, self.dataset), **self.vectors_identity(teachers(self.settings))}

    @property
    def vectors(self) -> ItemVectors:
        """Vectors of the items, for baselines that need them."""
        return ItemVectors.of_model(self.settings, self.workdir.path, self.dataset.catalogue.items, self.base)

    def vectors_identity(self, baselines: Collection[str]) -> dict[str, Any]:
        """What distinguishes the vectors that these baselines are fitted to from others; empty if they need none."""
        return self.vectors.identity if need_vectors(baselines) else {}

    @property
    def final_identity(self) -> dict[str, Any]:
        """What distinguishes the weights that are evaluated and exported, after the second stage if there is one."""
        if not self.settings.rl.steps:
            return self.identity
        vectors = self.vectors.identity if rl_needs_vectors(self.settings) else {}
        stage = flat(self.settings.rl, "rl.")
        if not _taught_by_fusion(self.settings):
            del stage["rl.teacher_parts"]  # which nothing reads
        if self.settings.rl.teacher:
            stage["rl.teacher knows"] = "other users' rows"  # older code: all rows
        return {**self.identity, **stage, **vectors}


def open_job(settings: Settings, path: pathlib.Path) -> Job:
    """Makes what training needs if it is missing (texts, SIDs, words, base model), and records the run.

    Raises:
      UserError: as in `make_inputs` and `open_earlier`, or `path` holds a training with other settings.
    """
    dataset, base = make_inputs(settings, path)
    dataset = hold_out_users(dataset, settings.train.held_out)
    if settings.fusion.parts or _taught_by_fusion(settings):  # its weights are fitted on the selection split
        refuse_selection(dataset, settings.eval.split)
    job = Job(settings, Workdir(path), dataset, base, open_earlier(settings, dataset))
    if need_vectors([*teachers(settings), *settings.fusion.parts]) or rl_needs_vectors(settings):
        job.vectors.make_together()
        job.workdir.first_makes(job.vectors.file)
    job.workdir.record(settings, job.identity, dataset.data_hash)
    return job


def _taught_by_fusion(settings: Settings) -> bool:
    """Whether there is a second stage that learns from several baselines together."""
    return settings.rl.steps > 0 and settings.rl.teacher == FUSION


def training_identity(settings: Settings, dataset: Dataset) -> dict[str, Any]:
    """Every setting that shapes the trained weights, as flat `section.key` facts."""
    tokens = dataset.catalogue.tokens
    facts: dict[str, Any] = {
        "seed": settings.seed,
        "objective": settings.objective,
        "data": dataset.data_hash,
        "SID tokens": f"{len(tokens)} ({fingerprint(tokens)})",
    }
    if not settings.model.path:
        facts |= flat(settings.pretrain, "pretrain.")
    for part in _SHAPES_TRAINING:
        facts |= flat(getattr(settings, part), f"{part}.")
    facts |= input_facts(settings.dense, ("embeddings",))
    return {key: value for key, value in facts.items() if key not in ONLY_LOGISTICS}
