"""The verbs of the command line: each is a stage, and `run` does those that the settings name."""

from __future__ import annotations

import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

from tsrec_jax.data.text_folder import read_texts
from tsrec_jax.errors import UserError
from tsrec_jax.pipeline.describe import plan_description
from tsrec_jax.pipeline.earlier import going_on
from tsrec_jax.pipeline.evaluate import evaluate_recommender
from tsrec_jax.pipeline.export import export_recommender
from tsrec_jax.pipeline.inputs import in_turn, make_catalogue, make_dataset, open_source
from tsrec_jax.pipeline.job import open_job
from tsrec_jax.pipeline.mesh import verb_on_mesh
from tsrec_jax.pipeline.prepare import download_raw, prepared_folder
from tsrec_jax.pipeline.pretrain import pretrained_model
from tsrec_jax.pipeline.rl import improve_recommender, require_stage
from tsrec_jax.pipeline.settings import UPSTREAM
from tsrec_jax.pipeline.train import train_recommender
from tsrec_jax.pipeline.workdir import Workdir
from tsrec_jax.progress import report
from tsrec_jax.settings import Settings


def _verb(work: Callable[..., None]) -> Callable[..., None]:
    """A verb of the command line: does its work on the mesh, with the settings that an earlier run decides."""

    @verb_on_mesh
    @functools.wraps(work)
    def call(settings: Settings, path: pathlib.Path, **options: Any) -> None:
        work(going_on(settings), path, **options)

    return call


@_verb
def run(settings: Settings, path: pathlib.Path, profile: range = range(0)) -> None:
    """The verb `run`: the stages of `config.run.stages` and what they need."""
    started = time.perf_counter()
    stages = settings.run.stages
    if set(stages) <= set(UPSTREAM):
        _run_upstream(settings, path)
    else:
        job = open_job(settings, path)
        if "train" in stages:
            train_recommender(job, profile)
        if "rl" in stages:
            improve_recommender(job)
        if "evaluate" in stages:
            evaluate_recommender(job)
        if "export" in stages:
            export_recommender(job)
    report(f"run: done in {time.perf_counter() - started:.0f} s; see {path}")


def _run_upstream(settings: Settings, path: pathlib.Path) -> None:
    """Runs stages that come before training, if no later stage is requested."""
    verbs = {"prepare": prepare, "index": index, "describe": describe}
    for stage in UPSTREAM:
        if stage in settings.run.stages:
            verbs[stage](settings, path)


def download(settings: Settings, _path: pathlib.Path) -> None:
    """The verb `download`: fetches the raw Amazon files that `prepare` reads."""
    download_raw(settings.prepare)


def prepare(settings: Settings, path: pathlib.Path) -> None:
    """The verb `prepare`."""
    report(f"prepare: {Workdir(path).first_makes(lambda: prepared_folder(settings.prepare, path))}")


@_verb
def pretrain(settings: Settings, path: pathlib.Path) -> None:
    """The verb `pretrain`."""
    if settings.model.path:
        raise UserError(
            f"config.model.path={settings.model.path!r} is pretrained already; `pretrain` is for an empty path"
        )
    source = Workdir(path).first_makes(lambda: open_source(settings, path))
    texts = read_texts(source.folder, settings.dataset.name, settings.dataset)
    report(f"pretrain: {pretrained_model(settings, path, texts)}")


@_verb
def index(settings: Settings, path: pathlib.Path) -> None:
    """The verb `index`."""
    source = Workdir(path).first_makes(lambda: open_source(settings, path))
    if not source.needs_index:
        if settings.index.given_sids:
            raise UserError("config.index.given_sids names SIDs; leave it empty and set config.index.sids=make")
        raise UserError(f"{source.folder} holds SIDs and config.index.sids={settings.index.sids}; set it to make")
    in_turn(make_catalogue, settings, path, source)


@_verb
def describe(settings: Settings, path: pathlib.Path, dry_run: bool = False) -> None:
    """The verb `describe`; a dry run says what would be asked and asks nothing."""
    source = Workdir(path).first_makes(lambda: open_source(settings, path))
    if not source.needs_describe:
        raise UserError(
            f"{source.folder} holds words and config.describe.words={settings.describe.words}; set it to make"
        )
    if dry_run:
        catalogue, _ = in_turn(make_catalogue, settings, path, source)
        report(str(plan_description(settings.describe, path, catalogue, source.numbered)))
    else:
        dataset, _ = in_turn(make_dataset, settings, path, source)
        report(f"describe: {dataset.path}")


@_verb
def train(settings: Settings, path: pathlib.Path, profile: range = range(0)) -> None:
    """The verb `train`; `profile` gives the steps for which a trace is written."""
    train_recommender(open_job(settings, path), profile)


@_verb
def rl(settings: Settings, path: pathlib.Path) -> None:
    """The verb `rl`."""
    require_stage(settings)
    improve_recommender(open_job(settings, path))


@_verb
def evaluate(settings: Settings, path: pathlib.Path) -> None:
    """The verb `evaluate`."""
    evaluate_recommender(open_job(settings, path))


@_verb
def export(settings: Settings, path: pathlib.Path) -> None:
    """The verb `export`."""
    export_recommender(open_job(settings, path))
