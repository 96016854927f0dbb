"""The command line: exit codes, one clear line for every mistake, nothing written by a refused command."""

import pathlib
import subprocess
import sys

import pytest

from tsrec_jax.main import VERBS, main

ROOT = pathlib.Path(__file__).resolve().parents[2]
OTHERS = ("--coordinator=a:1", "--num_processes=2", "--process_id=0")
QUICKSTART = f"--config={ROOT / 'configs' / 'quickstart.py'}"


@pytest.fixture
def refused(tmp_path, capsys):
    """Runs a command that must be refused, and returns the one line that it prints."""

    def run(*arguments):
        workdir = tmp_path / "run"
        assert main([part.replace("WORKDIR", str(workdir)) for part in arguments]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        lines = printed.err.strip().splitlines()
        assert lines[0].startswith("tsrec: ")
        assert "Traceback" not in printed.err
        assert not workdir.exists(), "a refused command must write nothing"
        return printed.err.strip()

    return run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("trian", "--workdir=WORKDIR"), ["no such verb: 'trian'", "train"]),
        (("train", QUICKSTART), ["--workdir"]),
        (("train", "--workdir=WORKDIR"), ["config.json", "--config=FILE.py"]),
        (("train", QUICKSTART, "--wrokdir=WORKDIR"), ["wrokdir", "workdir"]),
        (("train", QUICKSTART, "--workdir=WORKDIR", "extra"), ["extra"]),
        (("train", "--config=absent.py", "--workdir=WORKDIR"), ["--config=absent.py", "no such file"]),
        (("train", "--config", "absent.py", "--config.seed=3", "--workdir=WORKDIR"), ["absent.py", "no such file"]),
        (("train", QUICKSTART, "--workdir=WORKDIR", "--config.quux=3"), ["no such key", "'quux'"]),
        (("train", QUICKSTART, "--workdir=WORKDIR", "--config.shop.num_items=9"), ["config.shop", "num_items=9"]),
        (("train", QUICKSTART, "--workdir=WORKDIR", "--config.train.max_step=3"), ["max_step", "max_steps"]),
        (("train", QUICKSTART, "--workdir=WORKDIR", "--config.train.max_steps=many"), ["max_steps", "many"]),
        (("train", QUICKSTART, "--workdir=WORKDIR", "--config.sid_init.mode=saa"), ["sid_init.mode", "'sa'"]),
        (("train", QUICKSTART, "--workdir=WORKDIR", "--config.train.batch_tokens=1000"), ["batch_tokens", "768"]),
        (("train", QUICKSTART, "--workdir=WORKDIR", "--config.eval.beams=0"), ["eval.beams"]),
        (("train", QUICKSTART, "--workdir=WORKDIR", "--config.eval.beams=5"), ["eval.beams=5", "at least 10"]),
        (
            ("train", QUICKSTART, "--workdir=WORKDIR", "--config.train.sid_loss=catalogue"),
            ["train.sid_loss='catalogue'", "eval.normaliser='catalogue'"],
        ),
        (
            ("train", QUICKSTART, "--workdir=WORKDIR", "--config.tasks.next_sid.chains", "--config.eval.score_end"),
            ["eval.score_end=True", "tasks.next_sid.chains=False"],
        ),
        (("train", QUICKSTART, "--workdir=WORKDIR", "--config.tasks.varied_sid.copies=0"), ["varied_sid.copies"]),
        (("train", QUICKSTART, "--workdir=WORKDIR", "--config.tasks.distilled_sid.copies=0"), ["distilled_sid.copies"]),
        (
            ("train", QUICKSTART, "--workdir=WORKDIR", "--config.tasks.distilled_sid.soft=True"),
            ["distilled_sid.soft=True", "train.sid_loss='catalogue'"],
        ),
        (
            ("train", QUICKSTART, "--workdir=WORKDIR", "--config.tasks.distilled_sid.throughout=True"),
            ["distilled_sid.throughout=True", "distilled_sid.soft=True"],
        ),
        (
            ("train", QUICKSTART, "--workdir=WORKDIR", "--config.tasks.distilled_sid.teacher=oracle"),
            ["distilled_sid.teacher='oracle'", "hybrid"],
        ),
        (("train", QUICKSTART, "--workdir=WORKDIR", "--config.train.keep=1"), ["train.keep=1", "2 or more"]),
        (("train", QUICKSTART, "--workdir=WORKDIR", "--config.dataset.path=absent"), ["absent", "no such folder"]),
        (
            ("train", QUICKSTART, "--workdir=WORKDIR", "--coordinator=a:1"),
            ["--num_processes, --process_id", "--multi_host"],
        ),
        (
            ("train", QUICKSTART, "--workdir=WORKDIR", "--multi_host", "--process_id=1"),
            ["--multi_host", "--process_id"],
        ),
        (("train", QUICKSTART, "--workdir=WORKDIR", "--heartbeat_seconds=9"), ["--heartbeat_seconds", "--coordinator"]),
        (
            ("train", QUICKSTART, "--workdir=WORKDIR", *OTHERS, "--coordinator=host"),
            ["--coordinator=host", "HOST:PORT"],
        ),
        (("train", QUICKSTART, "--workdir=WORKDIR", *OTHERS, "--process_id=2"), ["--process_id=2", "the 2 of"]),
        (("index", QUICKSTART, "--workdir=WORKDIR", "--multi_host"), ["index", "one process", "train"]),
        (("recommend", "--workdir=WORKDIR", "--history=1"), ["export"]),
        (("recommend", "--workdir=WORKDIR", "--history= ,"), ["--history"]),
        (("recommend", "--workdir=WORKDIR", "--history=1", "--k=0"), ["k"]),
    ],
)
def test_a_mistake_is_one_line_that_names_it_and_the_way_out(refused, arguments, words):
    line = refused(*arguments)
    for word in words:
        assert word in line


