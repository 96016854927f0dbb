"""The stages behind the verbs, and `run`, which does what the config asks for and skips what is finished."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from tsrec_jax.data.dataset import Dataset, read_dataset
from tsrec_jax.data.folder_files import find_name
from tsrec_jax.data.held_out import hold_out_users, refuse_selection
from tsrec_jax.data.text_folder import TextFolder, read_texts, texts_of
from tsrec_jax.errors import UserError
from tsrec_jax.pipeline import assess, sources, upstream
from tsrec_jax.pipeline.assemble import Assembly, assemble, open_mesh
from tsrec_jax.pipeline.settings import UPSTREAM
from tsrec_jax.pipeline.train import train_recommender
from tsrec_jax.pipeline.workdir import Workdir, fingerprint
from tsrec_jax.processes import first, several, share
from tsrec_jax.progress import report
from tsrec_jax.serving.export import export_folder
from tsrec_jax.settings import Settings, flat
from tsrec_jax.training.checkpoints import Checkpoints, best_folder

MAIN = "TS-Rec"
_SHAPES_TRAINING = ("model", "sid_init", "tasks", "templates", "train")
ONLY_LOGISTICS = ("train.log_every", "train.keep", "train.checkpoint_every", "train.explode_factor",
                  "train.wandb_project", "model.remat", "model.attention")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Job:
    """What every stage needs: the settings, where things go, the data and the pretrained model."""

    config: Settings
    workdir: Workdir
    dataset: Dataset
    base: str


def open_job(config: Settings, path: pathlib.Path) -> Job:
    """Makes what training needs and is not there yet (texts, base model, SIDs, words), and records the run."""
    dataset, base = make_inputs(config, path)
    dataset = hold_out_users(dataset, config.train.held_out)
    if config.eval.prior:  # whose weight is chosen on the selection split
        refuse_selection(dataset, config.eval.split)
    workdir = Workdir(path)
    workdir.record(config, training_identity(config, dataset), dataset.data_hash)
    return Job(config, workdir, dataset, base)


def make_inputs(config: Settings, path: pathlib.Path) -> tuple[Dataset, str]:
    """The dataset with SIDs and words and the pretrained model, both made in `path` where they are not given."""
    workdir = Workdir(path)
    folder = workdir.first_makes(lambda: sources.open_folder(config, path, report))
    name = find_name(folder, config.dataset.name)
    if upstream.what_to_make(config, folder, name).given:
        dataset = read_dataset(folder, name, config.dataset)
        texts = texts_of(dataset, folder)
        upstream.report_notes(texts, report)
    else:
        base = functools.partial(_base, config, path)
        if several():  # they train it together, and the first one makes what comes behind
            base(upstream.open_texts(config, folder, name))
        dataset, texts = workdir.first_makes(lambda: upstream.make_dataset(config, path, folder, name, base, report))
    return dataset, _base(config, path, texts)


def _base(config: Settings, path: pathlib.Path, texts: TextFolder) -> str:
    """The pretrained model; where the config names none, one is pretrained on the items' texts."""
    return config.model.path or str(sources.pretrain(config, texts, path, report))


def _on_mesh(verb: Callable[..., None]) -> Callable[..., None]:
    """Runs a verb with the config's mesh as the ambient one, which activation shardings refer to."""

    @functools.wraps(verb)
    def call(config: Settings, path: pathlib.Path, **options: Any) -> None:
        with on_mesh(config):
            verb(config, path, **options)

    return call


def on_mesh(config: Settings) -> contextlib.AbstractContextManager[Any]:
    """A context in which the config's mesh is the ambient one."""
    mesh = open_mesh(config)
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def download(config: Settings, _path: pathlib.Path) -> None:
    """The verb `download`: the raw files that `prepare` reads."""
    sources.download_raw(config, report)


def prepare(config: Settings, path: pathlib.Path) -> None:
    """The verb `prepare`."""
    report(f"prepare: {sources.prepared_folder(config, path, report)}")


