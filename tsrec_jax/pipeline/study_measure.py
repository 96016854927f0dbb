"""How an arm or a baseline becomes a cell: its inputs, its training or fit, and what is kept of its evaluation."""

from __future__ import annotations

import gc
import math
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from tsrec_jax.baselines.names import BASELINES
from tsrec_jax.baselines.run import run_baseline
from tsrec_jax.data.dataset import Dataset, read_dataset
from tsrec_jax.data.held_out import hold_out_users, refuse_selection, selection_split
from tsrec_jax.data.prepared import tied_targets
from tsrec_jax.data.target_ranks import find_targets
from tsrec_jax.errors import UserError
from tsrec_jax.evaluation.beyond import Background
from tsrec_jax.evaluation.predictions import read_predictions
from tsrec_jax.evaluation.study_cells import Cell, calibration_bins, lost_at, rows_of, sids_digest
from tsrec_jax.evaluation.trec import write_trec
from tsrec_jax.files import read_facts, read_json, write_json
from tsrec_jax.pipeline.evaluate import PREDICTIONS, SCORES, TREC, evaluate_recommender, evaluated_rows
from tsrec_jax.pipeline.inputs import make_inputs, source_of
from tsrec_jax.pipeline.job import open_job
from tsrec_jax.pipeline.lock import alone_when_free
from tsrec_jax.pipeline.mesh import on_mesh
from tsrec_jax.pipeline.provenance import command, commit, fingerprint, machine, versions
from tsrec_jax.pipeline.rl import STAGE as RL
from tsrec_jax.pipeline.rl import improve_recommender, rl_facts
from tsrec_jax.pipeline.study_cell import WantedCell, upstream_facts
from tsrec_jax.pipeline.train import train_recommender, trained_facts
from tsrec_jax.pipeline.vectors import ItemVectors, need_base, need_vectors, teachers
from tsrec_jax.pipeline.workdir import run_facts
from tsrec_jax.progress import report
from tsrec_jax.settings import Settings
from tsrec_jax.sid.given import read_embeddings
from tsrec_jax.training.host_memory import forget_peak, peak_bytes
from tsrec_jax.training.metrics_log import read_metrics

MADE = "made.json"  # in an upstream folder, once it is complete


def with_inputs(wanted: WantedCell, workdir: pathlib.Path) -> Settings:
    """The cell's settings with the inputs that it begins with, which are made if they are missing.

    They are the dataset folder, the pretrained model and, if a baseline needs them, the vectors of the items. What is
    made lies in `upstream/DIGEST/` of the workdir, shared by all cells with the same upstream settings.
    """
    facts = upstream_facts(wanted)
    folder = workdir / "upstream" / fingerprint(facts)
    settings = wanted.settings
    given = settings.dataset.path and settings.model.path
    if not (given and source_of(settings, pathlib.Path(settings.dataset.path)).complete):
        settings = _with_dataset(settings, folder, facts)
    fitted = [wanted.name] if wanted.kind == "baseline" else [*teachers(settings), *settings.fusion.parts]
    if not need_vectors(fitted):
        return settings
    items = read_dataset(settings.dataset.path, settings.dataset.name, settings.dataset).catalogue.items
    with alone_when_free(folder, "upstream"), on_mesh(settings):
        file = ItemVectors.of_model(settings, folder, items, settings.model.path).file()
    return settings.changed({"index": {"embeddings": str(file)}})


def _with_dataset(settings: Settings, folder: pathlib.Path, facts: Mapping[str, Any]) -> Settings:
    """The settings with the dataset and the pretrained model of an upstream folder, where the first cell makes them."""
    with alone_when_free(folder, "upstream"):
        if not (folder / MADE).exists() or (need_base(settings, makes_sids=False) and not _made(folder)["base"]):
            with on_mesh(settings):
                dataset, base = make_inputs(settings, folder)
            made: dict[str, Any] = {
                "dataset": str(dataset.path),
                "name": dataset.name,
                "base": base,
                "words": bool(dataset.token_descriptions),
            }
            own = {key: str(pathlib.Path(made[key]).relative_to(folder)) for key in ("dataset", "base")
                   if pathlib.Path(made[key]).is_relative_to(folder)}  # fmt: skip
            write_json(folder / MADE, {"made": {**made, **own}, "own": sorted(own), "settings": facts})
    made = _made(folder)
    words = "given" if made["words"] else "none"
    inputs = {"path": made["dataset"], "name": made["name"]}
    changes = {"dataset": inputs, "index": {"sids": "given", "given_sids": ""}, "describe": {"words": words}}
    return settings.changed({**changes, "model": {"path": made["base"]}})


def _made(folder: pathlib.Path) -> dict[str, Any]:
    """What was made in an upstream folder; `base` is empty if no cell has needed a model yet."""
    found = read_facts(folder / MADE, "delete it, and what was made beside it is found again", ("made", "own"))
    return found["made"] | {key: str(folder / found["made"][key]) for key in found["own"]}


