"""One cell of a study: what it asks for, whether it is there, and how an arm or a baseline becomes one."""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from tsrec_jax.baselines.names import BASELINES
from tsrec_jax.baselines.run import run_baseline
from tsrec_jax.data.dataset import DESCRIPTIONS_FILE, Dataset, read_dataset
from tsrec_jax.data.faults import Faults
from tsrec_jax.data.folder_files import find_name, hash_of, read_files
from tsrec_jax.data.folder_rows import SPLITS
from tsrec_jax.data.held_out import hold_out_users, refuse_selection, selection_split
from tsrec_jax.data.prepared import tied_targets
from tsrec_jax.data.target_ranks import find_targets
from tsrec_jax.errors import UserError
from tsrec_jax.evaluation.beyond import Background
from tsrec_jax.evaluation.predictions import read_predictions
from tsrec_jax.evaluation.study_cells import (
    CELL_FILE,
    Cell,
    calibration_bins,
    lost_at,
    read_cells,
    rows_of,
    sids_digest,
)
from tsrec_jax.evaluation.trec import write_trec
from tsrec_jax.files import write_json
from tsrec_jax.pipeline import indexing, sources, upstream
from tsrec_jax.pipeline.assess import PREDICTIONS, SCORES, TREC, evaluated_rows, run_facts
from tsrec_jax.pipeline.lock import alone_when_free
from tsrec_jax.pipeline.run import (
    ONLY_LOGISTICS,
    evaluate_system,
    make_inputs,
    on_mesh,
    open_job,
    train_system,
    trained_facts,
)
from tsrec_jax.pipeline.workdir import (
    FINISHED,
    command,
    commit,
    fingerprint,
    input_facts,
    machine,
    versions,
)
from tsrec_jax.settings import Settings, flat
from tsrec_jax.training.checkpoints import differences
from tsrec_jax.training.host_memory import forget_peak, peak_bytes
from tsrec_jax.training.metrics_log import read_metrics

