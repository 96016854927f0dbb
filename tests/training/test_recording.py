"""What is recorded beside the losses: traces, Weights & Biases, and the call after each validation."""

import json
import sys
import textwrap

import pytest

from tests.training.test_loop import train_in
from tsrec_jax.errors import UserError
from tsrec_jax.training import wandb_log
from tsrec_jax.training.metrics_log import MetricsLog, read_metrics
from tsrec_jax.training.profile import profiled_steps
from tsrec_jax.training.wandb_log import WandbSettings

FAKE = """
    import json, pathlib

    class Run:
        def __init__(self, folder, id):
            self.id = id or "made"
            self.file = pathlib.Path(folder) / "sent.jsonl"

        def log(self, values, step):
            self.write({"step": step, **values})

        def finish(self):
            self.write("finished")

        def write(self, value):
            with self.file.open("a") as file:
                file.write(json.dumps(value) + "\\n")

    def init(*, dir, id, **asked):
        run = Run(dir, id)
        run.write({"id": id, **asked})
        return run
"""


@pytest.fixture
def fake_wandb(tmp_path, monkeypatch):
    """A module `wandb` that writes what it is given to `sent.jsonl` in the folder."""
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "wandb.py").write_text(textwrap.dedent(FAKE))
    monkeypatch.syspath_prepend(modules)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    yield
    sys.modules.pop("wandb", None)


def sent(folder):
    return [json.loads(line) for line in (folder / "sent.jsonl").read_text().splitlines()]


def test_a_trace_is_written_and_the_run_is_unchanged(tmp_path, make_model, examples):
    drawn = []
    recorded = {
        "profile": profiled_steps("2:3"),
        "after_validation": lambda: drawn.append(read_metrics(tmp_path / "traced")[-1]["step"]),
    }
    plain = train_in(tmp_path / "plain", make_model(), examples)
    traced = train_in(tmp_path / "traced", make_model(), examples, run=recorded)
    assert traced.best_value == plain.best_value
    losses = [[row["loss"] for row in read_metrics(tmp_path / run) if "loss" in row] for run in ("plain", "traced")]
    assert losses[0] == losses[1]
    assert list((tmp_path / "traced" / "profile").rglob("*.xplane.pb"))
    assert not (tmp_path / "plain" / "profile").exists()
    assert drawn == [2, 4, 6], "each validation is in the log when curves are drawn"


@pytest.mark.parametrize(("text", "steps"), [("10:13", [10, 11, 12, 13]), ("7", [7]), ("", [])])
def test_a_profile_flag_names_its_first_and_last_step(text, steps):
    assert list(profiled_steps(text)) == steps


@pytest.mark.parametrize("text", ["0:3", "5:4", "five", "3:"])
def test_a_profile_flag_that_names_no_steps_is_refused(text):
    with pytest.raises(UserError, match="--profile=10:13"):
        profiled_steps(text)


@pytest.mark.usefixtures("fake_wandb")
def test_wandb_gets_every_row_and_a_resumed_training_goes_on_in_the_same_run(tmp_path):
    settings = WandbSettings("shop", "TS-Rec", {"seed": 42})
    log = MetricsLog(tmp_path, wandb=settings)
    log.write(1, {"loss": 2.0})
    log.close()
    log = MetricsLog(tmp_path, resume_step=1, wandb=settings)
    log.write(2, {"loss": 1.0})
    log.close()
    first, row, end, second, *_ = sent(tmp_path)
    asked = {"project": "shop", "name": "TS-Rec", "config": {"seed": 42}, "resume": "allow"}
    assert first == {"id": None, **asked}
    assert row == {"step": 1, "loss": 2.0}
    assert end == "finished"
    assert second == {"id": "made", **asked}
    assert not list(tmp_path.glob("*.tmp"))


def test_without_the_package_the_message_says_how_to_get_it_or_do_without(monkeypatch):
    monkeypatch.setattr(wandb_log.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"pip install 'tsrec_jax\[wandb\]'.*wandb_project=''"):
        wandb_log.require_wandb()


@pytest.mark.parametrize("damaged", [b'{"step": 2, "lo\n', b"\xff\n"])
def test_a_damaged_line_of_the_log_is_named(damaged, tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + damaged + b'{"step": 3}\n{"step')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: no JSON .*; delete the line"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": 3}\n{"step')
    assert read_metrics(tmp_path) == [{"step": 1}, {"step": 3}]
