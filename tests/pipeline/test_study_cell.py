"""Studies whose cells are made by hand: which folder belongs to which cell, and what becomes of what is found there."""

import dataclasses
import errno
import os
import shutil

import pytest

from tests.evaluation.cells import cell_of
from tsrec_jax.baselines.names import BASELINES
from tsrec_jax.errors import UserError
from tsrec_jax.evaluation.study_cells import read_cells, write_cells
from tsrec_jax.pipeline import study as study_module
from tsrec_jax.pipeline import study_cell, study_measure
from tsrec_jax.settings import default_config, settings_of

FUSED = {"fusion": {"parts": ("popularity",)}}


def settings_with(*arms, baselines=(), seeds=(1, 2)):
    """Settings of a study of the embedded shop; all its arms have the same recipe."""
    study = {"arms": {name: {} for name in arms}, "baselines": baselines, "seeds": seeds, "comparisons": ()}
    return settings_of(default_config()).changed({"study": study})


BOTH = settings_with("p", "q")


def made(wanted, _settings=None):
    """The requested cell."""
    facts = {"command": "study", "commit": "c", "machine": "m", "versions": {"jax": "0"}, "data_hash": "d"}
    if wanted.kind == "baseline":
        facts |= {"baseline": {"version": BASELINES[wanted.name].version}}
    own = {key: getattr(wanted, key) for key in ("name", "seed", "kind", "seeded", "data")}
    return cell_of([0, -1, 4], **own, facts=facts, config=wanted.settings.resolved())


def finish(wanted):
    """Puts the requested cell into its folder."""
    wanted.folder.mkdir(parents=True, exist_ok=True)
    write_cells(wanted.file, [made(wanted)])


@pytest.fixture
def begun(monkeypatch):
    """Labels of the cells that a study begins; they are made at once."""
    labels = []

    def make(wanted, settings):
        labels.append(wanted.label)
        return made(wanted, settings)

    monkeypatch.setattr(study_module, "with_inputs", lambda wanted, *_: wanted.settings)
    monkeypatch.setattr(study_module, "run_arm", make)
    monkeypatch.setattr(study_module, "run_one_baseline", make)
    return labels


@pytest.mark.parametrize(
    ("arms", "baselines", "first", "second"),
    [
        (["ease"], ["ease"], "arm 'ease'", "baseline 'ease'"),
        (["repeat_last"], ["repeat last"], "arm 'repeat_last'", "baseline 'repeat last'"),
        (["Ease"], ["ease"], "arm 'Ease'", "baseline 'ease'"),
        (["Plain", "plain"], [], "arm 'Plain'", "arm 'plain'"),
        (["plain"], ["ease", "ease"], "baseline 'ease'", "baseline 'ease'"),
    ],
)
def test_systems_whose_cells_would_share_a_folder_are_refused(arms, baselines, first, second):
    with pytest.raises(UserError, match=f"^config.study: the {first} and the {second} would share the folder cells/"):
        settings_with(*arms, baselines=tuple(baselines))


@pytest.mark.parametrize("change", [{"name": "other"}, {"kind": "baseline"}, {"seed": 2}])
def test_a_cell_that_is_called_otherwise_is_not_the_requested_one(change, tmp_path):
    wanted, *_ = study_cell.wanted_cells(settings_with("plain"), tmp_path)
    wanted.folder.mkdir(parents=True)
    write_cells(wanted.file, [dataclasses.replace(made(wanted), **change)])
    ((key, value),) = change.items()
    cell, changed = study_cell.finished_cell(wanted)
    assert cell is None and changed == f"{key} was {value!r} and is now {getattr(wanted, key)!r}"
    (wanted.folder / "checkpoints").mkdir()
    study_cell.begin(wanted)
    assert read_cells(tmp_path / "cells/plain/seed-1.old-1/cell.npz")
    assert not (wanted.folder / "checkpoints").exists(), "the training of another cell"


def test_a_baseline_whose_folder_was_an_arms_is_measured_and_the_arms_cell_is_set_aside(tmp_path, begun):
    (arm,) = study_cell.wanted_cells(settings_with("repeat_last", seeds=(1,)), tmp_path)
    finish(arm)
    settings = settings_with("plain", baselines=("repeat last",), seeds=(1,))
    assert study_module.study(settings, tmp_path) == 0
    assert begun == ["repeat last, seed 1", "plain, seed 1"]
    (aside,) = read_cells(tmp_path / "cells/repeat_last/seed-1.old-1/cell.npz")
    assert aside.name == "repeat_last"
    assert [cell.name for cell in read_cells(tmp_path / "cells.npz")] == ["plain", "repeat last"]


