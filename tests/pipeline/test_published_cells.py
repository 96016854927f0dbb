"""The cells under docs/results are those of today's studies, which go on from them instead of starting over."""

import pathlib
import runpy

import pytest

from tests.pipeline.published_cells import STUDIES, cells_file
from tsrec_jax.evaluation.study_cells import CELL_FILE, read_cells, write_cells
from tsrec_jax.pipeline import study_cell
from tsrec_jax.settings import settings_of

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Arms whose settings have left the program.
LEFT = {
    "sft-histories",
    "sft-normal-fast-rows",
    "tsrec-centred-fast-rows",
    "tsrec-centred-throughout",
    "tsrec-centred-long-walks-prior",
    "tsrec-centred-wide-walks-prior",
    "tsrec-distilled-prior",
    "tsrec-histories",
    "tsrec-histories-prior",
}

# By study the cells of an earlier version of a baseline, a fusion or the dense head; docs/results.md says so.
BASELINES_THEN = {"transitions", "tfidf", "hybrid", "ease", "sasrec", "sasrec+text"}
OLDER = {
    "ablation": BASELINES_THEN,
    "office": BASELINES_THEN,
    "rl_shop": {"hybrid"},
    "rl_industrial": {"hybrid"},
    "main_beauty": {"tsrec-dense-long"},
}
OF_A_HEAD = {"dense.temperature", "train.select_by"}  # settings that differ where the dense head does


@pytest.mark.parametrize("study", STUDIES)
def test_each_published_cell_of_an_arm_that_remains_is_finished(study, tmp_path, monkeypatch):
    published = {(cell.name, cell.seed): cell for cell in read_cells(cells_file(study))}
    (data,) = {cell.data for cell in published.values()}
    monkeypatch.setattr(study_cell, "_data_digest", lambda _settings: data)
    file, given = STUDIES[study]
    config = runpy.run_path(str(ROOT / "configs" / "studies" / f"{file}.py"))["get_config"]()
    config.update_from_flattened_dict(given)
    settings = settings_of(config)
    remaining = [w for w in study_cell.wanted_cells(settings, tmp_path) if (w.name, w.seed) in published]
    assert {name for name, _ in published} - {wanted.name for wanted in remaining} <= LEFT
    assert len(remaining) >= 5
    for wanted in remaining:
        wanted.folder.mkdir(parents=True)
        write_cells(wanted.folder / CELL_FILE, [published[wanted.name, wanted.seed]])
        cell, changed = study_cell.finished_cell(wanted)
        if wanted.name in OLDER.get(study, set()):
            assert cell is None, f"{wanted.label} is of today's version"
            differing = {difference.partition(" was ")[0] for difference in changed.split("; ")} - OF_A_HEAD
            assert differing and all(name.startswith("version of ") for name in differing), changed
        else:
            assert cell is not None, f"{wanted.label}: {changed}; see tests/pipeline/published_cells.py"
