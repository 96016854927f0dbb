"""The command line: exit codes, one clear line for every mistake, nothing written by a refused command."""

import errno
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from tsrec_jax.command_flags import define_flags, help_lines, parse
from tsrec_jax.experiments import experiment_file
from tsrec_jax.main import ONLY_FOR, TOGETHER, TOGETHER_FLAGS, VERBS, main
from tsrec_jax.settings import default_config, flat

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
        (("train", QUICKSTART, "--wrokdir=WORKDIR"), ["--wrokdir: no such flag", "did you mean --workdir?", "--help"]),
        (("serve", "--workdir=WORKDIR", "--quue=3"), ["--quue: no such flag", "did you mean --queue?"]),
        (("serve", "--workdir=WORKDIR", "--zzz"), ["--zzz: no such flag; `tsrec VERB --help`"]),
        (("run",), ["--workdir=DIR", "--config=FILE.py or --config=NAME", "quickstart", "studies/smoke"]),
        (
            ("run", "--config=quikstart", "--workdir=WORKDIR"),
            ["--config=quikstart", "did you mean --config=quickstart?"],
        ),
        (("run", "--config=configs/quickstrt.py", "--workdir=WORKDIR"), ["did you mean --config=quickstart?"]),
        (
            ("run", "--config=mine", "--workdir=WORKDIR"),
            ["--config=mine: no such file", "amazon_smollm2", "quickstart"],
        ),
        (("plan", QUICKSTART, "--mfu=nan"), ["--mfu=nan", "finite"]),
        (("plan", QUICKSTART, "--mfu=inf"), ["--mfu=inf", "finite"]),
        (("train", QUICKSTART, "--workdir=WORKDIR", "--k=3"), ["--k is for the verb recommend, not for train"]),
        (("train", QUICKSTART, "--workdir=WORKDIR", "--config.train.weight_decay=nan"), ["train.weight_decay=nan"]),
        (("train", QUICKSTART, "--workdir=WORKDIR", "--config.train.learning_rate=inf"), ["train.learning_rate=inf"]),
        (
            ("train", QUICKSTART, "--workdir=WORKDIR", "--config.fusion.l2=1e999"),
            ["fusion.l2=inf"],
        ),
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
        (("train", QUICKSTART, "--workdir=WORKDIR", "--config.eval.beams=5"), ["eval.beams=5", "10 or more"]),
        (
            ("train", QUICKSTART, "--workdir=WORKDIR", "--config.objective=catalogue"),
            ["objective='catalogue'", "constrained, vocabulary"],
        ),
        (("train", QUICKSTART, "--workdir=WORKDIR", "--config.tasks.augmented_sid.copies=0"), ["augmented_sid.copies"]),
        (("train", QUICKSTART, "--workdir=WORKDIR", "--config.tasks.distilled_sid.copies=0"), ["distilled_sid.copies"]),
        (
            (
                *("train", QUICKSTART, "--workdir=WORKDIR", "--config.tasks.distilled_sid.rate=0.1"),
                "--config.tasks.distilled_sid.soft_labels=True",
            ),
            ["distilled_sid.soft_labels=True", "config.objective='constrained'"],
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
        (("plan", QUICKSTART, "--workdir=WORKDIR", "--multi_host"), ["plan", "one process", "train"]),
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
    ("key", "value", "words"),
    [
        ("train.slot_rows", 4, ["config.train.slot_rows is now called config.train.rows_per_group"]),
        ("ts_align.weight", 0.0, ["config.tasks.ts_align"]),
        ("tasks.varied_sid.rate", 0.5, ["config.tasks.augmented_sid"]),
        ("tasks.next_sid.chains", True, ["now called config.tasks.next_sid.user_sequences"]),
        ("tasks.distilled_sid.soft", True, ["config.tasks.distilled_sid.soft_labels"]),
        ("tasks.distilled_sid.history", 3, ["config.tasks.distilled_sid.history_length"]),
        ("tasks.distilled_sid.any_item", 0.1, ["config.tasks.distilled_sid.random_items"]),
        ("tasks.distilled_sid.throughout", True, ["gained nothing"]),
        ("tasks.similar_sid.rate", 1.0, ["config.tasks.distilled_sid took its place"]),
        ("train.sid_loss", "catalogue", ["config.objective", "'constrained' for 'catalogue'"]),
        ("train.new_rows_rate", 2.0, ["gained nothing"]),
        ("eval.normaliser", "catalogue", ["config.objective", "'constrained' for 'catalogue'"]),
        ("eval.score_end", True, ["config.eval.score_end is no longer a key"]),
    ],
)
def test_an_old_key_says_what_took_its_place(refused, tmp_path, key, value, words):
    """On the command line, in an experiment file, in an arm of a study and in a run's record alike."""
    nested = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    file = tmp_path / "old.py"
    file.write_text(
        "from tsrec_jax.settings import default_config\n"
        f"def get_config():\n    config = default_config()\n    config.{key} = {value!r}\n    return config\n"
    )
    record = tmp_path / "record"
    record.mkdir()
    (record / "config.json").write_text(json.dumps({"config": nested}))
    lines = [
        refused("train", f"--config={file}", "--workdir=WORKDIR"),
        refused("train", f"--config={study_file(tmp_path, {'arms': {'a': nested}})}", "--workdir=WORKDIR"),
        refused("train", f"--workdir={record}"),
        refused("train", QUICKSTART, "--workdir=WORKDIR", f"--config.{key}={value}"),
    ]
    assert all(words[0] in line and len(line.splitlines()) == 1 for line in lines)
    assert all(word in lines[-1] for word in words)


