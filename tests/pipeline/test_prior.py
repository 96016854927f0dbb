"""A baseline beside the model in the search: fitted on train, weighed on selection, one training for both arms."""

import dataclasses

import numpy as np
import pytest

from tests.baselines.catalogues import catalogue_of, dataset_of, rows_of
from tests.pipeline.small import SMALL
from tsrec_jax.baselines.run import fit_baseline
from tsrec_jax.data.dataset import read_dataset
from tsrec_jax.evaluation.predictions import read_predictions
from tsrec_jax.evaluation.study_cells import read_cells
from tsrec_jax.main import main
from tsrec_jax.pipeline.prior import choose_prior
from tsrec_jax.settings import default_config, settings_of

CONFIG = """
import pathlib, runpy
from ml_collections import ConfigDict

def get_config():
    config = runpy.run_path(str(pathlib.Path({root!r}) / "configs/studies/smoke.py"))["get_config"]()
    config.study.seeds = (1,)
    config.study.baselines = ()
    config.study.comparisons = ("tsrec-prior > tsrec",)
    config.study.arms = ConfigDict({{
        "tsrec": {{}},
        "tsrec-prior": {{"eval": {{"prior": "transitions", "prior_rows": 12, "prior_weights": (1e8,)}}}},
    }})
    return config
"""


@pytest.fixture(scope="module")
def workdir(request, tmp_path_factory):
    """A study of one training with and without a prior that outweighs the model."""
    folder = tmp_path_factory.mktemp("prior")
    (folder / "config.py").write_text(CONFIG.format(root=str(request.config.rootpath)))
    assert main(["study", f"--config={folder / 'config.py'}", *SMALL, f"--workdir={folder / 'study'}"]) == 0
    return folder / "study"


def test_an_arm_with_a_prior_has_the_training_of_the_arm_without(workdir):
    alone, beside = (read_cells(workdir / f"cells/{name}/seed-1/cell.npz")[0] for name in ("tsrec", "tsrec-prior"))
    assert beside.curve == alone.curve
    assert beside.cost == {**alone.cost, "memory": None}
    assert not np.array_equal(beside.rank, alone.rank)
    for left in ("checkpoints", "records", "begun.json"):
        assert not list(workdir.glob(f"cells/*/*/{left}")), "weights are kept only until the last arm has them"


def test_what_was_chosen_is_in_the_cell_and_in_the_results(workdir):
    (cell,) = read_cells(workdir / "cells/tsrec-prior/seed-1/cell.npz")
    prior = cell.facts["prior"]
    assert (prior["baseline"], prior["weight"], prior["rows"], set(prior["tried"])) == (
        "transitions", 1e8, 12, {"0", "1e+08"}
    )  # fmt: skip
    assert not cell.calibration, "scores with a prior are no probabilities"
    assert "prior of TS-Rec: " in (workdir / "cells/tsrec-prior/seed-1/results.md").read_text()


def test_a_prior_that_outweighs_the_model_ranks_as_the_baseline_does(workdir):
    made = next(workdir.glob("upstream/*"))
    dataset = read_dataset(made / "dataset")
    train, valid, test = (dataset.splits[split] for split in ("train", "valid", "test"))
    fitted = fit_baseline("transitions", dataset, train, valid, 0, print)
    lists = read_predictions(workdir / "cells/tsrec-prior/seed-1/predictions.json").lists
    best = {}
    for row, scores_I in enumerate(fitted.scores(test.spread(16).histories)):
        for item, score in enumerate(scores_I):
            sid = dataset.catalogue.sid(item)
            best[row, sid] = max(score, best.get((row, sid), -np.inf))
    for row, listed in enumerate(lists):
        wanted = sorted((score for (number, _), score in best.items() if number == row), reverse=True)
        np.testing.assert_allclose([best[row, sid] for sid in listed], wanted[: len(listed)], rtol=1e-5, atol=1e-6)


TRAIN = rows_of(*[((0,), 1)] * 4, ((2,), 3))
SELECT = rows_of(((0,), 1), ((0,), 2), ((2,), 3))


def prior_config(**settings):
    config = default_config()
    config.eval.prior = "transitions"
    for name, value in settings.items():
        config.eval[name] = value
    return settings_of(config)


@pytest.fixture
def dataset(tmp_path):
    splits = {"train": TRAIN, "valid": SELECT, "test": SELECT}
    return dataclasses.replace(dataset_of(catalogue_of("abcdef"), tmp_path), splits=splits)


def test_the_weight_is_the_best_on_selection(dataset):
    """With weight 2 the search is right on one row more than with 1, with 4 again on fewer."""
    asked = []

    def search(rows, item_scores):
        scores = None if item_scores is None else item_scores(range(len(rows)))
        asked.append((rows, scores))
        right = {0: 0, 1: 1, 2: 3, 3: 2}[len(asked) - 1]
        sids = list(dataset.catalogue.items_of_sid)
        return [
            [(sids[target if row < right else (target + 1) % len(sids)], 0.0)]
            for row, target in enumerate(rows.targets)
        ]

    config = prior_config(prior_weights=(1.0, 2.0, 4.0))
    chosen = choose_prior(config, dataset, search)
    assert chosen.weight == 2.0
    assert chosen.facts["tried"] == {"0": 0.0, "1": pytest.approx(1 / 3, abs=1e-5), "2": 1.0,
                                     "4": pytest.approx(2 / 3, abs=1e-5)}  # fmt: skip
    assert all(rows == dataset.splits["valid"] for rows, _ in asked)
    assert asked[0][1] is None, "weight 0 is the model alone"
    np.testing.assert_allclose(asked[3][1], 4 * asked[1][1])
    np.testing.assert_allclose(asked[1][1], chosen.fitted.scores(SELECT.histories))
    np.testing.assert_allclose(chosen.scores_of(SELECT)([2, 0]), asked[2][1][[2, 0]])


def test_rows_of_the_selection_are_spread_over_it(dataset):
    def search(rows, _scores):
        assert rows == SELECT.take([0, 2])
        return [[] for _ in rows.users]

    choose_prior(prior_config(prior_rows=2), dataset, search)


def test_the_rows_that_are_evaluated_choose_no_weight_and_that_is_said_before_training(
    workdir, request, tmp_path, capsys
):
    made = next(workdir.glob("upstream/*"))
    settings = [f"--config.dataset.path={made / 'dataset'}", f"--config.model.path={made / 'pretrained'}"]
    settings += [*SMALL, "--config.index.sids=given", "--config.eval.prior=popularity", "--config.eval.split=valid"]
    quickstart = request.config.rootpath / "configs/quickstart.py"
    assert main(["run", f"--config={quickstart}", *settings, f"--workdir={tmp_path / 'run'}"]) == 2
    printed = capsys.readouterr()
    assert "valid is what training selects by; set config.train.held_out" in printed.err
    assert "train: " not in printed.out
