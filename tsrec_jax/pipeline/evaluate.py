"""The stage `evaluate`: predictions of the trained recommender and of baselines, and the report."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from typing import Any

from tsrec_jax.baselines.run import run_baseline
from tsrec_jax.data.dataset import Dataset
from tsrec_jax.data.held_out import evaluated_split
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.target_ranks import find_targets, metric_names
from tsrec_jax.evaluation.beyond import Background
from tsrec_jax.evaluation.predictions import Predictions, read_predictions, write_predictions
from tsrec_jax.evaluation.report import Report, format_table, to_json, to_markdown
from tsrec_jax.evaluation.statistics import compare, draw_users, intervals
from tsrec_jax.evaluation.trec import write_trec
from tsrec_jax.files import write_json, write_text
from tsrec_jax.models.local_devices import on_own_devices
from tsrec_jax.pipeline import shop
from tsrec_jax.pipeline.before import before_and_after, is_predicted, predict_alone, predict_before
from tsrec_jax.pipeline.fuse import fused, fused_rows, fusion_inputs
from tsrec_jax.pipeline.job import Job
from tsrec_jax.pipeline.pretrain import base_words
from tsrec_jax.pipeline.rl import final_parts, rl_facts
from tsrec_jax.pipeline.search import TOKENISED, ModelSearch, search_fusion
from tsrec_jax.pipeline.train import trained_facts
from tsrec_jax.pipeline.workdir import run_facts
from tsrec_jax.planning.search_flops import search_flops
from tsrec_jax.processes import first
from tsrec_jax.progress import report
from tsrec_jax.settings import Settings, flat

STAGE = "evaluate"
SYSTEM = "TS-Rec"  # what reports call the trained recommender
PREDICTIONS = "predictions.json"
TREC = "trec"  # these predictions and the baselines', in a format that other programs read
SCORES = "scores.json"  # the log-probabilities of the predictions, one list per row
BASELINES = ("popularity", "repeat last")  # those that take no time and choose no settings


def evaluate_recommender(job: Job) -> Mapping[str, Any]:
    """Writes the predictions of the trained recommender and the report on them; finished predictions are kept.

    Returns:
      The number of predicted rows, the number of predicted SIDs that do not exist (0 by construction), the seconds, the
      FLOPs per request and, for a fusion, what was fitted.

    Raises:
      UserError: nothing is trained with these settings.
    """
    inputs = {**fusion_inputs(job), **flat(job.settings.eval, "eval.")}
    if job.earlier is not None:
        inputs["train.from_run"] = job.earlier.place
    _, rows = evaluated_rows(job.settings, job.dataset)
    facts = job.workdir.finished(STAGE, inputs, job.workdir.path / PREDICTIONS)
    if facts is None or not is_predicted(job, rows):
        facts = _predict(job)
        job.workdir.finish(STAGE, inputs, facts)
    else:
        report("evaluate: finished before, skipped")
    trained = trained_facts(job) if job.settings.fusion.model else None
    if first():
        _write_report(job, facts, trained)
    return facts


def _predict(job: Job) -> dict[str, Any]:
    """Writes `predictions.json` and `scores.json`, and returns the facts of the finished stage."""
    settings, folder, catalogue = job.settings, job.workdir.path, job.dataset.catalogue
    split, rows = evaluated_rows(settings, job.dataset)
    if split != settings.eval.split:
        report(f"evaluate: the folder has no {settings.eval.split}.csv, using {split}")
    if job.earlier is not None:
        predict_before(job, rows)  # first, while no other model takes up memory
    with contextlib.ExitStack() as stack:
        model = None
        if settings.fusion.model:
            parts = final_parts(job)
            model = ModelSearch.of(parts, settings, stack.enter_context(on_own_devices(parts.model)))
        fusion = fused(job, model)
        rows_fused = None if fusion is None else fused_rows(fusion, rows, model)
        started = time.perf_counter()
        if model is not None:
            found = model.search(rows, rows_fused)
        else:
            assert rows_fused is not None
            found = search_fusion(catalogue, rows_fused, settings.eval.beams)
        seconds = time.perf_counter() - started
        if job.earlier is not None and fusion is not None:
            assert model is not None
            predict_alone(job, rows, model)
    predictions = [[sid for sid, _ in ranked] for ranked in found]
    invalid = sum(sid not in catalogue.items_of_sid for ranked in predictions for sid in ranked)
    if invalid:
        raise AssertionError(f"{invalid} predicted SIDs are not in the catalogue: the constraint is broken")
    targets = [catalogue.sid(int(target)) for target in rows.targets]
    if first():
        folder.mkdir(parents=True, exist_ok=True)
        job.workdir.forget(STAGE)  # from here on the files may be those of other settings
        scores = (json.dumps([round(float(score), 4) for _, score in ranked]) for ranked in found)
        write_text(folder / SCORES, "[" + ",\n".join(scores) + "]\n")
        write_predictions(folder / PREDICTIONS, Predictions(rows.users, targets, predictions))
    report(f"evaluate: {len(rows)} rows in {seconds:.0f} s ({len(rows) / seconds:.1f} rows/s)")
    facts = {
        "rows": len(rows),
        "invalid": invalid,
        "seconds": round(seconds, 1),
        "request_flops": None if model is None else _request_flops(model, rows),
    }
    return facts if fusion is None else {**facts, "fusion": dict(fusion.facts)}


def _request_flops(model: ModelSearch, rows: Interactions) -> float:
    """Model FLOPs of a request whose prompt has the mean length of TOKENISED rows."""
    parts, settings = model.parts, model.settings
    shared = len(parts.builder.prefix("next_sid"))
    lengths = [len(prompt) for prompt in model.prompts(rows.spread(TOKENISED))]
    levels = parts.trie.arrays.levels
    return search_flops(
        parts.model.config,
        prompt=round(sum(lengths) / len(lengths)) - shared,
        shared=shared,
        codes=[len(level.token_ids_E) for level in levels],
        widths=[level.width for level in levels],
        beams=settings.eval.beams,
        whole_vocabulary=settings.objective == "vocabulary",
    )


def _write_report(job: Job, predicted: Mapping[str, Any], trained: Mapping[str, Any] | None) -> None:
    """Scores predictions and baselines; writes `results.json`, `results.md`, `trec/` and a plot, and prints the table.

    Args:
      job: what was evaluated.
      predicted: facts of the stage `evaluate`.
      trained: facts of the stage `train`; None if nothing was trained or the trained weights have since been lost.
    """
    settings, dataset, folder = job.settings, job.dataset, job.workdir.path
    split, rows = evaluated_rows(settings, dataset)
    train, valid = dataset.splits["train"], dataset.splits["valid"]
    beams, metrics = settings.eval.beams, metric_names(settings.eval.beams)
    system = SYSTEM if settings.fusion.model else " + ".join(settings.fusion.parts)
    lists = {system: read_predictions(folder / PREDICTIONS).lists}
    compared = [name for name in BASELINES if name not in lists]
    for name in compared:
        lists[name] = run_baseline(name, dataset, train, valid, rows, beams, settings.seed, report).lists
    ranks = {name: find_targets(ranked, rows.targets, dataset.catalogue) for name, ranked in lists.items()}
    background = Background.of(dataset.catalogue, train)
    draws = draw_users(rows.users, settings.eval.bootstrap, settings.seed)
    ndcg_SN = {name: found.values("sid", "NDCG@10")[None] for name, found in ranks.items()}
    base = {"base model": base_words(job.base)} if settings.fusion.model else {}
    fusion = predicted.get("fusion")
    fitted = {} if fusion is None else {f"fusion of {system}": {key: fusion[key] for key in ("parts", "settings")}}
    improved = rl_facts(job)
    stages = {system: trained, f"{system}, second stage": improved}
    second = {}
    if improved is not None:
        second["second stage"] = {key: improved[key] for key in ("start", "teacher") if key in improved}
    built = Report(
        dataset=dataset.name,
        split=split,
        rows=len(rows),
        users=len(set(rows.users)),
        beams=beams,
        invalid=predicted["invalid"],
        systems={name: found.means(metrics) for name, found in ranks.items()},
        intervals={name: intervals(found, metrics, draws) for name, found in ranks.items()},
        beyond={name: background.measure(ranked, rows.histories) for name, ranked in lists.items()},
        comparisons=[
            compare(
                (system, name),
                (ndcg_SN[system], ndcg_SN[name]),
                draws,
                metric="NDCG@10",
                level="sid",
                seeds=(settings.seed,),
            )
            for name in compared
        ],
        upper_bound=shop.upper_bound(settings, dataset, rows, metrics) if shop.is_embedded(settings) else None,
        training={name: _with_flops(facts, predicted) for name, facts in stages.items() if facts},
        before_after=before_and_after(job, rows, lists[system]),
        facts={**run_facts(folder), **base, **fitted, **second},
        fusion=fusion,
    )
    write_trec(folder / TREC, [dataset.catalogue.sid(int(target)) for target in rows.targets], lists)
    write_json(folder / "results.json", to_json(built))
    write_text(folder / "results.md", to_markdown(built))
    from tsrec_jax.evaluation.plots import plot_metrics  # imports matplotlib

    plot_metrics(built, folder / "plots" / "metrics.png")
    report(f"\n{dataset.name}, {split}, {len(rows)} rows, {beams} beams, SID level:\n{format_table(built)}\n")


def evaluated_rows(settings: Settings, dataset: Dataset) -> tuple[str, Interactions]:
    """The evaluated split and `eval.max_rows` of its rows, spread over it; valid if the folder lacks the named one."""
    split = evaluated_split(dataset, settings.eval.split)
    rows = dataset.splits[split]
    return split, rows.spread(settings.eval.max_rows or len(rows))


def _with_flops(trained: Mapping[str, Any], predicted: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a training, with its model FLOPs and the FLOPs per request."""
    flops = {"flops": trained["step_flops"] * trained["steps"], "request_flops": predicted["request_flops"]}
    return {**trained, **flops}