BEGUN = "begun.json"  # in a cell that is not finished: what was asked for
MADE = "made.json"  # in an upstream folder, when all of it is there
Report = Callable[[str], None]
# Settings that do not change what a cell holds, or that it knows by the digest of its data.
_ANY_VALUE = {
    *ONLY_LOGISTICS,
    *(f"index.{key}" for key in indexing.LOGISTICS if key != "sids"),
    *(f"describe.{key}" for key in upstream.LOGISTICS if key != "words"),
    *(
        "dataset.path",
        "dataset.overlaps",
        "prepare.raw",
        "prepare.base_url",
        "prepare.interactions_file",
        "prepare.items_file",
    ),
    *(f"prepare.{key}" for key in sources.PREPARE_LIMITS),
    *("eval.batch_size", "eval.bootstrap"),
}
_ANY_SECTION = ("study", "run", "export", "mesh")
_SHAPES_UPSTREAM = ("seed", "dataset", "prepare", "shop", "pretrain", "index", "describe", "model.path", "model.dtype")
_SHAPES_BASELINES = (*_SHAPES_UPSTREAM, "train.held_out", "eval.split", "eval.beams", "eval.max_rows")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A cell that a study asks for.

    Attributes:
      name, seed, kind, seeded: as in `Cell`.
      config: the arm's; its own `seed` is that of the work before training.
      data: digest of the source data.
      folder: where it is made.
    """

    name: str
    seed: int
    kind: str
    seeded: bool
    config: Settings
    data: str
    folder: pathlib.Path

    @property
    def file(self) -> pathlib.Path:
        """What it is when it is finished."""
        return self.folder / CELL_FILE

    @property
    def label(self) -> str:
        """For messages."""
        return f"{self.name}, seed {self.seed}"


def wanted_cells(config: Settings, workdir: pathlib.Path) -> list[Wanted]:
    """All cells of a study, in the order in which they are worked on: baselines first, then all arms seed by seed.

    Raises:
      UserError: an unknown baseline, an arm that is evaluated on what it was selected by, or a data folder or file that
        is not there.
    """
    unknown = [name for name in config.study.baselines if name not in BASELINES]
    if unknown:
        raise UserError(f"config.study.baselines: {unknown[0]!r} is not one of {', '.join(BASELINES)}")
    seeds = config.study.seeds
    systems = [
        *((name, "baseline", BASELINES[name].seeded, config) for name in config.study.baselines),
        *((name, "arm", True, config.arm(name)) for name in config.study.arms),
    ]
    for name, kind, _, own in systems:
        if kind == "arm" and own.eval.split == "valid" and not own.train.held_out:
            raise UserError(
                "config.eval.split='valid' is what training selects by; set config.train.held_out, say to 0.1 "
                f"(in the arm {name!r})"
            )
    found: list[Wanted] = []
    digests: dict[tuple[Any, ...], str] = {}
    for name, kind, seeded, own in systems:
        source = own.dataset, own.prepare, own.index.given_sids
        data = digests[source] = digests.get(source) or _data_digest(own)
        for seed in seeds if seeded else seeds[:1]:
            found.append(Wanted(name, seed, kind, seeded, own, data, cell_folder(workdir, name, seed)))
    return sorted(found, key=lambda wanted: (wanted.kind != "baseline", seeds.index(wanted.seed)))


def cell_folder(workdir: pathlib.Path, name: str, seed: int) -> pathlib.Path:
    """Where a cell is made."""
    return workdir / "cells" / name.replace(" ", "_") / f"seed-{seed}"


def _data_digest(config: Settings) -> str:
    """What is known of the source data before anything is made of it."""
    source, given = _source_digest(config), config.index.given_sids
    return (
        fingerprint([source, input_facts(config.index, ("given_sids",))["SHA-256 of index.given_sids"]])
        if given
        else source
    )


def _source_digest(config: Settings) -> str:
    """The same of texts and interactions; of the embedded shop its settings say all."""
    if config.dataset.path:
        folder = pathlib.Path(config.dataset.path)
        name = find_name(folder, config.dataset.name)
        files = [f"{name}.item.json", f"{name}.index.json", f"{name}.info.txt", f"{name}{DESCRIPTIONS_FILE}"]
        faults = Faults()
        digest = hash_of(read_files(folder, (), [*files, *(f"{split}.csv" for split in SPLITS)], faults))
        faults.stop_if_any()
        return digest
    if config.prepare.source == "tables":
        return fingerprint(input_facts(config.prepare, ("interactions_file", "items_file")))
    return ""


def finished_cell(wanted: Wanted) -> tuple[Cell | None, str]:
    """The cell where it is there and still what is asked for; else None and, of another one, how it differs."""
    if not wanted.file.exists():
        return None, ""
    (cell,) = read_cells(wanted.file)
    changed = _changed(wanted, cell.config, cell.data)
    return (None, changed) if changed else (cell, "")


def _changed(wanted: Wanted, config: Mapping[str, Any], data: str) -> str:
    """How a cell of another config or of other data differs from the one that is asked for; empty: it does not."""
    here = _shaping(wanted.config.given, wanted.kind, wanted.data)
    return differences(_shaping(config, wanted.kind, data), here)


def _shaping(config: Mapping[str, Any], kind: str, data: str) -> dict[str, Any]:
    """The settings that shape a cell, flat."""
    settings = flat({key: value for key, value in config.items() if key not in _ANY_SECTION})
    settings = {key: value for key, value in settings.items() if key not in _ANY_VALUE}
    if not config["prepare"]["source"]:  # nothing is prepared, so that nothing of it shapes the cell
        settings = {key: value for key, value in settings.items() if not key.startswith("prepare.")}
    if kind == "baseline":
        settings = {key: value for key, value in settings.items() if _within(key, _SHAPES_BASELINES)}
    return {**settings, "data": data}


def _within(key: str, names: Sequence[str]) -> bool:
    """Whether a flat key is one of the names, or in a section that is."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def begin(wanted: Wanted, report: Report) -> None:
    """Makes a cell's folder ready: what another config left there is set aside, never used."""
    folder = wanted.folder
    _, changed = finished_cell(wanted)
    begun = folder / BEGUN
    if not changed and begun.exists():
        before = json.loads(begun.read_text(encoding="utf-8"))
        changed = _changed(wanted, before["config"], before["data"])
    if changed:
        aside = next(each for n in range(1, 10**6) if not (each := folder.with_name(f"{folder.name}.old-{n}")).exists())
        aside.mkdir()
        for entry in [each for each in folder.iterdir() if each.name != "run.lock"]:
            entry.rename(aside / entry.name)
        _drop_weights(aside)
        report(f"{wanted.label}: the settings have changed ({changed}); what was there is now in {aside}")
    write_json(begun, {"config": wanted.config.given, "data": wanted.data})


def borrow_training(wanted: Wanted, cells: Sequence[Wanted], report: Report) -> None:
    """Gives an arm that differs from a finished one in the prior of its search alone that one's training."""
    if wanted.kind != "arm" or (wanted.folder / FINISHED).exists():
        return
    for other in _twins(wanted, cells):
        if finished_cell(other)[0] is None or not (other.folder / "checkpoints").exists():
            continue
        _drop_weights(wanted.folder)
        shutil.copytree(other.folder / "checkpoints", wanted.folder / "checkpoints")
        for name in ("config.json", "metrics.jsonl", FINISHED):  # what says that it is trained comes last
            shutil.copy(other.folder / name, wanted.folder / name)
        report(f"study: {wanted.label}: has the training of {other.label}")
        return