@_on_mesh
def pretrain(config: Settings, path: pathlib.Path) -> None:
    """The verb `pretrain`."""
    if config.model.path:
        raise UserError(
            f"config.model.path={config.model.path!r} is pretrained already; `pretrain` is for an empty path"
        )
    folder = Workdir(path).first_makes(lambda: sources.open_folder(config, path, report))
    texts = read_texts(folder, config.dataset.name, config.dataset)
    report(f"pretrain: {_base(config, path, texts)}")


@_on_mesh
def index(config: Settings, path: pathlib.Path) -> None:
    """The verb `index`."""
    folder, name, base = _upstream_parts(config, path)
    if not upstream.what_to_make(config, folder, name).make_sids:
        if config.index.given_sids:
            raise UserError("config.index.given_sids names SIDs; leave it empty and set config.index.sids=make")
        raise UserError(f"{folder} holds SIDs and config.index.sids={config.index.sids}; set it to make")
    upstream.make_catalogue(config, path, folder, name, base, report)


@_on_mesh
def describe(config: Settings, path: pathlib.Path, dry_run: bool = False) -> None:
    """The verb `describe`; a dry run says what would be asked and asks nothing."""
    folder, name, base = _upstream_parts(config, path)
    wanted = upstream.what_to_make(config, folder, name)
    if not wanted.make_words:
        raise UserError(f"{folder} holds words and config.describe.words={config.describe.words}; set it to make")
    if dry_run:
        catalogue, _ = upstream.make_catalogue(config, path, folder, name, base, report)
        report(str(upstream.plan_words(config, path, catalogue, wanted.numbered)))
    else:
        dataset, _ = upstream.make_dataset(config, path, folder, name, base, report)
        report(f"describe: {dataset.path}")


def _upstream_parts(config: Settings, path: pathlib.Path) -> tuple[pathlib.Path, str, upstream.Base]:
    """The folder of texts, the NAME of its files, and what gives the pretrained model."""
    folder = sources.open_folder(config, path, report)
    return folder, find_name(folder, config.dataset.name), functools.partial(_base, config, path)


@_on_mesh
def train(config: Settings, path: pathlib.Path, profile: range = range(0)) -> None:
    """The verb `train`; `profile` are the steps of which a trace is written."""
    train_system(open_job(config, path), profile)


@_on_mesh
def evaluate(config: Settings, path: pathlib.Path) -> None:
    """The verb `evaluate`."""
    evaluate_system(open_job(config, path))


@_on_mesh
def export(config: Settings, path: pathlib.Path) -> None:
    """The verb `export`."""
    _export(open_job(config, path))


@_on_mesh
def run(config: Settings, path: pathlib.Path, profile: range = range(0)) -> None:
    """The verb `run`: the stages of `config.run.stages` and whatever they need."""
    started = time.perf_counter()
    if not _upstream(config, path):
        report(f"run: done in {time.perf_counter() - started:.0f} s; see {path}")
        return
    job = open_job(config, path)
    if "train" in config.run.stages:
        train_system(job, profile)
    if "evaluate" in config.run.stages:
        evaluate_system(job)
    if "export" in config.run.stages:
        _export(job)
    report(f"run: done in {time.perf_counter() - started:.0f} s; see {path}")


def _upstream(config: Settings, path: pathlib.Path) -> bool:
    """Runs the upstream stages alone where nothing after them is asked for; returns whether there is more to do."""
    if set(config.run.stages) - set(UPSTREAM):
        return True
    if several():
        raise UserError(
            f"config.run.stages={config.run.stages}: these are the work of one process; start it without others"
        )
    verbs = {"prepare": prepare, "index": index, "describe": describe}
    for stage in UPSTREAM:
        if stage in config.run.stages:
            verbs[stage](config, path)
    return False


def training_identity(config: Settings, dataset: Dataset) -> dict[str, Any]:
    """Every setting that shapes the trained weights, as flat `section.key` facts."""
    tokens = dataset.catalogue.tokens
    facts: dict[str, Any] = {
        "seed": config.seed,
        "objective": config.objective,
        "data": dataset.data_hash,
        "SID tokens": f"{len(tokens)} ({fingerprint(tokens)})",
    }
    if not config.model.path:
        facts |= flat(config.pretrain, "pretrain.")
    for part in _SHAPES_TRAINING:
        facts |= flat(getattr(config, part), f"{part}.")
    return {key: value for key, value in facts.items() if key not in ONLY_LOGISTICS}


