"""Every command, setting and flag that a document names is one that today's code takes.

A command is parsed here, or run where that takes no more than a moment; `test_document_benchmarks.py` runs benchmarks.
A command that this file does not know how to check fails it. One that only older code takes says so in the document:
`command` (runs at commit `0123abc`).
"""

import configparser
import contextlib
import functools
import io
import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from tests.document_commands import (
    DOCUMENTS,
    OTHERS,
    REPORTS,
    ROOT,
    SCRIPTS,
    Command,
    UnknownProgram,
    commands_of,
    of_markdown,
)
from tests.test_document_benchmarks import flags_of_benchmarks
from tsrec_jax import processes, settings
from tsrec_jax.data.dataset import write_dataset
from tsrec_jax.main import VERBS, main
from tsrec_jax.pipeline.provenance import command as recorded_command
from tsrec_jax.prepare import thin
from tsrec_jax.shop.shop import make_shop

ALL = [command for path in (*DOCUMENTS, *SCRIPTS, *REPORTS) for command in commands_of(path)]
TODAY = [command for command in ALL if not command.commit]
# What a document leaves to its reader, and what the check takes instead; FOLDER is a dataset folder of the test's.
FILLED_IN = {
    "--config=...": "--config=configs/quickstart.py",
    "--config=mine.py": "--config=configs/studies/smoke.py",  # which docs/howto/compare.md writes down
    "--workdir=...": "--workdir=runs/quickstart",
    "--workdir=gs://BUCKET/FOLDER": "--workdir=runs/quickstart",
    "--coordinator=HOST:PORT": "--coordinator=localhost:8476",
}
SCRIPTS_OF_LAUNCH = tuple(f"launch/{name}.sh" for name in ("local", "test", "tpu", "pack", "packed_run"))
MADE = {"pack/run.sh": "launch/packed_run.sh"}  # scripts that others make, with what they make them of
HANDLED_HERE = ("bash", "source", *OTHERS)
THIN = ("python", "-m", "tsrec_jax.prepare.thin")


def arguments_of_tsrec(command):
    """What follows `tsrec` or `python -m tsrec_jax`; None of another command."""
    words = command.words
    if words[0] == "tsrec":
        return list(words[1:])
    return list(words[3:]) if words[:3] == ("python", "-m", "tsrec_jax") else None