def close(wanted: Wanted, cells: Sequence[Wanted]) -> None:
    """Removes what only unfinished cells need: this one, or one that has the same training."""
    (wanted.folder / BEGUN).unlink(missing_ok=True)
    twins = _twins(wanted, cells)
    if not wanted.config.study.keep_weights and all(finished_cell(other)[0] is not None for other in twins):
        for each in (wanted, *twins):
            _drop_weights(each.folder)


def _twins(wanted: Wanted, cells: Sequence[Wanted]) -> list[Wanted]:
    """The other cells that have the same training, so that only the prior of the search differs."""
    if wanted.kind != "arm":
        return []
    return [
        other
        for other in cells
        if (other.kind, other.seed) == ("arm", wanted.seed)
        and other.folder != wanted.folder
        and _trained_by(other) == _trained_by(wanted)
    ]


def _trained_by(wanted: Wanted) -> dict[str, Any]:
    settings = _shaping(wanted.config.given, "arm", wanted.data)
    return {key: value for key, value in settings.items() if not key.startswith("eval.prior")}


def _drop_weights(folder: pathlib.Path) -> None:
    for name in ("checkpoints", "records"):
        shutil.rmtree(folder / name, ignore_errors=True)


def with_inputs(wanted: Wanted, workdir: pathlib.Path, report: Report) -> Settings:
    """The cell's config with the dataset folder and the pretrained model that it begins with, made where they are not.

    What is made lies in `upstream/DIGEST/` of the workdir, for all cells with the same settings of it.
    """
    config = wanted.config
    if config.dataset.path and config.model.path:
        source = pathlib.Path(config.dataset.path)
        if upstream.what_to_make(config, source, find_name(source, config.dataset.name)).given:
            return config
    facts = {
        key: value
        for key, value in _shaping(config.given, "arm", wanted.data).items()
        if _within(key, _SHAPES_UPSTREAM)
    }
    facts["data"] = wanted.data
    if not config.model.path:
        facts["wording"] = config.templates.wording()
    folder = workdir / "upstream" / fingerprint(facts)
    with alone_when_free(folder, "upstream", report):
        if not (folder / MADE).exists():
            with on_mesh(config):
                dataset, base = make_inputs(config, folder)
            made: dict[str, Any] = {
                "dataset": str(dataset.path),
                "name": dataset.name,
                "base": base,
                "words": bool(dataset.token_descriptions),
            }
            own = {key: str(pathlib.Path(made[key]).relative_to(folder)) for key in ("dataset", "base")
                   if pathlib.Path(made[key]).is_relative_to(folder)}  # fmt: skip
            write_json(folder / MADE, {"made": {**made, **own}, "own": sorted(own), "settings": facts})
    found = json.loads((folder / MADE).read_text(encoding="utf-8"))
    made = found["made"] | {key: str(folder / found["made"][key]) for key in found["own"]}
    words = "given" if made["words"] else "none"
    inputs = {"path": made["dataset"], "name": made["name"]}
    changes = {"dataset": inputs, "index": {"sids": "given", "given_sids": ""}, "describe": {"words": words}}
    return config.changed({**changes, "model": {"path": made["base"]}})


def run_arm(wanted: Wanted, config: Settings, report: Report) -> Cell:
    """Trains and evaluates one arm with one seed, in the cell's folder.

    Args:
      wanted: the cell.
      config: the arm's config as `with_inputs` gave it.
      report: receives the lines.
    """
    config = config.changed({"seed": wanted.seed})
    memory = _PeakMemory()
    with on_mesh(config):
        job = open_job(config, wanted.folder)
        refuse_selection(job.dataset, config.eval.split)
        again = trained_facts(job) is not None
        train_system(job)
        trained = trained_facts(job) or {}
        evaluated = evaluate_system(job)
    rows = read_metrics(wanted.folder)
    scores = json.loads((wanted.folder / SCORES).read_text(encoding="utf-8"))
    cost = {
        "parameters": trained["parameters"],
        "steps": trained["steps"],
        **trained_amounts(rows, trained["steps"]),
        "seconds": trained["seconds"],
        "flops": trained["step_flops"] * trained["steps"],
        "request_flops": evaluated.get("request_flops"),
        "memory": None if again else memory.bytes(),
    }
    facts = {key: value for key, value in run_facts(wanted.folder).items() if key not in ("config", "seed")}
    curve = tuple((row["step"], _number(row["valid/loss"]), _number(row.get("valid/hr@10"))) for row in rows
                  if "valid/loss" in row)  # fmt: skip
    predictions = read_predictions(wanted.folder / PREDICTIONS).lists
    # With a prior, scores are no log-probabilities.
    first = None if config.eval.prior else [ranked[0] for ranked in scores]
    facts |= {"prior": evaluated["prior"]} if config.eval.prior else {}
    facts |= _ties(config)
    return _cell(wanted, job.dataset, predictions, first=first, curve=curve, cost=cost, facts=facts)


