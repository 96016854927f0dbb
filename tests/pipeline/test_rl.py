"""The second stage in a study of two tiny arms: from the training that both have, and it leaves what a run leaves."""

import json
import shutil
import types

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.pipeline.small import SMALL
from tests.pipeline.test_sid_tokens import extended
from tests.rl.toy import CODES_IC, make_trie
from tests.said import said
from tests.serving.test_peft_folder import assert_the_adapter_is_the_export
from tsrec_jax.data.dataset import read_dataset
from tsrec_jax.data.target_ranks import find_targets
from tsrec_jax.evaluation.predictions import read_predictions
from tsrec_jax.evaluation.study_cells import read_cells
from tsrec_jax.main import main
from tsrec_jax.pipeline import rl
from tsrec_jax.serving.recommender import Recommender
from tsrec_jax.settings import default_config, settings_of
from tsrec_jax.training.metrics_log import read_metrics

CONFIG = """
import pathlib, runpy
from ml_collections import ConfigDict

def get_config():
    config = runpy.run_path(str(pathlib.Path({root!r}) / "configs/quickstart.py"))["get_config"]()
    config.objective = "constrained"
    second = {{"steps": 4, "prompts": 16, "group": 8, "teacher": "fusion", "teacher_parts": ("transitions", "seen"),
              "learning_rate": 3e-3, "validate_every": 2}}
    config.study.arms = ConfigDict({{"plain": {{}}, "second": {{"rl": second}}}})
    config.study.seeds = (1,)
    config.study.baselines = ()
    config.study.comparisons = ("second > plain",)
    config.study.keep_weights = True
    return config
"""
# What a cell was made with, for a flag to change.
SAVED = """
import json, pathlib
from tsrec_jax.settings import default_config, update

def get_config():
    config = default_config()
    update(config, json.loads(pathlib.Path({path!r}).read_text())["config"])
    return config
"""


def with_hit_rates(*values):
    """`find_targets` with these values of HR@10 in turn: so few steps make nothing better, and the start would stay.

    Where one is None, the program fails.
    """
    left = iter(values)

    def found(*given):
        value = next(left)
        if value is None:
            raise RuntimeError
        ranks = find_targets(*given)
        return types.SimpleNamespace(mean=lambda kind, metric: value if metric == "HR@10" else ranks.mean(kind, metric))

    return found


@pytest.fixture(scope="module")
def study(request, tmp_path_factory):
    """A finished study of a training with a second stage and without, and what was said."""
    folder = tmp_path_factory.mktemp("rl")
    (folder / "config.py").write_text(CONFIG.format(root=str(request.config.rootpath)))
    with said() as lines, pytest.MonkeyPatch.context() as patch:
        patch.setattr(rl, "find_targets", with_hit_rates(0.1, 0.2, 0.3))
        assert main(["study", f"--config={folder / 'config.py'}", *SMALL, f"--workdir={folder / 'study'}"]) == 0
    return folder / "study", lines


@pytest.fixture(scope="module")
def finished(study):
    """The workdir of the arm that has one."""
    folder = study[0] / "cells/second/seed-1"
    (folder / "saved.py").write_text(SAVED.format(path=str(folder / "config.json")))
    return folder


def test_both_arms_have_one_training_and_the_second_stage_comes_on_top_of_its_cost(study):
    folder, lines = study
    plain, second = (read_cells(folder / f"cells/{name}/seed-1/cell.npz")[0] for name in ("plain", "second"))
    assert "study: second, seed 1: has the training of plain, seed 1" in lines
    assert second.curve == plain.curve and second.cost["parameters"] == plain.cost["parameters"]
    assert not np.array_equal(second.rank, plain.rank)
    facts = second.facts["second stage"]
    assert (second.cost["memory"] is None) == (plain.cost["memory"] is None), "the second stage ran in either case"
    assert facts["steps"] == 4 and second.cost["steps"] == plain.cost["steps"] + 4
    assert second.cost["examples"] == pytest.approx(plain.cost["examples"] + 4 * 16, rel=0.01)
    assert second.cost["flops"] == plain.cost["flops"] + 4 * facts["step_flops"] > plain.cost["flops"]
    assert [half["parts"] for half in facts["teacher"]["halves"]] == [["transitions", "seen"]] * 2
    (compared,) = {row["first"] for row in json.loads((folder / "study.json").read_text())["comparisons"]}
    assert compared == "second"