def by_document(commands):
    """Test parameters: the commands of each document, each text once."""
    found: dict[str, dict[str, Command]] = {}
    for command in commands:
        found.setdefault(command.place.partition(":")[0], {}).setdefault(command.text, command)
    return [pytest.param(list(texts.values()), id=name) for name, texts in sorted(found.items())]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A dataset folder."""
    made = make_shop(0, num_items=70, num_users=40)
    folder = tmp_path_factory.mktemp("documents") / "shop"
    write_dataset("shop", made.catalogue, made.splits, made.token_descriptions, folder)
    return folder


@pytest.fixture(scope="module")
def valid():
    """The configs that were found valid, as texts: many commands have the same, and that of a study takes its time."""
    return set()


@pytest.fixture
def parse(monkeypatch, capsys, shop, valid):
    """parse(arguments): the words on stderr of a verb that does nothing but check its flags and its config."""

    def checked(values, _workdir, *_words):
        if values.config is not None:
            text = values.config.to_json_best_effort()
            if text not in valid:
                settings.settings_of(values.config)
                valid.add(text)
            study = values.config.study
            known = {"arms": {*study.arms, *study.baselines}, "seeds": set(map(str, study.seeds))}
            for flag, names in known.items():
                assert set(values[flag].value) <= names, f"--{flag}: the study has {sorted(names)}"

    class Alone:
        """Takes the place of a group of processes."""

        def __init__(self, launch):
            self.launch = launch

        def leave(self, code):
            """Ends nothing."""

    for verb in VERBS:
        monkeypatch.setitem(VERBS, verb, checked)
    monkeypatch.setattr(processes, "Group", Alone)
    monkeypatch.chdir(ROOT)

    def run(arguments):
        arguments = [(FILLED_IN | {"FOLDER": str(shop)}).get(word, word) for word in arguments]
        if len(arguments) == 1 and arguments[0] in VERBS:  # a verb that is spoken of
            return ""
        code = main(arguments)
        printed = capsys.readouterr()
        return "" if code == 0 else printed.err.strip() or f"exit code {code}"

    return run


@pytest.mark.parametrize("commands", by_document(c for c in TODAY if len(arguments_of_tsrec(c) or ()) > 0))
def test_commands_of_tsrec_parse_and_their_settings_are_valid(commands, parse):
    faults = []
    for command in commands:
        if fault := parse(arguments_of_tsrec(command)):
            faults.append(f"{command.place}: {command.text}\n    {fault}")
    assert not faults, "\n".join(faults)


def test_the_check_finds_a_command_that_no_longer_runs(parse):
    quickstart = ["--config=configs/quickstart.py", "--workdir=runs/x"]
    assert parse(["run", *quickstart, "--config.train.max_steps=100"]) == ""
    for wrong, words in (
        (["run", *quickstart, "--config.train.max_step=100"], "max_steps"),
        (["run", *quickstart, "--config.objective=constrain"], "constrained"),
        (["run", "--config=configs/absent.py", "--workdir=runs/x"], "no such file"),
        (["trian", *quickstart], "no such verb"),
        (["run", *quickstart, "--quick"], "quick"),
        (["study", "--config=configs/studies/smoke.py", "--workdir=runs/x", "--arms=tsrek"], "the study has"),
    ):
        assert words in parse(wrong)


def test_the_command_that_a_report_states_can_be_typed_again(monkeypatch):
    arguments = ["study", "--arms=recent popularity,tsrec", "--config.model.path=my model", "--k=5"]
    monkeypatch.setattr(sys, "argv", ["tsrec", *arguments])
    assert shlex.split(recorded_command()) == ["python", "-m", "tsrec_jax", *arguments]


def test_every_command_is_checked_by_some_test():
    unknown = []
    for command in TODAY:
        benchmark = command.words[0] == "python" and command.words[1].startswith("benchmarks/")
        known = command.words[0] in HANDLED_HERE or benchmark or command.words[:3] == THIN
        if not known and arguments_of_tsrec(command) is None:
            unknown.append(f"{command.place}: no test knows how to check `{command.text}`: add it to {__file__}")
    assert not unknown, "\n".join(unknown)


def test_commands_that_thin_raw_data_parse():
    called = [command for command in TODAY if command.words[:3] == THIN]
    assert called
    for command in called:
        given, of_beam = thin.parser().parse_known_args(command.words[3:])
        assert given.interactions_file and given.items_file and given.source
        assert {flag.partition("=")[0] for flag in of_beam} <= {"--runner", "--project", "--region", "--temp_location"}


# Shell scripts


def scripts_called(name):
    """The arguments of each call of launch/NAME."""
    return [(c, list(c.words[2:])) for c in TODAY if c.words[0] == "bash" and c.words[1] == f"launch/{name}"]


@functools.cache
def usage(script):
    """What a script prints for --help."""
    done = subprocess.run(["bash", script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def test_scripts_that_documents_call_are_there_and_explain_themselves():
    called = sorted({MADE.get(c.words[1], c.words[1]) for c in TODAY if c.words[0] == "bash"})
    assert "launch/local.sh" in called and "launch/tpu.sh" in called
    for script in called:
        assert (ROOT / script).is_file(), script
        assert re.search(rf"usage: bash ({re.escape(script)}|run\.sh)", usage(script))


def test_flags_of_the_scripts_are_their_own_or_those_of_tsrec(parse):
    known = set(re.findall(r"--[a-z0-9-]+", usage("launch/local.sh")))
    for command, arguments in scripts_called("local.sh"):
        others = [word for word in arguments if word.partition("=")[0] not in known]
        fault = parse(["run", "--config=configs/quickstart.py", "--workdir=runs/quickstart", *others])
        assert not fault, f"{command.place}: {fault}"


@pytest.mark.parametrize("command", [pytest.param(c, id=c.text) for c, a in scripts_called("tpu.sh") if a])
def test_commands_of_tpu_sh_do_a_dry_run_and_what_they_start_is_a_command_of_tsrec(command, parse, tmp_path):
    tsrec = list(command.words[command.words.index("--") + 1 :]) if "--" in command.words else []
    before = list(command.words[2 : len(command.words) - len(tsrec) - bool(tsrec)])
    rest = ["--", *(tsrec or ["run"])] if before[0] in ("run", "babysit") else []
    kept = {key: value for key, value in os.environ.items() if not key.startswith("TPU_")}
    exported = [word for c in TODAY if c.words[0] == "export" for word in c.words[1:]]
    variables = dict(word.split("=", 1) for word in exported if word.startswith("TPU_"))
    done = subprocess.run(
        ["bash", str(ROOT / "launch" / "tpu.sh"), *before, "--dry_run", *rest],
        env=kept | variables | {"TMPDIR": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command.place}: {done.stderr}"
    assert "gcloud compute tpus" in done.stdout
    if tsrec:
        assert parse([*tsrec, "--workdir=runs/quickstart", "--multi_host"]) == "", command.place


# Other programs: nothing is fetched or installed here


def test_what_is_to_be_installed_is_what_setup_cfg_names():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    text = (ROOT / "setup.cfg").read_text() + (ROOT / "launch" / "local.sh").read_text()
    for command in TODAY:
        if command.words[0] != "pip":
            continue
        for word in command.words[2:]:
            if extra := re.fullmatch(r"(?:tsrec_jax(?:-VERSION-py3-none-any\.whl)?|\.)\[(\w+)\]", word):
                assert setup.has_option("options.extras_require", extra[1]), f"{command.place}: no extra {extra[1]!r}"
            elif not word.startswith("-") and not word.startswith("faiss-cpu=="):  # of one benchmark alone
                assert word in text, f"{command.place}: {word}"


def test_requests_of_curl_go_to_routes_of_the_service():
    routes = {found[1].split("/")[1] for found in re.finditer(r'@routes\.\w+\("([^"]+)"', service_source())}
    assert {"recommend", "items", "health"} <= routes
    for command in TODAY:
        if command.words[0] != "curl":
            continue
        address = next(word for word in command.words if "://" in word)
        path = address.split("://")[1].partition("/")[2].removeprefix("v1/")
        assert re.split(r"[/?]", path)[0] in routes, command.place
        if "-d" in command.words:
            assert isinstance(json.loads(command.words[command.words.index("-d") + 1]), dict), command.place


def service_source():
    return "".join(path.read_text() for path in sorted((ROOT / "tsrec_jax" / "serving").glob("*_routes.py")))


# Settings and flags by name

DEFAULTS = settings.default_config()
SECTIONS = [key for key, value in DEFAULTS.items() if hasattr(value, "items")]
SETTING = re.compile(rf"(?:config\.)?((?:{'|'.join(SECTIONS)})(?:\.[a-z_0-9]+)+)(?:\s*=.*)?", re.S)


def exists(dotted):
    """Whether the config has the key or the section."""
    if dotted.startswith(f"{settings.ARMS}."):
        return True
    part = DEFAULTS
    for key in dotted.split("."):
        if not hasattr(part, "items") or key not in part:
            return False
        part = part[key]
    return True


def spans(path):
    """(line, text) of each piece of inline code."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"^ *```.*?^ *```\s*$", lambda block: "\n" * block[0].count("\n"), text, flags=re.S | re.M)
    for span in re.finditer(r"(?<!`)`((?:[^`\n]|\n(?!\s*\n))+)`(?!`)", text):
        yield text.count("\n", 0, span.start()) + 1, span[1]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_settings_that_a_document_names_exist(document):
    text = document.read_text(encoding="utf-8")
    historical = {word for c in commands_of(document) if c.commit for word in re.findall(r"config\.([\w.]+)", c.text)}
    named = {(found[1], None) for found in re.finditer(r"(?<![\w/])config\.([a-z_]+(?:\.[a-z_0-9]+)+)", text)}
    named |= {(found[1], line) for line, span in spans(document) if (found := SETTING.fullmatch(span))}
    files = ("csv", "json", "lock", "md", "npz", "py", "sh", "tex")
    missing = sorted(
        f"{document.name}{f':{line}' if line else ''}: {name}"
        for name, line in named
        if not exists(name) and name not in historical and name.rpartition(".")[2] not in files
    )
    assert not missing, "settings that there are not: " + ", ".join(missing)


