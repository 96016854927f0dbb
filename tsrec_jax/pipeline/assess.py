"""The evaluation stage: predictions of a trained system, baselines beside it, and the report."""

from __future__ import annotations

import functools
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tsrec_jax.baselines.run import run_baseline
from tsrec_jax.data.dataset import Dataset
from tsrec_jax.data.held_out import evaluated_split
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.target_ranks import find_targets, metric_names
from tsrec_jax.decoding.generate import RankedSids, search_all
from tsrec_jax.evaluation.beyond import Background
from tsrec_jax.evaluation.predictions import Predictions, read_predictions, write_predictions
from tsrec_jax.evaluation.report import Report, format_table, to_json, to_markdown
from tsrec_jax.evaluation.statistics import compare, draw_users, intervals
from tsrec_jax.evaluation.trec import write_trec
from tsrec_jax.files import write_json, write_text
from tsrec_jax.models.inference import InferenceModel
from tsrec_jax.models.local_devices import on_own_devices
from tsrec_jax.pipeline import sources
from tsrec_jax.pipeline.assemble import Assembly
from tsrec_jax.pipeline.prior import ItemScores, choose_prior
from tsrec_jax.pipeline.workdir import command
from tsrec_jax.planning.search_flops import search_flops
from tsrec_jax.processes import first
from tsrec_jax.settings import Settings
from tsrec_jax.training.metrics_log import read_metrics

PREDICTIONS = "predictions.json"
TREC = "trec"  # the same and those of the baselines, as other programs read them
SCORES = "scores.json"  # the log-probabilities of the predictions, a list a row
BASELINES = ("popularity", "repeat last")  # those that take no time and choose nothing
TOKENISED = 256  # histories a call of the tokenizer


def evaluated_rows(config: Settings, dataset: Dataset) -> tuple[str, Interactions]:
    """The split that is evaluated and `eval.max_rows` of its rows, spread over it; valid where a folder has no such."""
    split = evaluated_split(dataset, config.eval.split)
    rows = dataset.splits[split]
    return split, rows.spread(config.eval.max_rows or len(rows))


def predict(
    assembly: Assembly, config: Settings, folder: pathlib.Path, label: str, report: Callable[[str], None]
) -> dict[str, Any]:
    """Writes `predictions.json` and `scores.json` of a trained system.

    Returns:
      rows, invalid SIDs (0 by construction), seconds and FLOPs of a request, and of a prior what was chosen.
    """
    catalogue = assembly.dataset.catalogue
    split, rows = evaluated_rows(config, assembly.dataset)
    if split != config.eval.split:
        report(f"{label}: the folder has no {config.eval.split}.csv, using {split}")
    chosen = None
    with on_own_devices(assembly.model) as model:
        search = functools.partial(
            _search, assembly, config, InferenceModel.of(model), lambda line: report(f"{label}: {line}")
        )
        if config.eval.prior:
            chosen = choose_prior(config, assembly.dataset, search, lambda line: report(f"{label}: {line}"))
        started = time.perf_counter()
        found = search(rows, None if chosen is None else chosen.scores_of(rows))
        seconds = time.perf_counter() - started
    predictions = [[sid for sid, _ in ranked] for ranked in found]
    invalid = sum(sid not in catalogue.items_of_sid for ranked in predictions for sid in ranked)
    if invalid:
        raise AssertionError(f"{invalid} predicted SIDs are not in the catalogue: the constraint is broken")
    targets = [catalogue.sid(int(target)) for target in rows.targets]
    if first():
        folder.mkdir(parents=True, exist_ok=True)
        scores = (json.dumps([round(float(score), 4) for _, score in ranked]) for ranked in found)
        write_text(folder / SCORES, "[" + ",\n".join(scores) + "]\n")
        write_predictions(folder / PREDICTIONS, Predictions(rows.users, targets, predictions))
    report(f"{label}: {len(rows)} rows in {seconds:.0f} s ({len(rows) / seconds:.1f} rows/s)")
    facts = {
        "rows": len(rows),
        "invalid": invalid,
        "seconds": round(seconds, 1),
        "request_flops": _request_flops(assembly, config, rows),
    }
    return facts if chosen is None else {**facts, "prior": chosen.facts}


def _request_flops(assembly: Assembly, config: Settings, rows: Interactions) -> float:
    """Model FLOPs of a request whose prompt has the mean length, taken over TOKENISED rows."""
    catalogue, shared = assembly.dataset.catalogue, len(assembly.builder.prefix("next_sid"))
    histories = [[catalogue.sid(item) for item in history] for history in rows.spread(TOKENISED).histories]
    lengths = [len(prompt) for prompt in _prompts(assembly, histories)]
    levels = assembly.trie.arrays.levels
    return search_flops(
        assembly.model.config,
        prompt=round(sum(lengths) / len(lengths)) - shared,
        shared=shared,
        codes=[len(level.token_ids_E) for level in levels],
        widths=[level.width for level in levels],
        beams=config.eval.beams,
        whole_vocabulary=config.objective == "vocabulary",
    )


def _search(
    assembly: Assembly,
    config: Settings,
    model: InferenceModel,
    progress: Callable[[str], None],
    rows: Interactions,
    item_scores: ItemScores | None,
) -> list[RankedSids]:
    """The ranked SIDs of every row; `item_scores` is what the search adds to the model's scores."""
    catalogue = assembly.dataset.catalogue
    histories = [[catalogue.sid(item) for item in history] for history in rows.histories]
    return search_all(
        model,
        assembly.trie,
        catalogue,
        _prompts(assembly, histories),
        beams=config.eval.beams,
        batch_size=config.eval.batch_size,
        prefix=assembly.builder.prefix("next_sid"),
        normaliser=config.objective,
        item_scores=item_scores,
        progress=progress,
        total=len(histories),
    )


