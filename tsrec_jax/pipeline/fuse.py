"""The stage `fuse`: fits the parts of a fusion on train and their weights on the selection split (`fusion.npz`)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax.numpy as jnp
import numpy as np

from tsrec_jax.baselines.ranking import FittedTables
from tsrec_jax.baselines.run import fit_baseline
from tsrec_jax.baselines.tables import ItemTables, Seen
from tsrec_jax.data.dataset import Dataset
from tsrec_jax.data.held_out import selection_split
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.target_ranks import find_targets
from tsrec_jax.decoding.generate import RankedSids
from tsrec_jax.decoding.prior import DenseScores
from tsrec_jax.errors import UserError
from tsrec_jax.fusion.fit import Candidates, candidates, fit_weights, fusion_of, halves, scaled_parts
from tsrec_jax.fusion.fusion import Fusion, Part, alone, commonness, versions
from tsrec_jax.fusion.settings import DENSE, SEEN, FusionSettings
from tsrec_jax.models.dense_head import DenseScorer
from tsrec_jax.pipeline.job import Job
from tsrec_jax.pipeline.search import FusedRows, ModelSearch, search_fusion
from tsrec_jax.processes import first
from tsrec_jax.progress import report
from tsrec_jax.settings import Settings, flat

STAGE = "fuse"
FILE = "fusion.npz"
SEEN_DECAY = 0.5  # decay over a history's items, in the part `seen`


def fusion_inputs(job: Job) -> dict[str, Any]:
    """What distinguishes this fusion from every other."""
    searched = (
        {}
        if not job.settings.fusion.model
        else {
            "eval.beams": job.settings.eval.beams,
            "eval.weights": job.settings.eval.weights,
        }
    )
    vectors = job.vectors_identity(job.settings.fusion.parts)
    made_with = {f"version of {name}": version for name, version in versions(job.settings.fusion.parts).items()}
    return {**job.final_identity, **flat(job.settings.fusion, "fusion."), **made_with, **vectors, **searched}


def fused(job: Job, model: ModelSearch | None) -> Fusion | None:
    """The fusion of a run, fitted if it does not exist yet; None if the settings name no parts.

    Args:
      job: gives settings, data and the working directory.
      model: the trained model, if it takes part.

    Raises:
      UserError: the selection split holds no rows, a part cannot be fitted or exported, the model has no dense head, or
        the file cannot be read.
    """
    if not job.settings.fusion.parts:
        return None
    inputs, path = fusion_inputs(job), job.workdir.path / FILE
    finished = job.workdir.finished(STAGE, inputs, path) is not None
    fitted = None if finished else fit_fusion(job, job.settings.fusion, model)

    def kept() -> Fusion:
        if fitted is not None and first():
            job.workdir.forget(STAGE)  # the file that it speaks of is about to be replaced
            fitted.save(path)
        return Fusion.load(path, job.dataset.catalogue.num_items, way_out="delete it, and it is fitted again")

    fusion = job.workdir.first_makes(kept)
    if not finished:
        job.workdir.finish(STAGE, inputs, fusion.facts)
    return fusion


def fused_rows(fusion: Fusion, rows: Interactions, model: ModelSearch | None) -> FusedRows:
    """Rows that one fusion scores."""
    scorer = model.scorer if model is not None and fusion.dense_3 is not None else None
    return FusedRows(rows, [fusion], np.zeros(len(rows), np.int64), scorer)


def fit_fusion(job: Job, wanted: FusionSettings, model: ModelSearch | None) -> Fusion:
    """Fits parts to train and their weights to the selection split; nothing is saved.

    Args:
      job: gives data, seed and vectors.
      wanted: the parts, and how they are weighted.
      model: the trained model, if it takes part.

    Raises:
      UserError: as in `fused`.
    """
    settings, dataset = job.settings, job.dataset
    select = dataset.splits[selection_split(dataset)]
    if not len(select):
        raise UserError(
            f"a fusion of {', '.join(wanted.parts)}: the selection split holds no rows to fit their weights on"
        )
    rows = select.spread(wanted.rows or len(select))
    tables, facts = _tables(job, wanted.parts, select)
    facts = {"versions": versions(wanted.parts), "parts": list(wanted.parts), "settings": facts, "rows": len(rows)}
    parts = scaled_parts(tables, rows)
    if model is None and len(parts) == 1:
        found = alone(parts[0], dataset.catalogue.sid_numbers_I, facts)
        ranked = search_fusion(dataset.catalogue, fused_rows(found, rows, None), settings.eval.beams)
        return dataclasses.replace(found, facts={**facts, "alone": _figures(ranked, dataset, rows)})
    scorer = model.scorer if model is not None and DENSE in wanted.parts else None
    if DENSE in wanted.parts and scorer is None:
        raise UserError(
            f"config.fusion.parts names {DENSE!r}, but the model has no dense head; set config.dense.weight"
        )
    return _weighed(settings, wanted.l2, dataset, model, rows, parts, scorer, facts)


def _tables(job: Job, names: Sequence[str], select: Interactions) -> tuple[Mapping[str, ItemTables], Mapping[str, Any]]:
    """The fitted parts that are tables, and the settings chosen for each."""
    settings, dataset = job.settings, job.dataset
    num_items, tables, chosen = dataset.catalogue.num_items, {}, {}
    for name in names:
        if name == SEEN:
            seen = Seen(1.0, SEEN_DECAY, dataset.catalogue.sid_numbers_I)
            tables[name] = ItemTables(np.zeros(num_items, np.float32), seen=seen)
        elif name != DENSE:
            train = dataset.splits["train"]
            fitted = fit_baseline(name, dataset, train, select, settings.seed, report, job.vectors)
            tables[name] = cast(FittedTables, fitted).tables
            chosen[name] = fitted.facts.get("settings")
    return tables, chosen


def _weighed(
    settings: Settings,
    l2: float,
    dataset: Dataset,
    model: ModelSearch | None,
    rows: Interactions,
    parts: tuple[Part, ...],
    scorer: DenseScorer | None,
    facts: Mapping[str, Any],
) -> Fusion:
    """Fits the weights: first on each half of the users, for the figures, then on all users."""
    catalogue, log_p_BN = dataset.catalogue, None
    others: Sequence[Sequence[int]] = [()] * len(rows)
    search: Callable[[FusedRows], list[RankedSids]]
    if model is None:
        search = functools.partial(search_fusion, catalogue, length=settings.eval.beams)
    else:
        report(f"fuse: the model searches {len(rows)} rows of selection twice; config.fusion.rows takes fewer")
        search = functools.partial(model.search, rows)
        beams = model.search(rows)
        facts = {**facts, "model alone": _figures(beams, dataset, rows)}
        others = [[item for sid, _ in ranked for item in catalogue.items_of_sid[sid]] for ranked in beams]
    log_p = None if scorer is None or model is None else _dense_log_p(model, scorer, rows)
    held = any(part.name == SEEN for part in parts)
    sids_I = catalogue.sid_numbers_I
    listed = candidates(parts, rows, others, sids_I if held else None, log_p)
    if model is not None:
        log_p_BN = model.log_probabilities(rows, np.maximum(listed.items_BN, 0))
    common_I = commonness(dataset.splits["train"], catalogue.num_items)
    length = float(np.mean([np.log1p(len(history)) for history in rows.histories]))

    def fit(chosen: np.ndarray, own: Mapping[str, Any]) -> Fusion:
        weights = fit_weights(listed, rows, chosen, sids_I, common_I, length, l2, log_p_BN)
        if model is not None:
            own = {**own, "weight of the model": weights.model, "model at its bound": weights.at_bound}
        return fusion_of(parts, weights, held, scorer is not None, common_I, sids_I, length, own)

    half_B = halves(rows.users)
    if half_B.any():  # otherwise there is only one user
        crossed = [fit(np.flatnonzero(half_B != half), {}) for half in (0, 1)]
        figures = _figures(search(FusedRows(rows, crossed, half_B, scorer)), dataset, rows)
        facts = {**facts, "cross-fitted": figures}
        said = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        report(f"fuse: {said} on {len(rows)} rows of selection, each half of the users by the weights of the other")
    facts = {**facts, "listed": _listed(listed, rows)}
    return fit(np.arange(len(rows)), facts)


def _dense_log_p(model: ModelSearch, scorer: DenseScorer, rows: Interactions) -> Callable[[range], np.ndarray]:
    states_BD = model.states(rows)

    def log_p(numbers: range) -> np.ndarray:
        histories = [rows.histories[number] for number in numbers]
        own = DenseScores.of(scorer, histories, np.ones((len(histories), 1)))
        x_BD, padded = states_BD[numbers.start : numbers.stop], (own.history_BH, own.lengths_B)
        return np.asarray(scorer.scores(jnp.asarray(x_BD), *map(jnp.asarray, padded)))

    return log_p


def _figures(ranked: list[RankedSids], dataset: Dataset, rows: Interactions) -> dict[str, float]:
    placed = find_targets([[sid for sid, _ in row] for row in ranked], rows.targets, dataset.catalogue)
    return {name: round(placed.mean("sid", name), 5) for name in ("HR@10", "NDCG@10")}


def _listed(listed: Candidates, rows: Interactions) -> float:
    """The share of rows whose target is among the candidates."""
    return round(float((listed.items_BN == rows.targets[:, None]).any(axis=1).mean()), 4)
