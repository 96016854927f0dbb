"""Small files of a workdir that are cut or hold something else: one line names the file and a way out that works."""

import shutil

import pytest

from tests.pipeline.small import SMALL
from tsrec_jax.evaluation.predictions import read_predictions
from tsrec_jax.fusion.fusion import Fusion
from tsrec_jax.main import main
from tsrec_jax.pipeline import describe, index, pretrain, vectors
from tsrec_jax.pipeline.workdir import FINISHED, Workdir


@pytest.fixture
def workdir(quickstart_run, tmp_path):
    """A finished run that a test may change."""
    return shutil.copytree(quickstart_run, tmp_path / "run")


@pytest.mark.parametrize("contents", ['{"a": ', "[]"])
@pytest.mark.parametrize(
    ("file", "verb", "way_out"),
    [
        (FINISHED, "evaluate", "delete it, and what is finished is made again"),
        ("config.json", "train", "give a new --workdir"),
        (f"pretrained/{pretrain.IDENTITY}", "evaluate", "and the model is pretrained again"),
        (f"index/{vectors.MADE_WITH}", "evaluate", f"delete {vectors.FILE} beside it"),
        (f"index/{index.IDENTITY}", "evaluate", "and the SIDs are made again"),
        (f"describe/{describe.IDENTITY}", "evaluate", "and the words are made again"),
    ],
)
def test_a_damaged_record_is_named_with_a_way_out(file, verb, way_out, contents, workdir, capsys):
    assert (workdir / file).exists()
    (workdir / file).write_text(contents)
    assert main([verb, "--config=quickstart", *SMALL, f"--workdir={workdir}"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert str(workdir / file) in line and way_out in line


def test_damaged_predictions_are_made_again_once_they_are_deleted(workdir, capsys):
    file = workdir / "predictions.json"
    before = file.read_bytes()
    file.write_bytes(before[:100])
    evaluate = ["evaluate", "--config=quickstart", *SMALL, f"--workdir={workdir}"]
    assert main(evaluate) == 2
    assert "made again by the verb `evaluate` once it is deleted" in capsys.readouterr().err
    file.unlink()
    assert main(evaluate) == 0
    assert file.read_bytes() == before


@pytest.fixture(scope="module")
def alone(quickstart_run, tmp_path_factory):
    """A fusion without a model, evaluated, with the SIDs and the language model of another run."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    for part in ("index", "pretrained"):
        shutil.copytree(quickstart_run / part, folder / part)
    assert main(["evaluate", *fusion_of("transitions", "seen"), f"--workdir={folder}"]) == 0
    return folder


def fusion_of(*parts):
    return ["--config=quickstart", *SMALL, f"--config.fusion.parts={parts!r}", "--config.fusion.model=False"]


@pytest.mark.parametrize(
    ("verb", "stage", "later"),
    [("evaluate", "evaluate", "evaluate"), ("evaluate", "fuse", "export"), ("export", "export", "export")],
)
def test_what_an_interrupted_stage_left_does_not_count_as_that_of_the_settings_before(
    verb, stage, later, alone, tmp_path, monkeypatch
):
    workdir = shutil.copytree(alone, tmp_path / "run")
    before, after = ([*fusion_of(*parts), f"--workdir={workdir}"] for parts in (("transitions", "seen"), ("tfidf",)))
    assert stage != "export" or main(["export", *before]) == 0
    wanted = read_predictions(workdir / "predictions.json")
    finish = Workdir.finish

    def interrupted(self, name, *arguments):
        if name == stage:
            raise KeyboardInterrupt
        finish(self, name, *arguments)

    monkeypatch.setattr(Workdir, "finish", interrupted)
    assert main([verb, *after]) == 1  # as after Ctrl-C
    monkeypatch.undo()
    assert main([later, *before]) == 0
    assert read_predictions(workdir / "predictions.json") == wanted
    if later == "export":
        assert Fusion.load(workdir / "export" / "fusion.npz", 70).facts["parts"] == ["transitions", "seen"]


def test_a_fusion_without_a_model_codes_new_items_if_the_run_made_the_sids(alone, tmp_path):
    workdir = shutil.copytree(alone, tmp_path / "run")
    assert main(["export", *fusion_of("transitions", "seen"), f"--workdir={workdir}"]) == 0
    (tmp_path / "new.csv").write_text("id,title\nnew,A pump\n")
    coded = tmp_path / "coded.csv"
    assert main(["code", f"--export={workdir / 'export'}", str(tmp_path / "new.csv"), str(coded)]) == 0
    assert "<a_" in coded.read_text()
