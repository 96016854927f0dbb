"""Fusions in runs and studies: one training for the arms with and without, and none where no model takes part."""

import json
import math

import numpy as np
import pytest

from tests.pipeline.small import SMALL
from tsrec_jax.baselines.run import fit_baseline, run_baseline
from tsrec_jax.data.dataset import read_dataset
from tsrec_jax.evaluation.predictions import read_predictions
from tsrec_jax.evaluation.study_cells import read_cells
from tsrec_jax.fusion.fusion import Fusion
from tsrec_jax.main import main
from tsrec_jax.serving.recommender import Recommender

CONFIG = """
import pathlib, runpy
from ml_collections import ConfigDict

def get_config():
    config = runpy.run_path(str(pathlib.Path({root!r}) / "configs/studies/smoke.py"))["get_config"]()
    config.study.seeds = (1,)
    config.study.baselines = ()
    config.study.comparisons = ("fused > tsrec", "fused > parts")
    config.study.arms = ConfigDict({{
        "tsrec": {{}},
        "fused": {{"fusion": {{"parts": ("transitions", "seen"), "rows": 20}}}},
        "parts": {{"fusion": {{"parts": ("transitions", "seen"), "model": False}}}},
    }})
    return config
"""


@pytest.fixture(scope="module")
def workdir(request, tmp_path_factory):
    """A study of one training by itself and in a fusion, and of the fusion without it."""
    folder = tmp_path_factory.mktemp("fusion")
    (folder / "config.py").write_text(CONFIG.format(root=str(request.config.rootpath)))
    assert main(["study", f"--config={folder / 'config.py'}", *SMALL, f"--workdir={folder / 'study'}"]) == 0
    return folder / "study"


def cell(workdir, name):
    return read_cells(workdir / f"cells/{name}/seed-1/cell.npz")[0]


def test_an_arm_with_a_fusion_has_the_training_of_the_arm_without(workdir):
    tsrec, fused = cell(workdir, "tsrec"), cell(workdir, "fused")
    assert fused.curve == tsrec.curve
    assert {**fused.cost, "memory": None} == {**tsrec.cost, "memory": None}
    assert not np.array_equal(fused.rank, tsrec.rank)
    for left in ("checkpoints", "records", "begun.json"):
        assert not list(workdir.glob(f"cells/*/*/{left}")), "weights are kept only until the last arm has them"


def test_what_was_fitted_is_in_the_cell_and_in_the_results(workdir):
    facts = cell(workdir, "fused").facts["fusion"]
    assert (facts["parts"], facts["rows"]) == (["transitions", "seen"], 20)
    assert facts["weight of the model"] > 0 and facts["listed"] > 0
    for figures in ("cross-fitted", "model alone"):
        assert 0 <= facts[figures]["NDCG@10"] <= facts[figures]["HR@10"] <= 1
    assert not cell(workdir, "fused").calibration, "scores of a fusion are no probabilities"
    assert "fusion of TS-Rec" in (workdir / "cells/fused/seed-1/results.md").read_text()


def test_the_reports_show_the_figures_of_the_fit(workdir):
    facts = cell(workdir, "fused").facts["fusion"]
    figures = [facts[kind][metric] for kind in ("model alone", "cross-fitted") for metric in ("HR@10", "NDCG@10")]
    row = [f"{value:.4f}" for value in (facts["listed"], *figures, facts["weight of the model"])]
    for file, name in (("cells/fused/seed-1/results.md", "TS-Rec"), ("study.md", "fused, seed 1")):
        cells = [
            [part.strip() for part in line.strip("|").split("|")] for line in (workdir / file).read_text().splitlines()
        ]
        assert [name, "20", *row] in cells


def test_scores_of_the_fused_arm_are_the_models_and_the_fusions(workdir):
    """Two SIDs that both arms list differ by the model's log-probabilities and the fusion's scores."""
    made = next(workdir.glob("upstream/*"))
    dataset = read_dataset(made / "dataset")
    folders = [workdir / f"cells/{name}/seed-1" for name in ("tsrec", "fused")]
    fusion = Fusion.load(folders[1] / "fusion.npz", dataset.catalogue.num_items)
    lists = [read_predictions(folder / "predictions.json").lists for folder in folders]
    scores = [json.loads((folder / "scores.json").read_text()) for folder in folders]
    compared = 0
    for row, history in enumerate(dataset.splits["test"].spread(16).histories):
        own_I = fusion.scores([history])[0]
        model, both = (dict(zip(sids[row], found[row], strict=True)) for sids, found in zip(lists, scores, strict=True))
        for sid in model.keys() & both.keys():
            wanted = model[sid] + max(own_I[item] for item in dataset.catalogue.items_of_sid[sid])
            assert math.isclose(both[sid], wanted, abs_tol=2e-3)
            compared += 1
    assert compared > 16


