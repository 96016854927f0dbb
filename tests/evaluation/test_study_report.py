import csv
import io
import json
import shutil
import subprocess

import numpy as np
import pytest

from tests.evaluation.cells import cell_of, rows_by
from tsrec_jax.evaluation import study_plots
from tsrec_jax.evaluation.study_cells import calibration_bins, read_cells, systems_of
from tsrec_jax.evaluation.study_plots import plot_study
from tsrec_jax.evaluation.study_report import build_report, to_json
from tsrec_jax.evaluation.study_tables import escaped, to_csv, to_latex, to_markdown

ROWS = rows_by([0, 0, 1, 2], history=[1, 2, 5, 9], count=[0, 1, 5, 20])
CURVE = ((5, 2.0, 0.1), (10, 1.0, 0.4))
NAMES = ["ts_rec", "plain", "absent", "popularity"]


@pytest.fixture
def report():
    """`ts_rec` has HR@10 .75 and .5, `plain` .25 and .25, the baseline 0."""
    cost = {
        "parameters": 2e6,
        "steps": 10.0,
        "tokens": 1e5,
        "seconds": 60.0,
        "flops": 3e12,
        "memory": 2**30,
        "request_flops": 5e6,
    }
    bins = calibration_bins(np.log([0.5, 0.5, 0.1, 0.1]), np.array([True, False, False, False]))
    cells = [
        cell_of([0, 2, -1, 4], name="ts_rec", rows=ROWS, curve=CURVE, cost=cost, calibration=bins),
        cell_of([0, -1, -1, 4], name="ts_rec", seed=2, rows=ROWS, curve=CURVE, cost={**cost, "seconds": 80.0},
                calibration=bins),
        cell_of([-1, 0, -1, -1], name="plain", rows=ROWS),
        cell_of([-1, 0, 12, -1], name="plain", seed=2, rows=ROWS),
        cell_of([-1, -1, -1, -1], name="popularity", rows=ROWS, kind="baseline", seeded=False),
    ]  # fmt: skip
    pairs = [("ts_rec", "plain"), ("ts_rec", "popularity"), ("ts_rec", "absent")]
    later = [("plain", "popularity"), ("absent", "plain")]
    return build_report("Study", systems_of(cells, NAMES), pairs, (), ["a note"], {"commits": ["c"]}, 200, later)


def test_means_and_spread_are_over_seeds(report):
    first = report.systems[0]
    assert [system.name for system in report.systems] == ["ts_rec", "plain", "popularity"]
    assert first.means["sid"]["HR@10"] == pytest.approx(0.625)
    assert first.means["sid"]["NDCG@10"] == pytest.approx((1 + 1 / 2 + 1 / np.log2(6) + 1 + 1 / np.log2(6)) / 8)
    assert first.deviations["HR@10"] == pytest.approx(np.std([0.75, 0.5], ddof=1))
    assert report.systems[2].deviations["HR@10"] is None
    assert report.systems[2].intervals["HR@10"]["seeds and users"] is None
    assert (first.cost["seconds"], first.cost["memory"], report.systems[1].cost["flops"]) == (70.0, 2**30, None)
    assert (report.rows, report.users) == (4, 3)


def test_comparisons_that_cannot_be_made_are_named(report):
    assert [(c.first, c.second, c.metric) for c in report.comparisons][::2] == [
        ("ts_rec", "plain", "NDCG@10"),
        ("ts_rec", "popularity", "NDCG@10"),
    ]
    assert report.notes == [
        "a note",
        "Not compared: ts_rec > absent; no finished cell of absent.",
        "Not compared: absent > plain; no finished cell of absent.",
    ]
    assert report.comparisons[1].relative == pytest.approx(1.5)
    assert report.comparisons[3].relative is None, "nothing can be said in parts of 0"