def _prompts(assembly: Assembly, histories: Sequence[Sequence[str]]) -> Iterator[list[int]]:
    """The prompts, tokenised a few at a time, so that it goes on while the first ones are searched."""
    for start in range(0, len(histories), TOKENISED):
        chunk = histories[start : start + TOKENISED]
        yield from assembly.builder.prompts_next_sid(chunk, assembly.dataset.catalogue.num_levels)


def write_report(
    config: Settings,
    dataset: Dataset,
    workdir: pathlib.Path,
    evaluations: Mapping[str, tuple[pathlib.Path, Mapping[str, Any]]],
    training: Mapping[str, Any],
    report: Callable[[str], None],
) -> None:
    """Scores predictions and baselines, writes `results.json`, `results.md`, `trec/` and `plots/`, prints the table.

    Args:
      config: the main system's.
      dataset: what was evaluated.
      workdir: where the report goes.
      evaluations: {system: (its folder, the facts that `predict` returned)}, the main system first.
      training: {system: facts of its training}.
      report: receives the lines.
    """
    catalogue = dataset.catalogue
    split, rows = evaluated_rows(config, dataset)
    lists = {name: read_predictions(folder / PREDICTIONS).lists for name, (folder, _) in evaluations.items()}
    train, valid = dataset.splits["train"], dataset.splits["valid"]
    beams, metrics = config.eval.beams, metric_names(config.eval.beams)
    for name in BASELINES:
        lists[name] = run_baseline(name, dataset, train, valid, rows, beams, config.seed, report).lists
    ranks = {name: find_targets(ranked, rows.targets, catalogue) for name, ranked in lists.items()}
    background = Background.of(catalogue, train)
    draws = draw_users(rows.users, config.eval.bootstrap, config.seed)
    ndcg_SN = {name: found.values("sid", "NDCG@10")[None] for name, found in ranks.items()}
    main, *others = ranks
    priors = {f"prior of {name}": facts["prior"] for name, (_, facts) in evaluations.items() if "prior" in facts}
    built = Report(
        dataset=dataset.name,
        split=split,
        rows=len(rows),
        users=len(set(rows.users)),
        beams=beams,
        invalid=sum(facts["invalid"] for _, facts in evaluations.values()),
        systems={name: found.means(metrics) for name, found in ranks.items()},
        intervals={name: intervals(found, metrics, draws) for name, found in ranks.items()},
        beyond={name: background.measure(ranked) for name, ranked in lists.items()},
        comparisons=[
            compare(
                (main, name), (ndcg_SN[main], ndcg_SN[name]), draws, metric="NDCG@10", level="sid", seeds=(config.seed,)
            )
            for name in others
        ],
        upper_bound=sources.upper_bound(config, dataset, rows, metrics) if sources.is_embedded(config) else None,
        training={name: _with_flops(facts, evaluations[name][1]) for name, facts in training.items()},
        facts={**run_facts(workdir), **priors},
    )
    write_trec(workdir / TREC, [catalogue.sid(int(target)) for target in rows.targets], lists)
    write_json(workdir / "results.json", to_json(built))
    write_text(workdir / "results.md", to_markdown(built))
    curves = {name: read_metrics(folder) for name, (folder, _) in evaluations.items()}
    from tsrec_jax.evaluation import plots  # with matplotlib

    plots.plot_training(curves, workdir / "plots" / "training.png")
    plots.plot_metrics(built, workdir / "plots" / "metrics.png")
    report(
        f"\n{dataset.name}, {split}, {len(rows)} rows, {config.eval.beams} beams, SID level:\n{format_table(built)}\n"
    )


def _with_flops(trained: Mapping[str, Any], evaluated: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a training, with its model FLOPs and those of a request (None where earlier code evaluated)."""
    flops = {"flops": trained["step_flops"] * trained["steps"], "request_flops": evaluated.get("request_flops")}
    return {**trained, **flops}


def run_facts(workdir: pathlib.Path) -> dict[str, Any]:
    """Command, config, seed, data hash, commits, machine and versions of the run in a workdir."""
    recorded = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
    return {
        "command": command(),
        "seed": recorded["config"]["seed"],
        "data_hash": recorded["data_hash"],
        "commit": ", after ".join([recorded["commit"], *reversed(recorded["earlier_commits"])]),
        "machine": recorded["machine"],
        "versions": recorded["versions"],
        "config": recorded["config"],
    }


def card_facts(config: Settings, dataset: Dataset, workdir: pathlib.Path) -> dict[str, Any]:
    """What a model card states: data, base model, recipe and, where they were measured, results."""
    centred = ", centred" if config.sid_init.centred else ""
    facts = {
        "data": f"{dataset.name} (SHA-256 {dataset.data_hash})",
        "base model": config.model.path or "pretrained by the run itself on the item texts",
        "layers": config.model.num_layers or "all",
        "SA-Init": f"{config.sid_init.mode}, target norm {config.sid_init.target_norm}{centred}",
        "TS-Align weight": config.tasks.ts_align.weight,
        "seed": config.seed,
        "commit": run_facts(workdir)["commit"],
    }
    results = workdir / "results.json"
    if results.exists():
        measured = json.loads(results.read_text(encoding="utf-8"))
        sid = measured["metrics"]["sid"]
        facts[f"results ({measured['split']}, {measured['rows']} rows, {measured['beams']} beams, SID level)"] = (
            ", ".join(f"{name} {value:.4f}" for name, value in sid.items())
        )
    return facts