@functools.cache
def known_flags():
    """Those of the verbs, the scripts and the benchmarks."""
    help_of_verbs = io.StringIO()
    with contextlib.redirect_stdout(help_of_verbs):
        assert main(["--help"]) == 0
    texts = [help_of_verbs.getvalue(), *map(usage, SCRIPTS_OF_LAUNCH)]
    return {flag for text in texts for flag in re.findall(r"--([a-zA-Z][\w-]*)", text)} | flags_of_benchmarks()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_flags_that_a_document_names_exist(document):
    known = known_flags()
    named = [(line, found[1]) for line, span in spans(document) for found in re.finditer(r"^--([\w-]+)", span)]
    missing = [f"{document.name}:{line}: --{flag}" for line, flag in named if flag not in known]
    assert not missing, "flags that nothing of ours takes: " + ", ".join(missing)


def test_the_readme_lists_the_verbs():
    sentence = re.search(r"The verbs are (.*?);", (ROOT / "README.md").read_text(), re.S)[1]
    assert re.findall(r"`(\w+)`", sentence) == list(VERBS)


# Reports


@pytest.mark.parametrize(
    "report", sorted((ROOT / "docs" / "results").rglob("*.md")), ids=lambda path: str(path.relative_to(ROOT / "docs"))
)
def test_a_report_names_the_command_that_makes_it(report):
    ours = [c for c in commands_of(report) if len(c.words) > 2 or c.words[0] == "bash"]
    assert [c for c in ours if c.words[0] not in OTHERS], "say which command reproduces the figures"