def test_what_was_begun_for_another_system_is_set_aside(tmp_path):
    (arm,) = study_cell.wanted_cells(settings_with("repeat_last", seeds=(1,)), tmp_path)
    study_cell.begin(arm)
    (arm.folder / "results.json").touch()
    study_cell.begin(arm)
    assert (arm.folder / "results.json").exists()
    baseline, _ = study_cell.wanted_cells(settings_with("a", baselines=("repeat last",), seeds=(1,)), tmp_path)
    assert baseline.folder == arm.folder
    study_cell.begin(baseline)
    assert [each.name for each in baseline.folder.iterdir()] == ["begun.json"]
    assert (tmp_path / "cells/repeat_last/seed-1.old-1/results.json").exists()


def test_a_damaged_cell_is_named_once_and_the_others_are_made_and_reported(tmp_path, begun, capsys):
    for wanted in study_cell.wanted_cells(settings_with("p", "other"), tmp_path):
        finish(wanted)
    cut = [tmp_path / "cells" / cell / "cell.npz" for cell in ("p/seed-1", "other/seed-2")]
    for file in cut:
        file.write_bytes(file.read_bytes()[:500])
    assert study_module.study(settings_with("p", "q"), tmp_path) == 1
    assert begun == ["q, seed 1", "q, seed 2"]
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    for file in cut:
        assert sum(str(file) in line and "delete it to run the cell again" in line for line in lines) == 1
    assert len(lines) == 2
    assert "failed: p, seed 1\n" in printed.out and "3 of 4 cells are finished" in printed.out
    assert "Not finished: p, seed 1." in (tmp_path / "study.md").read_text()
    cut[0].unlink()
    cut[1].unlink()
    assert study_module.study(settings_with("p", "q"), tmp_path) == 0
    assert begun[2:] == ["p, seed 1"]


def test_a_report_that_fails_is_not_the_fault_of_the_cell(tmp_path, begun, monkeypatch, capsys):
    def fail(*_, **__):
        raise UserError("no report today")

    monkeypatch.setattr(study_module, "build_report", fail)
    assert study_module.study(settings_with("p", seeds=(1,)), tmp_path) == 1
    printed = capsys.readouterr()
    assert printed.err == "tsrec: the report: no report today\n"
    assert "failed" not in printed.out and "1 of 1 cells are finished" in printed.out


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_what_a_machine_refuses_is_one_line_and_the_others_are_made(code, tmp_path, begun, monkeypatch, capsys):
    make = study_module.run_arm

    def refused_to_p(wanted, settings):
        if wanted.name == "p":
            raise OSError(code, os.strerror(code), str(wanted.file))
        return make(wanted, settings)

    monkeypatch.setattr(study_module, "run_arm", refused_to_p)
    assert study_module.study(settings_with("p", "q", seeds=(1,)), tmp_path) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tsrec: p, seed 1: ") and os.strerror(code) in line and "goes on from" in line
    assert begun == ["q, seed 1"]


def test_weights_are_kept_for_an_arm_whose_cell_is_damaged(tmp_path, begun):
    settings = settings_with("plain", seeds=(1,)).changed({"study": {"arms": {"plain": {}, "fused": FUSED}}})
    fused, plain = sorted(study_cell.wanted_cells(settings, tmp_path), key=lambda wanted: wanted.name)
    finish(plain)
    plain.file.write_bytes(b"damaged")
    fused.folder.mkdir(parents=True)
    (fused.folder / "checkpoints").mkdir()
    study_cell.close(fused, [fused, plain])
    assert (fused.folder / "checkpoints").exists()
    study_cell.borrow_training(fused, [fused, plain])
    assert not (fused.folder / "config.json").exists(), "nothing is borrowed from a damaged cell"


@pytest.fixture
def packed(tmp_path):
    """A workdir that holds nothing but the file of all cells: of `p` and `q`, two seeds each."""
    workdir = tmp_path / "packed"
    workdir.mkdir()
    write_cells(workdir / "cells.npz", [made(each) for each in study_cell.wanted_cells(BOTH, workdir)])
    return workdir


def names_in(file):
    return [f"{cell.name} {cell.seed}" for cell in read_cells(file)]


