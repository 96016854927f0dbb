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
from ml_collections import ConfigDict

from tsrec_jax.configuration import arm_config
from tsrec_jax.data.dataset import Dataset
from tsrec_jax.errors import UserError
from tsrec_jax.pipeline import assess, sources
from tsrec_jax.pipeline.assemble import Assembly, assemble, open_mesh
from tsrec_jax.pipeline.fit import fit
from tsrec_jax.pipeline.workdir import Workdir
from tsrec_jax.serving.export import export_folder
from tsrec_jax.training.checkpoints import Checkpoints

MAIN = "TS-Rec"
_SHAPES_TRAINING = ("model", "sid_init", "tasks", "ts_align", "templates", "train")
_ONLY_LOGISTICS = ("train.log_every", "train.keep", "train.checkpoint_every", "model.remat")

report = functools.partial(print, flush=True)


@dataclasses.dataclass(frozen=True)
class Job:
    """What every stage needs: the settings, where things go, the data and the pretrained model."""

    config: ConfigDict
    workdir: Workdir
    dataset: Dataset
    base: str


def open_job(config: ConfigDict, path: pathlib.Path) -> Job:
    """Reads the data, records the run in `config.json` and pretrains the base model if the config names none."""
    workdir = Workdir(path)
    dataset = sources.open_dataset(config, path)
    workdir.record(config, training_identity(config, dataset), dataset.data_hash)
    base = config.model.path or str(sources.pretrain(config, dataset, path, report))
    return Job(config, workdir, dataset, base)


def _on_mesh(verb: Callable[[ConfigDict, pathlib.Path], None]) -> Callable[[ConfigDict, pathlib.Path], None]:
    """Runs a verb with the config's mesh as the ambient one, which activation shardings refer to."""

    @functools.wraps(verb)
    def call(config: ConfigDict, path: pathlib.Path) -> None:
        mesh = open_mesh(config)
        with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
            verb(config, path)

    return call


@_on_mesh
def pretrain(config: ConfigDict, path: pathlib.Path) -> None:
    """The verb `pretrain`."""
    if config.model.path:
        raise UserError(
            f"config.model.path={config.model.path!r} is pretrained already; `pretrain` is for an empty path"
        )
    job = open_job(config, path)
    report(f"pretrain: {job.base}")


@_on_mesh
def train(config: ConfigDict, path: pathlib.Path) -> None:
    """The verb `train`: the main recommender alone."""
    _train(open_job(config, path), MAIN)


@_on_mesh
def evaluate(config: ConfigDict, path: pathlib.Path) -> None:
    """The verb `evaluate`: the main recommender and whatever arms are trained already."""
    job = open_job(config, path)
    _evaluate(job, [MAIN, *(name for name in config.run.arms if _trained(job, name))])


@_on_mesh
def export(config: ConfigDict, path: pathlib.Path) -> None:
    """The verb `export`."""
    _export(open_job(config, path))


@_on_mesh
def run(config: ConfigDict, path: pathlib.Path) -> None:
    """The verb `run`: the stages of `config.run.stages`, the main recommender and every arm."""
    started = time.perf_counter()
    job = open_job(config, path)
    systems = [MAIN, *config.run.arms]
    if "train" in config.run.stages:
        for system in systems:
            _train(job, system)
    if "evaluate" in config.run.stages:
        _evaluate(job, systems)
    if "export" in config.run.stages:
        _export(job)
    report(f"run: done in {time.perf_counter() - started:.0f} s; see {path}")


def _settings(job: Job, system: str) -> ConfigDict:
    return job.config if system == MAIN else arm_config(job.config, system)


def _folder(job: Job, system: str) -> pathlib.Path:
    return job.workdir.path if system == MAIN else job.workdir.path / "arms" / system


def training_identity(config: ConfigDict, dataset: Dataset) -> dict[str, Any]:
    """Every setting that shapes the trained weights, as flat `section.key` facts."""
    facts: dict[str, Any] = {"seed": config.seed, "data": dataset.data_hash}
    if not config.model.path:
        facts |= _flat(config.pretrain.to_dict(), "pretrain.")
    for section in _SHAPES_TRAINING:
        facts |= _flat(config[section].to_dict(), f"{section}.")
    return {key: value for key, value in facts.items() if key not in _ONLY_LOGISTICS}


def _flat(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def _trained(job: Job, system: str) -> bool:
    identity = training_identity(_settings(job, system), job.dataset)
    return job.workdir.finished(f"train {system}", identity) is not None


def _train(job: Job, system: str) -> None:
    config = _settings(job, system)
    identity = training_identity(config, job.dataset)
    stage = f"train {system}"
    if job.workdir.finished(stage, identity) is not None:
        report(f"{stage}: finished before, skipped")
        return
    assembly = assemble(config, job.dataset, job.base)
    result = fit(config, assembly, _folder(job, system), identity, stage, report)
    facts = {
        "steps": result.steps,
        "best_step": result.best_step,
        "best_value": result.best_value,
        "stopped_early": result.stopped_early,
        "seconds": round(result.seconds, 1),
    }
    job.workdir.finish(stage, identity, facts)


def _restore(job: Job, system: str) -> Assembly:
    """The assembly with its trained weights."""
    if not _trained(job, system):
        raise UserError(
            f"{_folder(job, system)}: {system} is not trained with these settings; run the verb `train` first"
        )
    assembly = assemble(_settings(job, system), job.dataset, job.base)
    with Checkpoints(_folder(job, system) / "checkpoints") as checkpoints:
        _, model = checkpoints.load_best(assembly.model)
    return dataclasses.replace(assembly, model=model)


def _evaluate(job: Job, systems: list[str]) -> None:
    evaluations = {}
    for system in systems:
        identity = training_identity(_settings(job, system), job.dataset)
        stage = f"evaluate {system}"
        inputs = {**identity, **_flat(job.config.eval.to_dict(), "eval.")}
        folder = _folder(job, system)
        facts = job.workdir.finished(stage, inputs, folder / assess.PREDICTIONS)
        if facts is None:
            facts = assess.predict(_restore(job, system), job.config, folder, stage, report)
            job.workdir.finish(stage, inputs, facts)
        else:
            report(f"{stage}: finished before, skipped")
        evaluations[system] = (folder, facts)
    trained = {
        system: job.workdir.finished(f"train {system}", training_identity(_settings(job, system), job.dataset))
        for system in systems
    }
    assess.write_report(job.config, job.dataset, job.workdir.path, evaluations, trained, report)


def _export(job: Job) -> None:
    identity = training_identity(job.config, job.dataset)
    inputs = {**identity, "export.dtype": job.config.export.dtype}
    folder = job.workdir.path / "export"
    if job.workdir.finished("export", inputs, folder) is not None:
        report("export: finished before, skipped")
        return
    assembly = _restore(job, MAIN)
    card = assess.card_facts(job.config, job.dataset, job.workdir.path)
    export_folder(
        assembly.model,
        assembly.tokenizer,
        job.dataset.catalogue,
        assembly.templates,
        folder,
        max_length=job.config.train.sequence_length,
        card_facts=card,
        dtype=job.config.export.dtype,
    )
    job.workdir.finish("export", inputs, {})
    report(f"export: {folder}")
