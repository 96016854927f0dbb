"""The second stage in a run: from the weights of training, with checkpoints, curves, an evaluation and an export."""

import json
import pathlib
import shutil

import pytest

from tests.pipeline.small import SMALL
from tsrec_jax.data.dataset import read_dataset
from tsrec_jax.evaluation.predictions import read_predictions
from tsrec_jax.main import main
from tsrec_jax.pipeline.rl import stage_limits
from tsrec_jax.serving.recommender import Recommender
from tsrec_jax.settings import default_config, settings_of
from tsrec_jax.training.metrics_log import read_metrics

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMAND = [f"--config={ROOT / 'configs' / 'quickstart.py'}", "--config.objective=constrained", *SMALL]
SECOND = [
    "--config.rl.steps=4",
    "--config.rl.prompts=16",
    "--config.rl.group=8",
    "--config.rl.teacher=transitions",
    "--config.rl.learning_rate=3e-3",
    "--config.rl.validate_every=2",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run with a second stage."""
    folder = tmp_path_factory.mktemp("rl") / "run"
    assert main(["run", *COMMAND, *SECOND, f"--workdir={folder}"]) == 0
    return folder


def test_the_stage_leaves_its_own_curves_and_weights(finished):
    folder = finished
    rows = read_metrics(folder / "rl")
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    logged = {name for row in rows for name in row}
    assert {"loss/objective", "loss/nll", "loss/kl", "rl/reward", "rl/target_in_group", "rl/entropy_0", "valid/hr@1",
            "valid/hr@20", "valid/ndcg@10", "valid/first_code_recall"} <= logged  # fmt: skip
    assert (folder / "rl/plots/training.png").stat().st_size > 0
    assert list((folder / "rl/checkpoints/best").iterdir()) and list((folder / "checkpoints/best").iterdir())
    facts = json.loads((folder / "stages.json").read_text())["rl"]["facts"]
    assert facts["steps"] == 4 and 0 <= facts["start"]["valid/hr@10"] <= 1


def test_what_is_evaluated_and_exported_are_its_weights(finished, tmp_path, capsys):
    """And those of training where the settings name no second stage."""
    second = read_predictions(finished / "predictions.json").lists
    assert "second stage" in (finished / "results.md").read_text()
    dataset = read_dataset(finished / "dataset")
    rows = dataset.splits["test"].spread(16)
    history = [dataset.catalogue.items[item].id for item in rows.histories[0]]
    (found,) = Recommender.load(finished / "export").recommend([history], k=20)
    assert {entry.item_id for entry in found[:5]} <= {
        dataset.catalogue.items[item].id for sid in second[0] for item in dataset.catalogue.items_of_sid[sid]
    }
    assert main(["rl", *COMMAND, *SECOND, f"--workdir={finished}"]) == 0
    assert "rl: finished before, skipped" in capsys.readouterr().out
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    assert main(["evaluate", *COMMAND, f"--workdir={copy}"]) == 0
    assert read_predictions(copy / "predictions.json").lists != second


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--config.rl.steps=0"], "config.rl.steps=0"),
        (["--config.rl.prompts=12"], "config.rl.prompts=12 does not divide"),
        (["--config.rl.reward=rules"], "did you mean 'rule'"),
        (["--config.rl.teacher="], "config.rl.teacher"),
        (["--config.objective=vocabulary"], "config.objective='constrained'"),
    ],
)
def test_what_cannot_be_meant_is_refused(finished, changes, words, capsys):
    assert main(["rl", *COMMAND, *SECOND, *changes, f"--workdir={finished}"]) == 2
    assert words in capsys.readouterr().err


def test_an_evaluation_asks_for_the_stage_that_its_settings_name(finished, capsys):
    assert main(["evaluate", *COMMAND, *SECOND, "--config.rl.steps=9", f"--workdir={finished}"]) == 2
    assert "run the verb `rl` first" in capsys.readouterr().err


def test_the_loss_of_the_stage_may_be_below_zero():
    """Many times its usual value is no explosion there."""
    settings = settings_of(default_config()).changed({"rl": {"steps": 50, "validate_every": 20}})
    limits = stage_limits(settings)
    assert (limits.explode_factor, limits.max_steps, limits.select_by, limits.validations) == (0, 50, "hr@10", 2)
