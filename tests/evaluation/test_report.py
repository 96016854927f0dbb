import json

import numpy as np
import pytest

from tests.evaluation.catalogues import catalogue_of
from tsrec_jax.data.target_ranks import find_targets
from tsrec_jax.evaluation.beyond import BEYOND
from tsrec_jax.evaluation.plots import plot_metrics, plot_training
from tsrec_jax.evaluation.report import Report, format_table, to_json, to_markdown
from tsrec_jax.evaluation.statistics import compare, draw_users, intervals

CATALOGUE = catalogue_of([(n, 0) for n in range(12)])
SIDS = list(CATALOGUE.items_of_sid)
PNG = b"\x89PNG\r\n"


@pytest.fixture
def report():
    targets = np.arange(8)
    good = [[SIDS[n], *(sid for sid in SIDS if sid != SIDS[n])] for n in range(8)]
    lists = {"ours": good, "other": [SIDS] * 8}
    ranks = {name: find_targets(ranked, targets, CATALOGUE) for name, ranked in lists.items()}
    metrics, draws = ("HR@1", "HR@10", "NDCG@10"), draw_users(range(8), 50)
    pair = tuple(each.values("sid", "NDCG@10")[None] for each in ranks.values())
    return Report(
        dataset="Shop",
        split="test",
        rows=8,
        users=8,
        beams=10,
        invalid=0,
        systems={name: each.means(metrics) for name, each in ranks.items()},
        intervals={name: intervals(each, metrics, draws) for name, each in ranks.items()},
        beyond={"ours": dict.fromkeys(BEYOND, 0.25), "other": dict.fromkeys(BEYOND)},
        comparisons=[compare(("ours", "other"), pair, draws, metric="NDCG@10", level="sid", seeds=(1,))],
        upper_bound={"HR@1": 1.0, "HR@10": 1.0, "NDCG@10": 1.0},
        training={
            "ours": {
                "steps": 7,
                "best_step": 5,
                "best_value": 1.25,
                "stopped_early": False,
                "seconds": 3.0,
                "flops": 3.5e12,
                "request_flops": None,
                "start": {"split": "valid", "constrained": 3.25, "vocabulary": 9.5, "scales": [1.0, 1.0]},
            }
        },
        facts={"command": "run it", "seed": 1, "versions": {"jax": "1"}, "config": {"seed": 1}},
    )


def test_json_speaks_of_the_main_system_and_holds_all(report):
    found = json.loads(json.dumps(to_json(report)))
    assert found["metrics"]["sid"]["HR@1"] == 1.0
    assert found["systems"]["other"]["sid"]["HR@1"] == 1 / 8
    assert found["intervals"] == found["systems"]["ours"]["intervals"]
    assert (found["rows"], found["beams"], found["invalid"], found["command"]) == (8, 10, 0, "run it")
    assert "facts" not in found
    assert found["comparisons"][0]["difference"] > 0


def test_the_table_is_aligned_markdown_with_every_system(report):
    lines = format_table(report).splitlines()
    names = [line.split("|")[1].strip() for line in lines]
    assert [names[0], *names[2:]] == ["system", "ours", "other", "upper bound"]
    assert len({len(line) for line in lines}) == 1
    assert "1.0000" in lines[2]
    assert "upper bound" not in format_table(report, "item")


def test_markdown_names_what_a_reader_needs_to_repeat_the_run(report):
    text = to_markdown(report)
    for words in (
        "Results on Shop (test, 8 rows of 8 users, 10 beams)",
        "`run it`",
        "jax 1",
        "ours > other",
        "1.2500",
        "3.5T",
    ):
        assert words in text, words
    assert "config" not in text.split("## How this was made")[1]


def test_what_is_recommended_stands_beside_accuracy_and_what_is_not_known_is_said(report):
    table = to_markdown(report).partition("## Beyond accuracy")[2].partition("##")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    assert rows[0] == ["system", "HR@10", "NDCG@10", *BEYOND]
    assert rows[2] == ["ours", "1.0000", "1.0000", *["0.2500"] * len(BEYOND)]
    assert rows[3][3:] == ["n/a"] * len(BEYOND)
    assert to_json(report)["systems"]["other"]["beyond"][BEYOND[0]] is None


def test_plots_are_written_whole(report, tmp_path):
    rows = [{"step": 1, "loss": 3.0, "loss/next_sid": 2.0}, {"step": 2, "valid/loss": 2.5}, {"step": 3, "loss": None}]
    plot_training({"ours": rows, "other": []}, tmp_path / "plots" / "training.png")
    plot_metrics(report, tmp_path / "plots" / "metrics.png")
    written = sorted((tmp_path / "plots").iterdir())
    assert [path.name for path in written] == ["metrics.png", "training.png"]
    assert all(path.read_bytes().startswith(PNG) for path in written)
