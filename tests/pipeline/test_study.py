"""A study on the embedded shop: cells once, resumed, held or failed, and the report of what is finished."""

import csv
import dataclasses
import io
import itertools
import json
import pathlib
import shutil
import signal

import numpy as np
import pytest

from tests.evaluation.cells import cell_of
from tests.pipeline.small import SMALL
from tsrec_jax.baselines.names import BASELINES
from tsrec_jax.baselines.run import BaselineResult
from tsrec_jax.data.dataset import read_dataset
from tsrec_jax.data.target_ranks import find_targets
from tsrec_jax.data.tasks.task import TaskInputs
from tsrec_jax.errors import UserError
from tsrec_jax.evaluation.predictions import read_predictions
from tsrec_jax.evaluation.study_cells import read_cells, write_cells
from tsrec_jax.fusion.fusion import VERSION, versions
from tsrec_jax.main import main
from tsrec_jax.pipeline import batches as batches_module
from tsrec_jax.pipeline import study as study_module
from tsrec_jax.pipeline import study_cell, study_measure
from tsrec_jax.pipeline import train as train_module
from tsrec_jax.pipeline.lock import alone_in
from tsrec_jax.settings import default_config, flat, settings_of
from tsrec_jax.training import loop as loop_module

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = f"--config={ROOT / 'configs' / 'studies' / 'smoke.py'}"
COMMAND = [CONFIG, *SMALL]
CELLS = ["popularity/seed-1", "repeat_last/seed-1", *(f"{arm}/seed-{s}" for arm in ("plain", "tsrec") for s in (1, 2))]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A finished study; tests that change it copy it first."""
    path = tmp_path_factory.mktemp("runs") / "study"
    assert main(["study", *COMMAND, f"--workdir={path}"]) == 0
    return path


def only_cell(path):
    (cell,) = read_cells(path)
    return cell


@pytest.fixture
def published(workdir, tmp_path):
    """A new workdir that holds nothing but the cells."""
    for cell in CELLS:
        (tmp_path / "study" / "cells" / cell).mkdir(parents=True)
        shutil.copy(workdir / "cells" / cell / "cell.npz", tmp_path / "study" / "cells" / cell / "cell.npz")
    return tmp_path / "study"


@pytest.fixture
def no_training(monkeypatch):
    """Names of the arms for which a training is asked; none begins, and nothing is made for it."""
    asked = []

    def train(wanted, _settings):
        asked.append(wanted.label)
        raise UserError("no training here")

    monkeypatch.setattr(study_module, "run_arm", train)
    monkeypatch.setattr(study_module, "with_inputs", lambda wanted, *_: wanted.settings)
    return asked


def test_a_study_leaves_its_cells_and_its_report(workdir):
    assert (
        sorted(str(p.parent.relative_to(workdir / "cells")) for p in workdir.glob("cells/*/*/cell.npz")) == CELLS_SORTED
    )
    for name in (
        "cells.npz",
        "study.md",
        "study.csv",
        "study.tex",
        "study.json",
        "plots/metrics.png",
        "plots/curves.png",
    ):
        assert (workdir / name).stat().st_size > 0, name
    for name in (
        "tsrec/seed-1/results.json",
        "tsrec/seed-1/trec/TS-Rec.trec",
        "popularity/seed-1/trec/popularity.trec",
    ):
        assert (workdir / "cells" / name).stat().st_size > 0, name
    assert "## Beyond accuracy" in (workdir / "study.md").read_text()
    for left in ("checkpoints", "records", "begun.json", "run.lock", "pretrained", "index"):
        assert not list(workdir.glob(f"cells/*/*/{left}")), left
    assert len(list(workdir.glob("upstream/*"))) == 1, "SIDs, words and the base model were made once for all cells"
    assert not list(workdir.rglob("*.tmp"))


CELLS_SORTED = sorted(CELLS)


def test_the_report_is_what_the_scorer_says_of_the_predictions(workdir):
    folder = json.loads(next(workdir.glob("upstream/*/made.json")).read_text())["made"]["dataset"]
    dataset = read_dataset(next(workdir.glob("upstream/*")) / folder)
    targets = dataset.splits["test"].spread(16).targets
    of_seed = []
    for seed in (1, 2):
        lists = read_predictions(workdir / f"cells/tsrec/seed-{seed}/predictions.json").lists
        of_seed.append(find_targets(lists, targets, dataset.catalogue))
    rows = {row["system"]: row for row in csv.DictReader(io.StringIO((workdir / "study.csv").read_text()))}
    for metric in ("HR@10", "NDCG@20"):
        assert float(rows["tsrec"][f"sid {metric}"]) == pytest.approx(
            np.mean([m.mean("sid", metric) for m in of_seed]), abs=1e-5
        )
        assert float(rows["tsrec"][f"item {metric}"]) == pytest.approx(
            np.mean([m.mean("item", metric) for m in of_seed]), abs=1e-5
        )
    assert list(rows) == ["plain", "tsrec", "popularity", "repeat last"]


def test_a_cell_knows_its_cost_its_curve_and_how_it_was_made(workdir):
    cell = only_cell(workdir / "cells/tsrec/seed-2/cell.npz")
    assert (cell.name, cell.seed, cell.split, len(cell.lost), len(cell.rank)) == ("tsrec", 2, "test", 4, 16)
    assert [point[0] for point in cell.curve] == [2, 4]
    assert all(loss > 0 and 0 <= rate <= 1 for _, loss, rate in cell.curve)
    assert cell.cost["steps"] == 4
    assert cell.cost["flops"] > 0
    assert 4 * 2048 * 0.5 < cell.cost["tokens"] <= 4 * 2048
    assert cell.cost["parameters"] > 1000
    assert set(cell.facts) == {"command", "data_hash", "commit", "machine", "versions", "start"}
    assert 0 < cell.facts["start"]["constrained"] < cell.facts["start"]["vocabulary"]
    assert sum(rows for rows, _, _ in cell.calibration) == sum(cell.lost) == 16
    other = only_cell(workdir / "cells/tsrec/seed-1/cell.npz")
    assert cell.rows.digest == other.rows.digest == only_cell(workdir / "cells/popularity/seed-1/cell.npz").rows.digest
    assert cell.curve != other.curve, "the seed reaches the training"


def test_the_file_of_all_cells_is_enough_to_go_on(tmp_path, no_training, workdir, capsys):
    published = tmp_path / "new"
    published.mkdir()
    shutil.copy(workdir / "cells.npz", published)
    assert main(["study", *COMMAND, f"--workdir={published}"]) == 0
    assert not no_training
    printed = capsys.readouterr().out
    assert printed.count("finished before, skipped") == len(CELLS)
    assert "6 of 6 cells are finished" in printed
    assert not (published / "upstream").exists(), "nothing had to be made"
    assert (published / "study.csv").read_bytes() == (workdir / "study.csv").read_bytes()
    assert [cell.name for cell in read_cells(published / "cells.npz")].count("tsrec") == 2


def test_cells_of_other_settings_stay_in_the_file_of_all_cells(tmp_path, no_training, workdir):
    published = tmp_path / "new"
    published.mkdir()
    shutil.copy(workdir / "cells.npz", published)
    command = [*COMMAND, "--config.train.learning_rate=0.001", "--arms=popularity", f"--workdir={published}"]
    assert main(["study", *command]) == 0
    assert not no_training
    assert len(read_cells(published / "cells.npz")) == len(CELLS)
    others = "of other arms or settings than this study's: plain, seeds 1, 2; tsrec, seeds 1, 2."
    assert others in (published / "study.md").read_text()


def test_a_workdir_of_the_old_layout_is_refused_in_one_line(tmp_path, no_training, capsys):
    old = tmp_path / "cells" / "plain" / "seed-1" / "cell.json"
    old.parent.mkdir(parents=True)
    old.write_text("{}")
    assert main(["study", *COMMAND, f"--workdir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert "cells/plain/seed-1/cell.json, have a layout that is no longer read; give another --workdir" in error
    assert error.count("\n") == 1
    assert not no_training


def test_settings_that_shape_nothing_leave_cells_finished(published, no_training):
    logistics = [
        "--config.train.log_every=2",
        "--config.eval.batch_size=8",
        "--config.prepare.k_core=3",  # nothing is prepared
        "--config.dense.temperature=0.3",  # there is no dense head
        "--config.study.comparisons=('plain > tsrec',)",
    ]
    assert main(["study", *COMMAND, *logistics, f"--workdir={published}"]) == 0
    assert not no_training
    assert "plain > tsrec" in (published / "study.md").read_text()


@pytest.mark.parametrize(("weight", "shared"), [(0.0, True), (0.5, False)])
def test_arms_share_a_training_where_what_they_differ_in_takes_no_part_in_it(tmp_path, weight, shared):
    arms = {"plain": {"dense": {"weight": weight}}, "fused": {"dense": {"weight": weight, "temperature": 0.3},
            "fusion": {"parts": ("popularity",)}}}  # fmt: skip
    settings = settings_of(default_config()).changed(
        {"study": {"arms": arms, "seeds": (1,), "baselines": (), "comparisons": ()}}
    )
    fused, plain = study_cell.wanted_cells(settings, tmp_path)
    assert study_cell._twins(plain, [fused, plain]) == [fused] * shared


def test_an_arm_without_a_model_is_begun_anew_for_what_shapes_its_tables_alone(tmp_path):
    tables = {"fusion": {"model": False, "parts": ("popularity", "transitions")}}

    def begun_again(**changes):
        arms = {"tables": tables | changes}
        settings = settings_of(default_config()).changed(
            {"study": {"arms": arms, "seeds": (1,), "baselines": (), "comparisons": ()}}
        )
        (wanted,) = study_cell.wanted_cells(settings, tmp_path)
        study_cell.begin(wanted)
        return len(list(tmp_path.glob("cells/tables/*.old-*")))

    assert begun_again() == 0
    assert begun_again(train={"learning_rate": 0.1}, sid_init={"mode": "mean"}, dense={"weight": 0.5}) == 0
    assert begun_again(shop={"num_items": 80}) == 1
    assert begun_again(shop={"num_items": 80}, fusion=tables["fusion"] | {"l2": 3.0}) == 2
    assert begun_again(shop={"num_items": 80}, fusion={"parts": ("popularity", "transitions")}) == 3
    assert begun_again(shop={"num_items": 80}) == 4


def test_a_finished_fusion_is_measured_again_for_another_version_of_it_or_of_a_part(tmp_path, monkeypatch):
    parts = ("popularity", "transitions")
    arms = {"parts": {"fusion": {"model": False, "parts": parts}}, "beside": {"fusion": {"parts": parts}}, "plain": {}}
    study = {"arms": arms, "seeds": (1,), "baselines": ("transitions",), "comparisons": ()}
    wanted = study_cell.wanted_cells(settings_of(default_config()).changed({"study": study}), tmp_path)

    def changed(facts):
        found = []
        for each in wanted:
            known = {"config": each.settings.resolved(), "data": each.data, "facts": facts}
            each.folder.mkdir(parents=True, exist_ok=True)
            write_cells(each.file, [cell_of([0], name=each.name, kind=each.kind, **known)])
            found.append(study_cell.finished_cell(each)[1])
        return found

    old = BASELINES["transitions"].version
    facts = {"fusion": {"versions": versions(parts)}, "baseline": {"version": old}}
    assert changed(facts) == [""] * 4
    unknown = f"version of the fusion was 'not recorded' and is now {VERSION}"
    assert unknown in changed({"fusion": {"version": VERSION}, "baseline": {"version": old}})[1]
    newer = dataclasses.replace(BASELINES["transitions"], version=old + 1)
    monkeypatch.setitem(BASELINES, "transitions", newer)
    said = f"version of transitions was {old} and is now {old + 1}"
    assert changed(facts) == [said, said, said, ""]
    weights = wanted[2].folder / "checkpoints"
    weights.mkdir()
    for again, begun in enumerate((wanted[2], dataclasses.replace(wanted[2], data="other"))):
        assert changed(facts)[2]
        study_cell.begin(begun)
        assert not begun.file.exists() and (begun.folder.with_name(f"seed-1.old-{again + 1}") / "cell.npz").exists()
        assert weights.exists() == (begun.data == wanted[2].data), "no training reads the parts"


def test_cells_hold_what_the_objective_decided_and_are_finished_where_the_same_is_said_by_hand(published, no_training):
    assert None not in flat(only_cell(published / "cells/plain/seed-1/cell.npz").config).values()
    by_hand = ["--config.tasks.next_sid.user_sequences=False", "--config.tasks.distilled_sid.soft_labels=False"]
    assert main(["study", *COMMAND, *by_hand, f"--workdir={published}"]) == 0
    assert not no_training


def test_a_changed_setting_runs_the_cells_again_and_loses_nothing(published, no_training, capsys):
    changed = [*COMMAND, "--config.train.learning_rate=0.001", "--arms=plain", "--seeds=2"]
    assert main(["study", *changed, f"--workdir={published}"]) == 1
    assert no_training == ["plain, seed 2"]
    printed = capsys.readouterr()
    assert "train.learning_rate was 0.002 and is now 0.001" in printed.out
    assert (published / "cells/plain/seed-2.old-1/cell.npz").exists()
    assert not (published / "cells/plain/seed-2/cell.npz").exists()
    assert "no training here" in printed.err
    text = (published / "study.md").read_text()
    assert "Not finished: plain, seeds 1, 2; tsrec, seeds 1, 2." in text
    assert (published / "cells/popularity/seed-1/cell.npz").exists(), "no baseline depends on the learning rate"


def test_a_cell_that_fails_does_not_stop_the_others(published, monkeypatch, capsys):
    shutil.rmtree(published / "cells")
    made = []

    def train(wanted, _settings):
        made.append(wanted.label)
        raise UserError("bad data") if wanted.name == "plain" else RuntimeError("a bug")

    monkeypatch.setattr(study_module, "run_arm", train)
    monkeypatch.setattr(study_module, "with_inputs", lambda wanted, *_: wanted.settings)
    monkeypatch.setattr(study_module, "run_one_baseline", train)
    assert main(["study", *COMMAND, f"--workdir={published}"]) == 1
    assert len(made) == 6
    printed = capsys.readouterr()
    assert "plain, seed 1: bad data" in printed.err
    assert "RuntimeError: a bug" in printed.err
    assert "failed: popularity, seed 1; repeat last, seed 1; plain, seeds 1, 2; tsrec, seeds 1, 2" in printed.out


def test_a_cell_that_another_process_holds_is_skipped(published, no_training, capsys):
    for cell in ("plain/seed-1", "tsrec/seed-2"):
        (published / "cells" / cell / "cell.npz").unlink()
    with alone_in(published / "cells/plain/seed-1", "study"):
        assert main(["study", *COMMAND, f"--workdir={published}"]) == 1
    assert no_training == ["tsrec, seed 2"]
    printed = capsys.readouterr().out
    assert "held by another process: plain, seed 1" in printed
    assert "4 of 6 cells are finished" in printed


def test_a_study_told_to_stop_goes_on_from_its_checkpoint(workdir, tmp_path, monkeypatch, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    shutil.rmtree(copy / "cells/tsrec/seed-2")
    put_batch, calls = loop_module.put_batch, itertools.count(1)

    def told(*arguments):
        if next(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return put_batch(*arguments)

    monkeypatch.setattr(loop_module, "put_batch", told)
    assert main(["study", *COMMAND, f"--workdir={copy}"]) == 0
    assert "stopped by SIGTERM after step 2 of 4" in capsys.readouterr().err
    assert not (copy / "cells/tsrec/seed-2/cell.npz").exists()
    assert main(["study", *COMMAND, f"--workdir={copy}"]) == 0
    printed = capsys.readouterr().out
    assert "resuming after step 2 of 4" in printed
    assert "index:" not in printed, "what comes before training was made again"
    resumed, whole = (only_cell(each / "cells/tsrec/seed-2/cell.npz") for each in (copy, workdir))
    np.testing.assert_array_equal(resumed.rank, whole.rank)
    assert resumed.curve == whole.curve


def test_baselines_choose_on_the_users_that_are_held_out(workdir, tmp_path, monkeypatch):
    """Where valid is evaluated, nothing may be chosen by it."""
    given = {}

    def stub(name, dataset, train, select, rows, length, seed, report, vectors):
        given[name, seed] = train, select, rows
        sids = list(dataset.catalogue.items_of_sid)[:length]
        return BaselineResult([sids] * len(rows), {"fit_seconds": 1.5, "flops": 2e9, "chosen": "x"})

    monkeypatch.setattr(study_measure, "run_baseline", stub)
    made = tmp_path / "made"
    shutil.copytree(next(workdir.glob("upstream/*")), made)
    splits = [{"name": "valid", "tied": 0.25}]
    (made / "dataset" / "prepare.json").write_text(json.dumps({"ties": {"order": "file"}, "splits": splits}))
    settings = ["--config.study.baselines=('sasrec','hybrid')", "--config.study.comparisons=('sasrec > hybrid',)"]
    settings += [
        "--config.eval.split=valid",
        "--config.train.held_out=0.3",
        f"--config.model.path={made / 'pretrained'}",
    ]
    settings += [f"--config.dataset.path={made / 'dataset'}", "--config.index.sids=given", "--arms=sasrec,hybrid"]
    tmp_path = tmp_path / "study"
    assert main(["study", *COMMAND, *settings, f"--workdir={tmp_path}"]) == 0
    assert "25.0 % of the valid rows have a target that shares its second" in (tmp_path / "study.md").read_text()
    assert set(given) == {("sasrec", 1), ("sasrec", 2), ("hybrid", 1)}, "one seed where no seed changes anything"
    train, select, rows = given["hybrid", 1]
    dataset = read_dataset(made / "dataset")
    assert not set(train.users) & set(select.users)
    assert set(train.users) | set(select.users) == set(dataset.splits["train"].users)
    np.testing.assert_array_equal(rows.targets, dataset.splits["valid"].spread(16).targets)
    cell = only_cell(tmp_path / "cells/sasrec/seed-2/cell.npz")
    assert (cell.kind, cell.seeded, cell.split) == ("baseline", True, "valid")
    assert (cell.cost["seconds"], cell.cost["flops"], cell.facts["baseline"]["chosen"]) == (1.5, 2e9, "x")
    assert not (tmp_path / "upstream").exists(), "all of it was given"


def test_a_cell_that_records_no_value_of_a_setting_is_run_again(published, no_training):
    for path in published.glob("cells/plain/*/cell.npz"):
        cell = only_cell(path)
        del cell.config["train"]["held_out"]
        write_cells(path, [cell])
    assert main(["study", *COMMAND, f"--workdir={published}"]) == 1
    assert set(no_training) == {"plain, seed 1", "plain, seed 2"}


def test_training_selects_on_the_users_that_are_held_out(workdir, tmp_path, monkeypatch):
    asked = []

    def inputs(dataset, split, *arguments):
        asked.append((split, set(dataset.splits[split].users)))
        return TaskInputs(dataset, split, *arguments)

    def no_training(*_, **__):
        raise UserError("enough")

    monkeypatch.setattr(batches_module, "TaskInputs", inputs)
    monkeypatch.setattr(train_module, "train", no_training)
    made = next(workdir.glob("upstream/*"))
    settings = [f"--config.dataset.path={made / 'dataset'}", f"--config.model.path={made / 'pretrained'}"]
    settings += ["--config.index.sids=given", "--config.train.held_out=0.3", "--config.study.baselines=()"]
    settings += ["--config.study.comparisons=()", "--arms=plain", "--seeds=1"]
    assert main(["study", *COMMAND, *settings, f"--workdir={tmp_path}"]) == 1
    (train, trained_on), *selected = asked  # the loss before the first step, and the validations
    assert train == "train" and {split for split, _ in selected} == {"select"}
    selected_on = set().union(*(users for _, users in selected))
    assert not trained_on & selected_on
    assert trained_on | selected_on == set(read_dataset(made / "dataset").splits["train"].users)


def test_tokens_and_examples_are_counted_by_the_means_that_the_log_holds():
    rows = [
        {"step": 10, "step_seconds": 0.5, "tokens_per_second": 200.0, "examples_per_second": 4.0},
        {"step": 10, "valid/loss": 1.0},
        {"step": 20, "step_seconds": 0.25, "tokens_per_second": 800.0, "examples_per_second": 8.0},
    ]
    # 10 steps of 100 tokens, and 12 of 200: the last two were not logged.
    assert study_measure.trained_amounts(rows, 22) == {"tokens": 3400, "examples": 44}
    assert study_measure.trained_amounts([], 5) == {"tokens": None, "examples": None}
