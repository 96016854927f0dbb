import json

import numpy as np
import pytest

from tests.evaluation.catalogues import catalogue_of
from tsrec_jax.evaluation.compare import compare
from tsrec_jax.evaluation.metrics import score
from tsrec_jax.evaluation.plots import plot_metrics, plot_training
from tsrec_jax.evaluation.report import Report, format_table, intervals_of, to_json, to_markdown

CATALOGUE = catalogue_of([(n, 0) for n in range(12)])
SIDS = list(CATALOGUE.items_of_sid)
PNG = b"\x89PNG\r\n"


@pytest.fixture
def report():
    targets = np.arange(8)
    good = [[SIDS[n], *(sid for sid in SIDS if sid != SIDS[n])] for n in range(8)]
    lists = {"ours": good, "other": [SIDS] * 8}
    systems = {name: score(ranked, targets, CATALOGUE, (1, 10)) for name, ranked in lists.items()}
    return Report(
        dataset="Shop",
        split="test",
        rows=8,
        beams=10,
        invalid=0,
        systems=systems,
        intervals={name: intervals_of(metrics, 50, 0) for name, metrics in systems.items()},
        comparisons={"ours against other": compare(systems["ours"], systems["other"], "NDCG@10")},
        upper_bound={"HR@1": 1.0, "HR@10": 1.0, "NDCG@10": 1.0},
        training={"ours": {"steps": 7, "best_step": 5, "best_value": 1.25, "stopped_early": False, "seconds": 3.0}},
        facts={"command": "run it", "seed": 1, "versions": {"jax": "1"}, "config": {"seed": 1}},
    )


def test_json_speaks_of_the_main_system_and_holds_all(report):
    found = json.loads(json.dumps(to_json(report)))
    assert found["metrics"]["sid"]["HR@1"] == 1.0
    assert found["systems"]["other"]["sid"]["HR@1"] == 1 / 8
    assert found["intervals"] == found["systems"]["ours"]["intervals"]
    assert (found["rows"], found["beams"], found["invalid"], found["command"]) == (8, 10, 0, "run it")
    assert found["comparisons"]["ours against other"]["difference"] > 0


def test_the_table_is_aligned_markdown_with_every_system(report):
    lines = format_table(report).splitlines()
    names = [line.split("|")[1].strip() for line in lines]
    assert [names[0], *names[2:]] == ["system", "ours", "other", "upper bound"]
    assert len({len(line) for line in lines}) == 1
    assert "1.0000" in lines[2]
    assert "upper bound" not in format_table(report, "item")


def test_markdown_names_what_a_reader_needs_to_repeat_the_run(report):
    text = to_markdown(report)
    for words in ("Results on Shop (test, 8 rows, 10 beams)", "`run it`", "jax 1", "ours against other", "1.2500"):
        assert words in text, words
    assert "config" not in text.split("## How this was made")[1]


def test_plots_are_written_whole(report, tmp_path):
    rows = [{"step": 1, "loss": 3.0, "loss/next_sid": 2.0}, {"step": 2, "valid/loss": 2.5}, {"step": 3, "loss": None}]
    plot_training({"ours": rows, "other": []}, tmp_path / "plots" / "training.png")
    plot_metrics(report.systems, report.intervals, None, tmp_path / "plots" / "metrics.png")
    written = sorted((tmp_path / "plots").iterdir())
    assert [path.name for path in written] == ["metrics.png", "training.png"]
    assert all(path.read_bytes().startswith(PNG) for path in written)