def run_one_baseline(wanted: Wanted, config: Settings, report: Report) -> Cell:
    """Fits and evaluates a baseline; the arguments are those of `run_arm`."""
    dataset = read_dataset(config.dataset.path, config.dataset.name, config.dataset)
    dataset = hold_out_users(dataset, config.train.held_out)
    refuse_selection(dataset, config.eval.split)
    _, rows = evaluated_rows(config, dataset)
    memory, started = _PeakMemory(), time.perf_counter()
    result = run_baseline(
        wanted.name,
        dataset,
        dataset.splits["train"],
        dataset.splits[selection_split(dataset)],
        rows,
        config.eval.beams,
        wanted.seed,
        report,
    )
    targets = [dataset.catalogue.sid(int(target)) for target in rows.targets]
    write_trec(wanted.folder / TREC, targets, {wanted.name: result.lists})
    known = {key: result.facts.get(key) for key in ("parameters", "steps", "examples", "tokens", "flops")}
    seconds = result.facts.get("fit_seconds", round(time.perf_counter() - started, 1))
    facts = {
        "command": command(),
        "data_hash": dataset.data_hash,
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "baseline": dict(result.facts),
        **_ties(config),
    }
    cost = {**known, "seconds": seconds, "memory": memory.bytes()}
    return _cell(wanted, dataset, result.lists, first=None, curve=(), cost=cost, facts=facts)


def _ties(config: Settings) -> dict[str, Any]:
    """What is known of ties in the cell's dataset folder, as a fact; empty where nothing is."""
    ties = tied_targets(config.dataset.path)
    return {} if ties is None else {"ties": dict(ties)}


def _cell(
    wanted: Wanted,
    dataset: Dataset,
    predictions: Sequence[Sequence[str]],
    *,
    first: Sequence[float] | None,
    curve: Sequence[Sequence[float | None]],
    cost: Mapping[str, float | None],
    facts: Mapping[str, Any],
) -> Cell:
    catalogue = dataset.catalogue
    split, rows = evaluated_rows(wanted.config, dataset)
    placed = find_targets(predictions, rows.targets, catalogue)
    return Cell(
        name=wanted.name,
        seed=wanted.seed,
        kind=wanted.kind,
        seeded=wanted.seeded,
        split=split,
        beams=wanted.config.eval.beams,
        sids=sids_digest(catalogue),
        rows=rows_of(catalogue, dataset.splits["train"], rows),
        rank=placed.rank,
        before=placed.before,
        lost=lost_at(catalogue, predictions, rows.targets),
        calibration=[] if first is None else calibration_bins(first, placed.rank == 0),
        curve=curve,
        cost=cost,
        facts=facts,
        data=wanted.data,
        config=wanted.config.given,
        beyond=Background.of(catalogue, dataset.splits["train"]).measure(predictions),
    )


def trained_amounts(rows: Sequence[Mapping[str, float]], steps: int) -> dict[str, float | None]:
    """Tokens and examples of a training, from the means over the steps since the last row that its log holds."""
    last = 0.0
    totals = {"tokens": 0.0, "examples": 0.0}
    logged = [row for row in rows if "step_seconds" in row]
    for row in logged:
        until = steps if row is logged[-1] else row["step"]
        for key in totals:
            totals[key] += row[f"{key}_per_second"] * row["step_seconds"] * (until - last)
        last = until
    return {key: round(value) if logged else None for key, value in totals.items()}


def _number(value: Any) -> float | None:
    """A logged value; one that is not finite is logged as its name."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None


class _PeakMemory:
    """The peak of this process while a cell is worked on, free of what cells before it held."""

    def __init__(self) -> None:
        gc.collect()
        jax.clear_caches()
        self._new = forget_peak()
        self._before = peak_bytes()

    def bytes(self) -> int | None:
        """The peak; None where it cannot be told from that of an earlier cell."""
        now = peak_bytes()
        known = now is not None and self._before is not None and (self._new or now > self._before)
        return now if known else None