def test_a_command_of_older_code_names_a_commit_of_this_history():
    inside = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, check=False).returncode == 0
    for command in ALL:
        if command.commit and inside:
            done = subprocess.run(["git", "cat-file", "-e", command.commit], cwd=ROOT, check=False, capture_output=True)
            assert done.returncode == 0, f"{command.place}: no commit {command.commit}"


# The reader itself

PAGE = """# A page

`tsrec plan --chip=v5e` and `PYTHONPATH=. nice -n 5 python benchmarks/x.py [--out=FILE] "A=B" ...`
or `tsrec run --config.old=1` (runs at commit `0123abc`), not `tsrec_jax` and not `python 3.11`.

```bash
A=1 tsrec run --config=FILE.py \\
    --workdir=DIR   # a comment
curl URL -d '{
  "a": 1}' && bash launch/tpu.sh stop
```

```python
tsrec > python
```

    taskset -c 0 python -m tsrec_jax train
"""


def test_commands_are_read_from_blocks_and_inline_code_with_their_lines():
    assert list(of_markdown("page.md", PAGE)) == [
        Command("page.md:7", ("tsrec", "run", "--config=FILE.py", "--workdir=DIR"), ("A=1",)),
        Command("page.md:9", ("curl", "URL", "-d", '{\n  "a": 1}')),
        Command("page.md:9", ("bash", "launch/tpu.sh", "stop")),
        Command("page.md:17", ("python", "-m", "tsrec_jax", "train")),
        Command("page.md:3", ("tsrec", "plan", "--chip=v5e")),
        Command("page.md:3", ("python", "benchmarks/x.py", "--out=FILE", "A=B"), ("PYTHONPATH=.",)),
        Command("page.md:4", ("tsrec", "run", "--config.old=1"), commit="0123abc"),
    ]
    with pytest.raises(UnknownProgram, match=r"page.md:2: 'brew'"):
        list(of_markdown("page.md", "```bash\nbrew install\n```"))