def _trained(job: Job) -> bool:
    """Whether training has finished and its weights are there; weights that are gone make it unfinished."""
    facts = trained_facts(job)
    if facts is None:
        return False
    best = best_folder(job.workdir.checkpoints(job.workdir.path), facts["best_step"])
    there = share(best.exists())
    if not there:
        report(f"train: finished before, but its weights, {best}, are gone")
        job.workdir.forget("train")
    return there


def trained_facts(job: Job) -> dict[str, Any] | None:
    """What a finished training left in the workdir; None where it has not finished with these settings."""
    return job.workdir.finished("train", training_identity(job.config, job.dataset))


def train_system(job: Job, profile: range = range(0)) -> None:
    """Trains the recommender, or skips it where it is trained; its facts are those of the finished stage."""
    if _trained(job):
        report("train: finished before, skipped")
        return
    identity = training_identity(job.config, job.dataset)
    assembly = assemble(job.config, job.dataset, job.base)
    trained = train_recommender(job.config, assembly, job.workdir, job.workdir.path, identity, "train", report, profile)
    result = trained.result
    facts = {
        "steps": result.steps,
        "best_step": result.best_step,
        "best_value": result.best_value,
        "stopped_early": result.stopped_early,
        "seconds": round(result.seconds, 1),
        "parameters": trained.parameters,
        "step_flops": trained.step_flops,
        "start": trained.start,
    }
    job.workdir.finish("train", identity, facts)


def _restore(job: Job) -> Assembly:
    """The assembly with its trained weights."""
    if not _trained(job):
        raise UserError(f"{job.workdir.path}: nothing is trained with these settings; run the verb `train` first")
    assembly = assemble(job.config, job.dataset, job.base)
    with Checkpoints(job.workdir.checkpoints(job.workdir.path)) as checkpoints:
        _, model = checkpoints.load_best(assembly.model)
    return dataclasses.replace(assembly, model=model)


def evaluate_system(job: Job) -> Mapping[str, Any]:
    """Writes the predictions of the trained recommender and the report on them; finished predictions are kept.

    Returns:
      The facts that `assess.predict` returned.
    """
    inputs = {**training_identity(job.config, job.dataset), **flat(job.config.eval, "eval.")}
    folder = job.workdir.path
    facts = job.workdir.finished("evaluate", inputs, folder / assess.PREDICTIONS)
    if facts is None:
        facts = assess.predict(_restore(job), job.config, folder, "evaluate", report)
        job.workdir.finish("evaluate", inputs, facts)
    else:
        report("evaluate: finished before, skipped")
    trained = trained_facts(job)
    if first():
        assess.write_report(job.config, job.dataset, folder, {MAIN: (folder, facts)}, {MAIN: trained}, report)
    return facts


def _export(job: Job) -> None:
    identity = training_identity(job.config, job.dataset)
    inputs = {
        **identity,
        "export.dtype": job.config.export.dtype,
    }
    folder = job.workdir.path / "export"
    if job.workdir.finished("export", inputs, folder) is not None:
        report("export: finished before, skipped")
        return
    assembly = _restore(job)
    card = assess.card_facts(job.config, job.dataset, job.workdir.path)
    _, rows = assess.evaluated_rows(job.config, job.dataset)
    shown = [job.dataset.catalogue.items[item].id for history in rows.histories[:1] for item in history]
    export_folder(
        assembly.model,
        assembly.tokenizer,
        job.dataset.catalogue,
        assembly.templates,
        folder,
        max_length=job.config.train.sequence_length,
        normaliser=job.config.objective,
        card_facts=card,
        history=shown,
        dtype=job.config.export.dtype,
    )
    job.workdir.finish("export", inputs, {})
    report(f"export: {folder}")