def test_without_the_model_nothing_is_trained(workdir):
    parts = cell(workdir, "parts")
    assert parts.cost["steps"] is None and not len(parts.curve)
    assert "weight of the model" not in parts.facts["fusion"]
    assert not (workdir / "cells/parts/seed-1/checkpoints").exists()
    assert not (workdir / "cells/parts/seed-1/metrics.jsonl").exists()


def test_a_baseline_alone_runs_exports_and_recommends_as_itself(workdir, request, tmp_path, capsys):
    made = next(workdir.glob("upstream/*"))
    settings = [f"--config.dataset.path={made / 'dataset'}", *SMALL, "--config.fusion.parts=('hybrid',)"]
    settings += ["--config.index.sids=given", "--config.fusion.model=False", f"--workdir={tmp_path}"]
    assert main(["run", f"--config={request.config.rootpath / 'configs/quickstart.py'}", *settings]) == 0
    assert not (tmp_path / "pretrained").exists() and not (tmp_path / "checkpoints").exists()
    dataset = read_dataset(made / "dataset")
    train, valid, test = (dataset.splits[split] for split in ("train", "valid", "test"))
    rows = test.spread(16)
    wanted = run_baseline("hybrid", dataset, train, valid, rows, 20, 0, print).lists
    assert read_predictions(tmp_path / "predictions.json").lists == wanted
    assert "| hybrid" in (tmp_path / "results.md").read_text()

    fitted = fit_baseline("hybrid", dataset, train, valid, 0, print)
    recommender, items = Recommender.load(tmp_path / "export"), dataset.catalogue.items
    for history in rows.histories[:3]:
        ids = [items[item].id for item in history]
        (found,) = recommender.recommend([ids], k=5)
        scores_I = fitted.scores([history])[0]
        for entry in found:
            sharing = dataset.catalogue.items_of_sid[entry.sid]
            assert math.isclose(entry.score, max(scores_I[item] for item in sharing), rel_tol=1e-6)
        assert [entry.sid for entry in found] == list(dict.fromkeys(wanted[rows.histories.index(history)]))[:5]
    capsys.readouterr()
    assert main(["recommend", f"--workdir={tmp_path}", f"--item={ids[0]}", "--k=3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.fusion.parts=('dense',)", "--config.fusion.model=False"], "the dense head is the model's"),
        (["--config.fusion.model=False"], "needs config.fusion.parts of baselines alone"),
        (["--config.fusion.parts=('hybird',)"], "did you mean 'hybrid'?"),
        (["--config.fusion.parts=('seen', 'sasrec')"], "config.fusion.parts[1]='sasrec' is not one of popularity, "),
        (["--config.fusion.parts=('tfidf', 'tfidf')"], "a part stands twice"),
        (["--config.eval.prior=hybrid"], "config.eval.prior is no longer a key: config.fusion.parts took its place"),
    ],
)
def test_fusions_that_cannot_be_are_refused(flags, message, tmp_path, capsys):
    assert main(["train", "--config=quickstart", *flags, f"--workdir={tmp_path}"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.fusion.parts=('popularity',)", "--config.eval.split=valid"], "valid is what training selects by"),
    ],
)
def test_what_the_data_or_a_part_forbids_is_said_before_training(flags, message, workdir, request, tmp_path, capsys):
    made = next(workdir.glob("upstream/*"))
    settings = [f"--config.dataset.path={made / 'dataset'}", f"--config.model.path={made / 'pretrained'}"]
    settings += [*SMALL, "--config.index.sids=given", *flags]
    quickstart = request.config.rootpath / "configs/quickstart.py"
    assert main(["run", f"--config={quickstart}", *settings, f"--workdir={tmp_path / 'run'}"]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert "train: step" not in printed.out