def run_arm(wanted: WantedCell, settings: Settings) -> Cell:
    """Trains and evaluates one arm with one seed, in the cell's folder.

    Args:
      wanted: the cell.
      settings: the arm's settings, as returned by `with_inputs`.
    """
    settings = settings.changed({"seed": wanted.seed})
    memory = _PeakMemory()
    with on_mesh(settings):
        job = open_job(settings, wanted.folder)
        refuse_selection(job.dataset, settings.eval.split)
        again = (rl_facts(job) if settings.rl.steps else trained_facts(job)) is not None
        train_recommender(job)
        trained = (trained_facts(job) if settings.fusion.model else None) or {}
        improve_recommender(job)
        improved = rl_facts(job)
        evaluated = evaluate_recommender(job)
    rows = read_metrics(wanted.folder) if trained else []
    trainings = [(trained, rows)] if trained else []
    if improved:
        trainings.append((improved, read_metrics(wanted.folder / RL)))
    cost = {
        "parameters": trained.get("parameters"),
        **spent(trainings),
        "request_flops": evaluated.get("request_flops"),
        "memory": None if again else memory.bytes(),
    }
    facts = {key: value for key, value in run_facts(wanted.folder).items() if key not in ("config", "seed")}
    curve = tuple((row["step"], _number(row["valid/loss"]), _number(row.get("valid/hr@10"))) for row in rows
                  if "valid/loss" in row)  # fmt: skip
    predictions = read_predictions(wanted.folder / PREDICTIONS).lists
    # The scores of a fusion are not log-probabilities.
    first = None if settings.fusion.parts else _first_scores(wanted.folder)
    facts |= {"fusion": evaluated["fusion"]} if settings.fusion.parts else {}
    facts |= {"start": trained["start"]} if trained else {}
    facts |= {"second stage": improved} if improved else {}
    facts |= _ties(settings)
    return _cell(wanted, job.dataset, predictions, first=first, curve=curve, cost=cost, facts=facts)


def _first_scores(folder: pathlib.Path) -> list[float]:
    """The log-probability of the first SID of each evaluated row."""
    way_out = f"delete {PREDICTIONS} beside it, and the rows are evaluated again"
    scores = read_json(folder / SCORES, way_out)
    if not isinstance(scores, list):
        raise UserError(f"{folder / SCORES}: not a list of scores; {way_out}")
    return [ranked[0] for ranked in scores]


def run_one_baseline(wanted: WantedCell, settings: Settings) -> Cell:
    """Fits and evaluates a baseline; the arguments are those of `run_arm`."""
    dataset = read_dataset(settings.dataset.path, settings.dataset.name, settings.dataset)
    dataset = hold_out_users(dataset, settings.train.held_out)
    refuse_selection(dataset, settings.eval.split)
    _, rows = evaluated_rows(settings, dataset)
    memory, started = _PeakMemory(), time.perf_counter()
    result = run_baseline(
        wanted.name,
        dataset,
        dataset.splits["train"],
        dataset.splits[selection_split(dataset)],
        rows,
        settings.eval.beams,
        wanted.seed,
        report,
        lambda: read_embeddings(pathlib.Path(settings.index.embeddings), dataset.catalogue.num_items),
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
        "baseline": {"version": BASELINES[wanted.name].version, **result.facts},
        **_ties(settings),
    }
    cost = {**known, "seconds": seconds, "memory": memory.bytes()}
    return _cell(wanted, dataset, result.lists, first=None, curve=(), cost=cost, facts=facts)


def _ties(settings: Settings) -> dict[str, Any]:
    """What is known about ties in the cell's dataset folder, as a fact; empty if nothing is known."""
    ties = tied_targets(settings.dataset.path)
    return {} if ties is None else {"ties": dict(ties)}


def _cell(
    wanted: WantedCell,
    dataset: Dataset,
    predictions: Sequence[Sequence[str]],
    *,
    first: Sequence[float] | None,
    curve: Sequence[Sequence[float | None]],
    cost: Mapping[str, float | None],
    facts: Mapping[str, Any],
) -> Cell:
    catalogue = dataset.catalogue
    split, rows = evaluated_rows(wanted.settings, dataset)
    placed = find_targets(predictions, rows.targets, catalogue)
    return Cell(
        name=wanted.name,
        seed=wanted.seed,
        kind=wanted.kind,
        seeded=wanted.seeded,
        split=split,
        beams=wanted.settings.eval.beams,
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
        config=wanted.settings.resolved(),
        beyond=Background.of(catalogue, dataset.splits["train"]).measure(predictions, rows.histories),
    )


def spent(trainings: Sequence[tuple[Mapping[str, Any], Sequence[Mapping[str, float]]]]) -> dict[str, float | None]:
    """Total steps, tokens, examples, seconds and FLOPs of some trainings; None if a value is unknown for any of them.

    Args:
      trainings: for each, the facts of the finished stage and its log.
    """
    found: list[dict[str, Any]] = [
        {
            "steps": facts["steps"],
            **trained_amounts(rows, facts["steps"]),
            "seconds": facts["seconds"],
            "flops": facts["step_flops"] * facts["steps"],
        }
        for facts, rows in trainings
    ]
    columns = {key: [each[key] for each in found] for key in ("steps", "tokens", "examples", "seconds", "flops")}
    return {key: sum(values) if values and None not in values else None for key, values in columns.items()}


def trained_amounts(rows: Sequence[Mapping[str, float]], steps: int) -> dict[str, float | None]:
    """Tokens and examples of a training, from its log, whose rows hold means over the steps since the row before."""
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
    """A logged value; None if it is not finite, since such a value is logged as its name."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None


class _PeakMemory:
    """The peak memory of this process during one cell, without what earlier cells held."""

    def __init__(self) -> None:
        gc.collect()
        jax.clear_caches()
        self._new = forget_peak()
        self._before = peak_bytes()

    def bytes(self) -> int | None:
        """The peak; None if it cannot be told apart from the peak of an earlier cell."""
        now = peak_bytes()
        known = now is not None and self._before is not None and (self._new or now > self._before)
        return now if known else None