def test_the_stage_leaves_its_own_curves_and_weights(finished):
    folder = finished
    rows = read_metrics(folder / "rl")
    assert [row["step"] for row in rows if "valid/hr@10" in row] == [0, 2, 4]
    assert {int(path.name) for path in (folder / "rl/checkpoints/latest").iterdir()} == {2, 4}
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    logged = {name for row in rows for name in row}
    assert {"loss/objective", "loss/nll", "loss/kl", "rl/reward", "rl/target_in_group", "rl/teacher_has_target",
            "rl/entropy_0", "valid/hr@1", "valid/hr@20", "valid/ndcg@10",
            "valid/first_code_recall"} <= logged  # fmt: skip
    assert (folder / "rl/plots/training.png").stat().st_size > 0
    assert list((folder / "rl/checkpoints/best").iterdir()) and list((folder / "checkpoints/best").iterdir())
    facts = json.loads((folder / "stages.json").read_text())["rl"]["facts"]
    assert facts["steps"] == facts["best_step"] == 4
    assert facts["start"] == {name: value for name, value in rows[0].items() if name.startswith("valid/")}


def test_what_is_evaluated_and_exported_are_its_weights(finished, capsys):
    lists = read_predictions(finished / "predictions.json").lists
    results = json.loads((finished / "results.json").read_text())
    assert results["training"]["TS-Rec, second stage"]["flops"] > 0 and "teacher" in results["second stage"]
    assert "| TS-Rec, second stage |" in (finished / "results.md").read_text()
    assert main(["export", f"--workdir={finished}"]) == 0
    dataset = read_dataset(json.loads((finished / "config.json").read_text())["config"]["dataset"]["path"])
    rows = dataset.splits["test"].spread(16)
    history = [dataset.catalogue.items[item].id for item in rows.histories[0]]
    (found,) = Recommender.load(finished / "export").recommend([history], k=20)
    assert {entry.item_id for entry in found[:5]} <= {
        dataset.catalogue.items[item].id for sid in lists[0] for item in dataset.catalogue.items_of_sid[sid]
    }
    assert main(["rl", f"--workdir={finished}"]) == 0
    assert "rl: finished before, skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--config.rl.steps=0"], "config.rl.steps=0"),
        (["--config.rl.prompts=12"], "config.rl.prompts=12 does not divide"),
        (["--config.rl.reward=rules"], "did you mean 'rule'"),
        (["--config.rl.teacher="], "config.rl.teacher"),
        (["--config.rl.teacher_parts=('ease', 'ease')"], "config.rl.teacher_parts"),
        (["--config.objective=vocabulary"], "config.objective='constrained'"),
        (["--config.eval.split=valid"], "valid is what training selects by"),
    ],
)
def test_what_cannot_be_meant_is_refused(finished, changes, words, capsys):
    assert main(["rl", f"--config={finished / 'saved.py'}", *changes, f"--workdir={finished}"]) == 2
    assert words in capsys.readouterr().err


def test_an_evaluation_is_of_the_stage_that_its_settings_name(study, finished, tmp_path, capsys):
    changed = [f"--config={finished / 'saved.py'}", "--config.rl.steps=9"]
    assert main(["evaluate", *changed, f"--workdir={finished}"]) == 2
    assert "run the verb `rl` first" in capsys.readouterr().err
    copy = shutil.copytree(finished, tmp_path / "copy")
    assert main(["evaluate", *changed[:1], "--config.rl.steps=0", f"--workdir={copy}"]) == 0
    without, plain, second = (
        read_predictions(folder / "predictions.json").lists
        for folder in (copy, study[0] / "cells/plain/seed-1", finished)
    )
    assert without == plain != second