def test_a_config_file_that_fails_is_named(refused, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("def get_config():\n    return 1 / 0\n")
    assert "division by zero" in refused("train", f"--config={broken}", "--workdir=WORKDIR")


@pytest.mark.parametrize(
    ("arms", "words"),
    [
        ({"plain": {"sid_init": {"mood": "hf"}}}, ["sid_init.mood", "sid_init.mode"]),
        ({"plain": {"sid_init": {"mode": "fh"}}}, ["'fh'", "in the arm 'plain'"]),
        ({"long": {"eval": {"beams": 50}}}, ["config.run.arms.long", "'eval'"]),
        ({"other": {"model": {"path": "smollm2"}}}, ["config.run.arms.other", "'model.path'"]),
        ({"other": {"train": {"held_out": 0.1}}}, ["config.run.arms.other", "'train.held_out'"]),
        ({"a/b": {"seed": 2}}, ["'a/b'"]),
    ],
)
def test_an_arm_that_cannot_be_trained_is_refused_before_anything_is(refused, tmp_path, arms, words):
    file = tmp_path / "arms.py"
    file.write_text(
        "from ml_collections import ConfigDict\n"
        "from tsrec_jax.configuration import default_config\n"
        "def get_config():\n"
        "    config = default_config()\n"
        f"    config.run.arms = ConfigDict({arms!r})\n"
        "    return config\n"
    )
    line = refused("run", f"--config={file}", "--workdir=WORKDIR")
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"arms": {"plain": {"sid_init": {"mood": "hf"}}}}, ["sid_init.mood", "sid_init.mode", "in the arm 'plain'"]),
        ({"arms": {"plain": {"sid_init": {"mode": "fh"}}}}, ["'fh'", "in the arm 'plain'"]),
        ({"arms": {"plain": {"run": {"stages": ()}}}}, ["config.study.arms.plain", "'run'"]),
        ({"arms": {"plain": {"seed": 3}}}, ["'seed'", "config.study.seeds"]),
        ({"arms": {"a/b": {}}}, ["'a/b'"]),
        ({"arms": {"a": {"eval": {"split": "valid"}}}}, ["eval.split", "config.train.held_out", "in the arm 'a'"]),
        ({"arms": {"a": {"train": {"held_out": 1.5}}}}, ["train.held_out=1.5", "between 0 and 1"]),
        ({"arms": {"a": {}, "plain": {}}, "comparisons": ("a > plian",)}, ["'plian'", "did you mean 'plain'"]),
        ({"arms": {"a": {}}, "comparisons": ("a plain",)}, ["'a plain'", "ARM > OTHER"]),
        ({"arms": {"a": {}}, "curves": ("b",)}, ["config.study.curves", "'b'"]),
        ({"arms": {"a": {}}, "seeds": (1, 1)}, ["config.study.seeds=(1, 1)"]),
        ({"arms": {"popularity": {}}, "baselines": ("popularity",)}, ["'popularity'", "an arm and a baseline"]),
        ({"arms": {"a": {}}, "baselines": ("popularty",)}, ["config.study.baselines", "'popularty'"]),
        ({}, ["config.study.arms is empty"]),
    ],
)
def test_a_study_that_cannot_be_made_is_refused_before_anything_is(refused, tmp_path, settings, words):
    line = refused("study", f"--config={study_file(tmp_path, settings)}", "--workdir=WORKDIR")
    for word in words:
        assert word in line


