"""The cells under docs/results are those of today's studies, which go on from them instead of starting over."""

import dataclasses
import pathlib
import runpy

import pytest

from tests.pipeline.published_cells import STUDIES, cells_file
from tsrec_jax.baselines.names import BASELINES
from tsrec_jax.evaluation.study_cells import CELL_FILE, read_cells, write_cells
from tsrec_jax.fusion.fusion import VERSION
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

# Baselines of the closed studies that give other results today.
OLDER = {"transitions", "tfidf", "hybrid", "ease", "sasrec", "sasrec+text"}
CLOSED = {"ablation", "office"}
# Arms whose dense head had one kernel for items and histories, and another temperature.
OLD_HEADS = {"tsrec-dense", "tsrec-fusion"}


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
        fused = wanted.kind == "arm" and wanted.settings.fusion.parts  # all of them by an older formula
        if (study in CLOSED and wanted.name in OLDER) or fused:
            version = VERSION if fused else BASELINES[wanted.name].version
            assert changed == f"version of {'the fusion' if fused else wanted.name} was 1 and is now {version}"
            old = published[wanted.name, wanted.seed]
            today = dataclasses.replace(
                old, facts={**old.facts, "fusion" if fused else "baseline": {"version": version}}
            )
            write_cells(wanted.folder / CELL_FILE, [today])
            assert study_cell.finished_cell(wanted)[0] is not None
        elif wanted.name in OLD_HEADS:
            assert changed == "dense.temperature was 0.05 and is now 0.1"
        else:
            assert cell is not None, f"{wanted.label}: {changed}; see tests/pipeline/published_cells.py"