TRAINED_ELSEWHERE = [
    "--config.model.trained",
    "--config.index.sids=given",
    "--config.describe.words=given",
    "--config.objective=constrained",
    "--config.train.freeze=trunk",
    "--config.train.adapter.rank=2",
    "--config.rl.steps=2",
    "--config.rl.validate_every=1",
    "--config.rl.prompts=16",
    "--config.rl.group=4",
    "--config.eval.beams=10",
]


def as_others_keep_it(run, folder):
    """The model of a run's export in a plain folder of transformers: its SID tokens in another order, and one more."""
    tokens = read_dataset(run / "dataset").catalogue.tokens
    size = extended(run / "pretrained", folder, ["<z_9>", *reversed(tokens)])
    weights = load_file(run / "export" / "model.safetensors")
    table_VD = weights["model.embed_tokens.weight"]
    rows_nD = table_VD[size : size + len(tokens)][::-1]
    weights["model.embed_tokens.weight"] = np.concatenate([table_VD[:size], table_VD[:1], rows_nD])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    facts = json.loads((run / "export" / "config.json").read_text())
    facts["vocab_size"] = size + 1 + len(tokens)
    (folder / "config.json").write_text(json.dumps(facts))
    return folder


def test_it_begins_with_an_export_or_with_a_checkpoint_of_others_which_have_the_same_rows_by_name(
    quickstart_run, tmp_path, monkeypatch
):
    """And the second of them is cut off, goes on from the validation before, and is the same to the last bit."""
    models = {"ours": quickstart_run / "export", "theirs": as_others_keep_it(quickstart_run, tmp_path / "checkpoint")}
    begun = ["--config=quickstart", *SMALL, f"--config.dataset.path={quickstart_run / 'dataset'}", *TRAINED_ELSEWHERE]
    logged = {}
    for name, model in models.items():
        workdir = tmp_path / name
        cut_off = name == "theirs"
        monkeypatch.setattr(rl, "find_targets", with_hit_rates(0.1, 0.2, *[None] * cut_off, 0.3))
        assert main(["rl", *begun, f"--config.model.path={model}", f"--workdir={workdir}"]) == cut_off
        assert main(["rl", *begun, f"--config.model.path={model}", f"--workdir={workdir}"]) == 0
        kept = ("loss", "rl/", "valid/")
        logged[name] = [
            {key: value for key, value in row.items() if key.startswith(kept)} for row in read_metrics(workdir / "rl")
        ]
        assert not (workdir / "checkpoints").exists(), "nothing is trained before it"
    assert any("valid/hr@1" in row for row in logged["ours"]) and logged["ours"] == logged["theirs"]
    assert main(["export", f"--workdir={tmp_path / 'theirs'}"]) == 0
    assert_the_adapter_is_the_export(models["theirs"], tmp_path / "theirs")


def test_the_loss_of_the_stage_may_be_below_zero():
    """Many times its usual value is no explosion there."""
    settings = settings_of(default_config()).changed({"rl": {"steps": 50, "validate_every": 20}})
    limits = rl.stage_limits(settings)
    assert (limits.explode_factor, limits.max_steps, limits.select_by, limits.checkpoint_every) == (0, 50, "hr@10", 20)


def test_the_vector_of_a_sid_is_the_mean_of_the_unit_vectors_of_its_items():
    catalogue = types.SimpleNamespace(codes_IC=CODES_IC)
    x_ID = np.random.default_rng(0).normal(size=(len(CODES_IC), 4)).astype(np.float32)
    trie = make_trie()
    parts = types.SimpleNamespace(dataset=types.SimpleNamespace(catalogue=catalogue), trie=trie)
    of_sids = rl.sid_vectors(types.SimpleNamespace(vectors=lambda: x_ID), parts)
    found = of_sids.vectors_UD[np.searchsorted(of_sids.slots_U, trie.slots(CODES_IC)[:, -1])]
    x_ID /= np.linalg.norm(x_ID, axis=1, keepdims=True)
    np.testing.assert_allclose(found[:-2], x_ID[:-2], atol=1e-6)
    np.testing.assert_allclose(found[-2:], np.tile(x_ID[-2:].mean(axis=0), (2, 1)), atol=1e-6)