def test_an_unpacking_that_is_interrupted_leaves_nothing_half_done_and_loses_no_cell(
    packed, begun, monkeypatch, capsys
):
    written = []

    def full(path, cells):
        if len(written) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        written.append(path)
        write_cells(path, cells)

    with monkeypatch.context() as patch:
        patch.setattr(study_module, "write_cells", full)
        with pytest.raises(OSError, match="No space"):
            study_module.study(BOTH, packed)
    assert not (packed / "cells").exists()
    assert study_module.study(BOTH, packed) == 0
    assert not begun and "4 of 4 cells are finished" in capsys.readouterr().out
    assert names_in(packed / "cells.npz") == ["p 1", "p 2", "q 1", "q 2"]


def test_a_cell_whose_folder_was_deleted_is_run_again_and_stays_in_the_file_until_it_is_finished(packed, begun):
    assert study_module.study(BOTH, packed) == 0
    shutil.rmtree(packed / "cells/q/seed-2")
    (packed / "cells/p/seed-1/cell.npz").write_bytes(b"damaged")
    assert study_module.study(BOTH, packed, ["p"]) == 1
    assert names_in(packed / "cells.npz") == ["p 1", "p 2", "q 1", "q 2"]
    note = "In cells.npz alone, with no sound cell in cells/: p, seed 1; q, seed 2."
    assert note in (packed / "study.md").read_text()
    (packed / "cells/p/seed-1/cell.npz").unlink()
    assert study_module.study(BOTH, packed) == 0
    assert begun == ["p, seed 1", "q, seed 2"]
    assert names_in(packed / "cells.npz") == ["p 1", "p 2", "q 1", "q 2"]
    assert "cells.npz alone" not in (packed / "study.md").read_text()
    shutil.rmtree(packed / "cells/q")
    (packed / "cells.npz").unlink()
    assert study_module.study(BOTH, packed, ["p"]) == 0
    assert names_in(packed / "cells.npz") == ["p 1", "p 2"], "what is deleted in both places is gone"


def test_a_file_of_all_cells_that_comes_to_a_study_in_progress_loses_none_of_its_cells(packed, begun, tmp_path):
    started = tmp_path / "started"
    finish(study_cell.wanted_cells(BOTH, started)[0])
    shutil.copy(packed / "cells.npz", started)
    assert study_module.study(BOTH, started, ["p"]) == 0
    assert names_in(started / "cells.npz") == ["p 1", "p 2", "q 1", "q 2"]


def test_a_damaged_file_of_all_cells_is_left_alone_and_named_with_a_way_out(packed, begun, capsys):
    assert study_module.study(BOTH, packed) == 0
    (packed / "study.md").unlink()
    (packed / "cells.npz").write_bytes(b"damaged")
    capsys.readouterr()
    assert study_module.study(BOTH, packed) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(packed / "cells.npz") in line and "put a whole copy there, or delete it" in line
    assert (packed / "study.md").exists() and (packed / "cells.npz").read_bytes() == b"damaged"
    shutil.rmtree(packed / "cells")
    with pytest.raises(UserError, match=r"cells\.npz: .*; put a whole copy there"):
        study_module.study(BOTH, packed)
    assert not (packed / "cells").exists() and not begun


@pytest.mark.parametrize("contents", [b'{"config": {"se', b"\xff\x00", b"[]", b"{}"])
def test_a_damaged_record_of_a_study_is_named_with_a_way_out(contents, tmp_path):
    def damage(name):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(contents)

    wanted, *_ = study_cell.wanted_cells(settings_with("plain"), tmp_path)
    for name in ("cells/plain/seed-1/begun.json", "upstream/made.json", "scores.json"):
        damage(name)
    with pytest.raises(UserError, match=r"begun\.json: .*; delete it to go on .*, or delete .*plain/seed-1 to begin"):
        study_cell.begin(wanted)
    with pytest.raises(UserError, match=r"upstream/made\.json: .*; delete it, and what was made beside it is found"):
        study_measure._made(tmp_path / "upstream")
    if contents != b"[]":  # the scores of no rows
        with pytest.raises(UserError, match=r"scores\.json: .*; delete predictions\.json beside it"):
            study_measure._first_scores(tmp_path)
    (wanted.folder / "begun.json").unlink()
    study_cell.begin(wanted)


def test_a_begun_cell_whose_record_is_damaged_fails_and_the_others_are_made(tmp_path, begun, capsys):
    wanted, *_ = study_cell.wanted_cells(BOTH, tmp_path)
    wanted.folder.mkdir(parents=True)
    (wanted.folder / "begun.json").write_text('{"config": {"se')
    assert study_module.study(BOTH, tmp_path) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tsrec: p, seed 1: {wanted.folder}/begun.json: not valid JSON")
    assert begun == ["q, seed 1", "p, seed 2", "q, seed 2"]