def test_the_flags_of_a_study_name_what_it_has_and_go_with_no_other_verb(refused, tmp_path):
    file = f"--config={study_file(tmp_path, {'arms': {'a': {}}})}"
    assert "--arms: 'b' is not in the study, which has a" in refused("study", file, "--workdir=WORKDIR", "--arms=a,b")
    assert "--seeds: '9'" in refused("study", file, "--workdir=WORKDIR", "--seeds=1,9")
    assert "--arms is for the verb study" in refused("run", file, "--workdir=WORKDIR", "--arms=a")
    assert "works in a folder" in refused("study", file, "--workdir=gs://bucket/x")
    assert "one process" in refused("study", file, "--workdir=WORKDIR", "--multi_host")
    both = study_file(tmp_path, {"arms": {"a": {}}}, "config.run.arms = ConfigDict({'b': {}})")
    assert "config.study.arms and config.run.arms" in refused("study", f"--config={both}", "--workdir=WORKDIR")


def study_file(folder, settings, more=""):
    """A config file with these values in its section `study`."""
    file = folder / "study_config.py"
    texts = {key: f"ConfigDict({value!r})" if key == "arms" else repr(value) for key, value in settings.items()}
    lines = [f"    config.study.{key} = {text}" for key, text in texts.items()]
    file.write_text(
        "from ml_collections import ConfigDict\n"
        "from tsrec_jax.configuration import default_config\n"
        "def get_config():\n"
        "    config = default_config()\n" + "\n".join([*lines, f"    {more}"]) + "\n    return config\n"
    )
    return file


def test_a_workdir_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main(["train", QUICKSTART, f"--workdir={tmp_path / 'file'}"]) == 2
    assert "is a file" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_a_batch_that_the_mesh_does_not_divide_is_refused_with_one_that_it_does(tmp_path, capsys):
    for verb, section, fitting in (("pretrain", "pretrain", "1024"), ("plan", "train", "2048")):
        few = f"--config.{section}.batch_tokens=512"
        shop = ("--config.shop.num_items=70", "--config.shop.num_users=40")
        mesh = ("--config.mesh.fsdp=8", "--config.mesh.data=1")
        assert main([verb, QUICKSTART, few, *shop, *mesh, f"--workdir={tmp_path / verb}"]) == 2
        printed = capsys.readouterr().err
        assert f"config.{section}.batch_tokens" in printed
        assert fitting in printed


def test_our_own_failure_exits_with_one_and_shows_where(monkeypatch, capsys, tmp_path):
    def broken(_values, _workdir):
        raise RuntimeError("a bug")

    monkeypatch.setitem(VERBS, "train", broken)
    assert main(["train", QUICKSTART, f"--workdir={tmp_path}"]) == 1
    assert "RuntimeError: a bug" in capsys.readouterr().err


def test_the_module_runs_as_a_program_and_explains_itself():
    done = subprocess.run(
        [sys.executable, "-m", "tsrec_jax", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    for verb in VERBS:
        assert verb in done.stdout
    wrong = subprocess.run([sys.executable, "-m", "tsrec_jax"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