@pytest.mark.parametrize("verb", ["train", "evaluate", "export"])
def test_a_workdir_of_an_earlier_version_says_what_can_still_be_done_with_it(refused, tmp_path, verb):
    (tmp_path / "config.json").write_text(json.dumps({"config": {"eval": {"normaliser": "vocab"}}}))
    line = refused(verb, f"--workdir={tmp_path}")
    for word in (f"{tmp_path}/config.json", "this version cannot use", "config.eval.normaliser", "a new --workdir"):
        assert word in line
    assert "still works" not in line
    (tmp_path / "export").mkdir()
    assert f"{tmp_path}/export still works" in refused(verb, f"--workdir={tmp_path}")


@pytest.fixture
def experiment(tmp_path):
    """Writes an experiment file that does one thing to the default config, and returns the flag that names it."""

    def write(line, first="from tsrec_jax.settings import default_config"):
        file = tmp_path / "experiment.py"
        file.write_text(f"{first}\ndef get_config():\n    config = default_config()\n    {line}\n    return config\n")
        return f"--config={file}"

    return write


def test_the_arms_of_a_run_say_what_took_their_place(refused, experiment):
    line = refused("run", experiment("config.run.arms = {'a': {}}"), "--workdir=WORKDIR")
    assert "config.study.arms took its place" in line


def test_an_old_value_says_what_it_is_called_now_wherever_it_stands(refused, experiment, tmp_path):
    for given in (
        [QUICKSTART, "--config.train.freeze=old_rows"],
        [experiment("config.train.freeze = 'old_rows'")],
        [f"--config={study_file(tmp_path, {'arms': {'a': {'train': {'freeze': 'old_rows'}}}})}"],
    ):
        line = refused("train", *given, "--workdir=WORKDIR")
        assert "config.train.freeze='old_rows' is not one of" in line
        assert "'old_rows' is now called 'pretrained_rows'" in line


def test_an_experiment_for_the_module_of_before_learns_where_its_recipe_is(refused, experiment):
    file = experiment("pass", first="from tsrec_jax.configuration import default_config")
    line = refused("train", file, "--workdir=WORKDIR")
    assert "tsrec_jax.settings took its place" in line and "paper_config()" in line


def test_a_key_that_only_shares_its_name_with_an_old_one_is_not_taken_for_it(refused, experiment):
    given = ("train", QUICKSTART, "--workdir=WORKDIR", "--config.templates.next_sid.history=x")
    assert refused(*given) == "tsrec: config: no such key: 'history'"
    own = experiment("{}['history']")
    assert refused("train", own, "--workdir=WORKDIR") == "tsrec: config: KeyError: 'history'"
    missing = experiment("config.templates.next_sid.history = 'x'")
    line = refused("train", missing, "--workdir=WORKDIR")
    assert "no such key: 'history'" in line and "config.tasks.distilled_sid.history is now called" in line
    misspelt = refused("train", experiment("config.train.max_step = 3"), "--workdir=WORKDIR")
    assert misspelt == "tsrec: config: no such key: 'max_step'; did you mean 'max_steps'?"


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
        ({"arms": {"popularity": {}}, "baselines": ("popularity",)}, ["the arm 'popularity'", "rename an arm"]),
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


def study_file(folder, settings, more=""):
    """A config file with these values in its section `study`."""
    file = folder / "study_config.py"
    texts = {key: f"ConfigDict({value!r})" if key == "arms" else repr(value) for key, value in settings.items()}
    lines = [f"    config.study.{key} = {text}" for key, text in texts.items()]
    file.write_text(
        "from ml_collections import ConfigDict\n"
        "from tsrec_jax.settings import default_config\n"
        "def get_config():\n"
        "    config = default_config()\n" + "\n".join([*lines, f"    {more}"]) + "\n    return config\n"
    )
    return file