def test_what_was_named_later_stands_apart_and_leaves_the_correction_of_the_others_alone(report):
    assert [(c.first, c.second) for c in report.explored] == [("plain", "popularity")] * 2
    assert all(c.holm is None for c in report.explored)
    named = report.comparisons[::2]
    assert sorted(c.holm / c.seeds_and_users.p_value for c in named)[-1] <= len(named) == 2
    tests, later = to_markdown(report).split("### Named later")
    assert "| plain > popularity " in later and "| plain > popularity " not in tests
    assert "Holm" in tests and "Holm" not in later.partition("\n## ")[0]


def test_targets_whose_place_no_clock_gave_are_said_once_for_all_cells():
    cells = [
        cell_of([0, 1], name=name, facts={"ties": {"order": order, "train": 0.5, "test": share}})
        for name, order, share in (("a", "shuffled", 0.25), ("b", "shuffled", 0.25), ("c", "file", 0.0))
    ]
    built = build_report("Study", systems_of(cells, "abc"), (), (), (), {}, resamples=20)
    said = "25.0 % of the test rows have a target that shares its second with others of its user; the order among these"
    assert built.notes == [f"{said} is shuffled by a hash of user and item."]
    assert f"- {said} is shuffled by a hash of user and item." in to_markdown(built)


def test_the_losses_before_the_first_step_are_said_as_means_over_seeds():
    starts = {"a": [(3.0, 9.0), (2.0, 8.0)], "b": [(6.5, 9.25)]}
    cells = [
        cell_of([0, 1], name=name, seed=seed, facts={"start": {"constrained": one, "vocabulary": other}})
        for name, pairs in starts.items()
        for seed, (one, other) in enumerate(pairs)
    ]
    cells.append(cell_of([0, 1], name="popularity", kind="baseline"))
    (note,) = build_report("Study", systems_of(cells, ["a", "b", "popularity"]), (), (), (), {}, resamples=20).notes
    assert note.endswith("the whole vocabulary: a 2.50 / 8.50, b 6.50 / 9.25")


def test_markdown_holds_every_section(report):
    text = to_markdown(report)
    for title in ("Quality", "Paired tests", "Cost", "Cold and warm targets", "By history length",
                  "By target count in train", "Where the target is lost", "Calibration", "Convergence",
                  "How this was made"):  # fmt: skip
        assert f"## {title}" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert any("0.6250" in line and "ts_rec" in line for line in lines)
    assert any("+150.00 %" in line and "2 of 2" in line for line in lines)
    assert any("3T" in line and "1.00 GiB" in line and "5M" in line for line in lines)
    assert "FLOPs of a request" in text


def test_what_is_recommended_is_shown_where_some_cell_knows_it(report):
    """Cells of before such metrics were measured have none, and a table or column of nothing but n/a is left out."""
    assert "Beyond accuracy" not in to_markdown(report)
    assert not any("coverage" in column for column in to_csv(report).splitlines()[0].split(","))
    known = [{"coverage@10": 0.25, "diversity@10": None}, {"coverage@10": 0.75, "diversity@10": None}]
    cells = [cell_of([0], name="a", seed=n, beyond=each) for n, each in enumerate(known)]
    built = build_report("Study", systems_of([*cells, cell_of([0], name="old")], ["a", "old"]), (), (), [], {}, 20)
    assert " 0.5000 |" in to_markdown(built).partition("## Beyond accuracy")[2]
    rows = list(csv.DictReader(io.StringIO(to_csv(built))))
    assert [row["coverage@10"] for row in rows] == ["0.5", ""]
    assert "diversity@10" not in rows[0]


def test_csv_is_one_system_a_row(report):
    rows = list(csv.DictReader(io.StringIO(to_csv(report))))
    assert [row["system"] for row in rows] == ["ts_rec", "plain", "popularity"]
    assert float(rows[0]["sid HR@10"]) == 0.625
    assert float(rows[0]["cold HR@10"]) == 1.0
    assert float(rows[0]["NDCG@10 users low"]) <= float(rows[0]["sid NDCG@10"])
    assert rows[2]["std HR@10"] == ""