def test_a_workdir_that_is_no_folder_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    for name, words in (
        ("file", "is a file"),
        ("file/below", "is a file"),
        ("link", "is a link to nothing"),
        ("a" * 300, "File name too long"),
    ):
        assert main(["train", QUICKSTART, f"--workdir={tmp_path / name}"]) == 2
        assert words in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_every_number_has_a_least_value(tmp_path, capsys):
    """Below it, it is refused by name. Only the teacher's temperature means something there."""
    config = default_config()
    numbers = [key for key, value in flat(config.to_dict()).items() if type(value) in (int, float)]
    assert len(numbers) > 70
    for key in numbers:
        changed = [f"--config.{key}=-7", *(["--config.prepare.source=tables"] if key.startswith("prepare.") else [])]
        code = main(["plan", QUICKSTART, *changed])
        said = capsys.readouterr().err
        if key == "describe.temperature":
            continue
        assert code == 2 and key in said, f"{key}: {said}"
    assert main(["plan", QUICKSTART, "--config.mesh.data=0"]) == 2
    assert main(["plan", QUICKSTART, "--devices=-1"]) == 2


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
    assert subprocess.run(
        [sys.executable, "-m", "tsrec_jax", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.startswith("tsrec_jax 0.")
    wrong = subprocess.run([sys.executable, "-m", "tsrec_jax"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("form", [("VERB", "--help"), ("VERB", "--k=0", "-h"), ("help", "VERB"), ("--help", "VERB")])
def test_every_verb_explains_itself_and_its_flags(verb, form, capsys):
    assert main([part.replace("VERB", verb) for part in form]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: python -m tsrec_jax {verb} [flags]")
    assert f"\n  {verb} " in printed.partition("\nflags\n")[0]
    shown = set(re.findall(r"^  --(\w+)", printed.partition("\nflags\n")[2], re.MULTILINE))
    others = {flag for flag, verbs in ONLY_FOR.items() if verb not in verbs}
    assert {"workdir", *(flag for flag, verbs in ONLY_FOR.items() if verb in verbs)} <= shown
    assert not shown & others
    assert ("multi_host" in shown) == (verb in TOGETHER)


def test_every_flag_has_its_verbs_and_its_meaning():
    everywhere = {"config", "workdir", *TOGETHER_FLAGS}
    assert set(define_flags()) == {*everywhere, *ONLY_FOR}
    lines = help_lines(define_flags())
    assert all(re.fullmatch(r"  --\S+ +\w.*[^;\s]", line) for line in lines)
    assert "  --k=10                   number of items to recommend" in lines


def test_an_experiment_is_found_by_its_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    by_name, _ = parse(["plan", "--config=quickstart", "--config.seed=7"])
    by_file, _ = parse(["plan", "--config", str(ROOT / "configs" / "quickstart.py"), "--config.seed=7"])
    assert by_name.config.to_dict() == by_file.config.to_dict()
    assert by_name.config.seed == 7
    assert parse(["study", "--config", "studies/smoke"])[0].config.study.arms


def test_a_file_comes_before_an_experiment_of_the_same_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").write_text("mine")
    assert experiment_file("quickstart") == pathlib.Path("quickstart")
    assert experiment_file("studies/smoke").read_text() == (ROOT / "configs" / "studies" / "smoke.py").read_text()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_file_that_may_not_be_written_is_the_users_error(monkeypatch, capsys, tmp_path, code):
    def refused(_values, _workdir):
        raise OSError(code, os.strerror(code), "checkpoints/8.tmp", None, "checkpoints/8")

    monkeypatch.setitem(VERBS, "train", refused)
    assert main(["train", QUICKSTART, f"--workdir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"tsrec: checkpoints/8.tmp: {os.strerror(code)}; ")
    assert len(error.splitlines()) == 1


def test_a_refusal_that_names_no_file_is_not_the_disks(monkeypatch, capsys, tmp_path):
    def refused(_values, _workdir):
        raise PermissionError(errno.EACCES, "of a socket")

    monkeypatch.setitem(VERBS, "train", refused)
    assert main(["train", QUICKSTART, f"--workdir={tmp_path}"]) == 1
    assert "of a socket" in capsys.readouterr().err


def test_a_folder_of_programs_that_cannot_be_used_is_one_line_and_the_work_goes_on(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "true")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setitem(VERBS, "train", lambda _values, _workdir: None)
    assert main(["train", QUICKSTART, f"--workdir={tmp_path / 'run'}"]) == 0
    error = capsys.readouterr().err
    assert error.startswith("tsrec: ") and "compiled programs are not kept" in error and len(error.splitlines()) == 1