def test_latex_escapes_names_and_closes_what_it_opens(report):
    text = to_latex(report)
    assert r"ts\_rec \textgreater{} plain" in text
    for table in text.split(r"\begin{tabular}{l")[1:]:
        columns = len(table.partition("}")[0])  # beside the first
        assert {line.count(" & ") for line in table.splitlines() if line.endswith(r"\\")} == {columns}
    assert text.count(r"\begin{") == text.count(r"\end{") == 4
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 2
    assert escaped(r"a_b & 5% ~^\{}#$<>") == (
        r"a\_b \& 5\% \textasciitilde{}\textasciicircum{}\textbackslash{}\{\}\#\$\textless{}\textgreater{}"
    )


def test_latex_compiles(report, tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("needs pdflatex with booktabs, which is not here")
    document = (
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n" + to_latex(report) + "\\end{document}\n"
    )
    (tmp_path / "study.tex").write_text(document)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "study.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_json_and_plots_are_written(report, tmp_path):
    back = json.loads(json.dumps(to_json(report), allow_nan=False))
    assert back["systems"][0]["convergence"]["step"] == 10
    plot_study(report, tmp_path / "plots")
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert names == {f"{each}.png" for each in ("metrics", "comparisons", "curves", "cost", "slices", "calibration")}


def test_systems_on_other_rows_are_shown_apart():
    cells = [cell_of([0], name="a"), cell_of([0], name="b", rows=rows_by([0], digest="other"))]
    built = build_report("Study", systems_of(cells, ["a", "b"]), [("a", "b")], (), [], {}, resamples=20)
    assert not built.comparisons
    assert "other rows" in built.notes[-1]


def test_a_committed_report_is_what_its_cells_give(request):
    folder = request.config.rootpath / "docs" / "results" / "office"
    written = json.loads((folder / "study.json").read_text())
    systems = systems_of(read_cells(folder / "cells.npz"), [system["name"] for system in written["systems"]])
    pairs = list(dict.fromkeys((each["first"], each["second"]) for each in written["comparisons"]))
    built = build_report(written["title"], systems, pairs, (), (), written["facts"])
    assert to_csv(built) == (folder / "study.csv").read_text()
    tests = [[each["users"]["p_value"], *each["users"]["interval"]] for each in written["comparisons"]]
    found = [[each.users.p_value, *each.users.interval] for each in built.comparisons]
    np.testing.assert_allclose(found, tests, rtol=1e-9)


def test_the_main_comparison_stands_first_and_compared_systems_are_drawn_first(report):
    text = to_markdown(report)
    assert text.split("\n\n")[1].startswith("**ts_rec against plain**: NDCG@10")
    assert text.index("## Paired tests") < text.index("## Quality")
    cells = [cell_of([n % 3, 1], name=f"arm {n}", curve=CURVE) for n in range(12)]
    order = [f"arm {n}" for n in range(12)]
    built = build_report("Study", systems_of(cells, order), [("arm 11", "arm 3")], (), [], {}, resamples=20)
    assert [system.name for system in built.compared_first][:4] == ["arm 11", "arm 3", "arm 0", "arm 1"]


def test_curves_show_eight_systems_with_the_legend_beside_the_axes(tmp_path, monkeypatch):
    cells = [cell_of([0, 1], name=f"arm {n}", curve=CURVE) for n in range(12)]
    built = build_report("Study", systems_of(cells, [f"arm {n}" for n in range(12)]), (), (), [], {}, resamples=20)
    figures = {}
    monkeypatch.setattr(study_plots, "write_figure", lambda path, figure: figures.update({path.name: figure}))
    study_plots.plot_study(built, tmp_path)
    for name in ("curves.png", "slices.png"):
        assert all(len(axis.get_lines()) == 8 for axis in figures[name].axes), name
        assert not any(axis.get_legend() for axis in figures[name].axes), name
        assert len(figures[name].legends[0].get_texts()) == 8
    names = [label.get_text() for label in figures["metrics.png"].axes[0].get_yticklabels()]
    assert len(names) == 12
    for figure in figures.values():
        study_plots.pyplot.close(figure)
