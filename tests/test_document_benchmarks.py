"""Benchmarks that documents give: their flags are those of today's parsers, and each runs from end to end, tiny.

A new benchmark needs a row in TINY: flags with which it takes a few seconds. FOLDER stands for a folder of the test,
RUN for the workdir of a finished run of the embedded default.
"""

import argparse
import os
import pathlib
import re
import runpy
import sys

import jax
import pytest

from benchmarks.decoding.threads import PINNED
from tests.document_commands import DOCUMENTS, REPORTS, ROOT, SCRIPTS, commands_of

BENCHMARKS = {path.name: path for path in sorted((ROOT / "benchmarks").glob("*.py")) if "__main__" in path.read_text()}
BASE = "RUN/pretrained"
TINY = {
    "adapter_forms.py": ["--workdir=RUN", "--rows=8", "--out=FOLDER/report.md"],
    "baselines.py": [
        *("--dataset=RUN/dataset", "--baselines=popularity;ease", "--workdir=FOLDER/kept"),
        *("--level=item", "--out=FOLDER/report.md"),
    ],
    "catalogue.py": ["--changes=40", "--kills=1", "--items=2000", "--repeats=2", "--out=FOLDER/report.md"],
    "hf_parity.py": ["--export=RUN/export", "--dataset=RUN/dataset", "--rows=2", "--beams=4"],
    "path_words.py": ["--dataset=RUN/dataset", "--out=FOLDER/report.md"],
    "prepare.py": ["--reviews=2000", "--folder=FOLDER/raw"],
    "pretrain.py": ["--folder=shop=RUN/dataset", "--sizes=64x1x400", "--steps=1", "--out=FOLDER/report.md"],
    "rl.py": [
        "--prompts=2",
        "--length=8",
        "--beams=4",
        "--width=16",
        "--items=60",
        "--repeats=1",
        "--out=FOLDER/report.md",
    ],
    "rq_kmeans.py": ["--items=600", "--features=16", "--repeats=1", "--out=FOLDER/report.md"],
    "sid_init.py": [f"--model={BASE}", "--dataset=RUN/dataset"],
    "sid_reports.py": ["--out=FOLDER/report", "one=RUN", "two=RUN"],
    "sids_and_words.py": ["--out=FOLDER/report", "--run=one=RUN", "--run=two=RUN"],
    "start_loss.py": [
        *(f"--model={BASE}", "--dataset=RUN/dataset", "--rows=4", "--shuffles=1"),
        "--out=FOLDER/report.md",
    ],
    "train.py": [
        *("--dataset=RUN/dataset", f"--base={BASE}", "--layers=1", "--rows=4", "--steps=2", "--without_start"),
        *("--systems=transformers;ours", "--workdir=FOLDER/kept", "--out=FOLDER/report"),
    ],
    "train_growth.py": ["--only=tiny", "--out=FOLDER/report"],
    "weights.py": [
        *("--width=64", "--mlp=64", "--layers=1", "--rows=1024", "--length=8", "--beams=4"),
        *("--repeats=1", "--out=FOLDER/report.md"),
    ],
}
# Run from end to end by another test.
ELSEWHERE = {
    "accelerator.py": "tests/launch/test_pack.py::"
    "test_a_bare_machine_measures_all_parts_and_goes_on_where_it_was_killed",
    "decode.py": "tests/benchmarks/test_decode.py::test_the_whole_benchmark_reports_and_goes_on_after_a_cut",
    "serve.py": "tests/serving/test_real_service.py::test_the_benchmark_of_the_service_reports_from_end_to_end",
    "start.py": "tests/benchmarks/test_start.py::test_starts_are_timed_in_pairs_of_which_the_second_has_programs",
}
SERVICE = ("uvicorn", "fastapi")
NEEDS = {"serve.py": SERVICE, **dict.fromkeys(("decode.py", "hf_parity.py", "rl.py", "train.py"), ("torch",))}
COMMANDS = [
    command
    for path in (*DOCUMENTS, *SCRIPTS, *REPORTS)
    for command in commands_of(path)
    if command.words[0] == "python" and command.words[1].startswith("benchmarks/") and not command.commit
]


def flags_of_benchmarks():
    """The names of all flags of all benchmarks."""
    texts = [path.read_text() for path in BENCHMARKS.values()]
    return {flag for text in texts for flag in re.findall(r'add_argument\(\s*"--([\w-]+)"', text)}


def need(name):
    """Skips where a package is absent that the benchmark needs."""
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package, reason=f"benchmarks/{name} needs {package}")


class Parsed(Exception):
    """Ends a benchmark as soon as its arguments are read."""


@pytest.mark.parametrize("name", sorted({pathlib.Path(command.words[1]).name for command in COMMANDS}))
def test_documented_flags_are_those_of_the_benchmark(name, monkeypatch, capsys):
    assert name in BENCHMARKS, f"documents give benchmarks/{name}, which is not there"
    need(name)
    parse = argparse.ArgumentParser.parse_args

    def and_end(parser, *arguments):
        raise Parsed(parse(parser, *arguments))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", and_end)
    for command in COMMANDS:
        if pathlib.Path(command.words[1]).name != name or len(command.words) == 2:
            continue
        monkeypatch.setattr(sys, "argv", list(command.words[1:]))
        try:
            with pytest.raises(Parsed):
                runpy.run_path(str(BENCHMARKS[name]), run_name="__main__")
        except SystemExit:
            pytest.fail(f"{command.place}: {command.text}\n{capsys.readouterr().err.splitlines()[-1]}")


def test_benchmarks_that_import_each_other_are_given_with_their_path():
    missing = [
        f"{command.place}: PYTHONPATH=. {command.text}"
        for command in COMMANDS
        if len(command.words) > 2
        and re.search("^from benchmarks", BENCHMARKS[pathlib.Path(command.words[1]).name].read_text(), re.M)
        and "sys.path.insert" not in BENCHMARKS[pathlib.Path(command.words[1]).name].read_text()
        and "PYTHONPATH=." not in command.variables
    ]
    assert not missing, "these find no module `benchmarks` as they stand; write\n" + "\n".join(missing)


def test_every_benchmark_has_a_row_here():
    assert not set(TINY) & set(ELSEWHERE)
    assert sorted([*TINY, *ELSEWHERE]) == list(BENCHMARKS), f"give each benchmark tiny flags in TINY of {__file__}"
    for name, test in ELSEWHERE.items():
        file, _, function = test.partition("::")
        assert f"def {function}(" in (ROOT / file).read_text(), name


@pytest.mark.filterwarnings("ignore")  # torch and transformers warn about themselves
@pytest.mark.parametrize("name", TINY)
def test_a_benchmark_runs_from_end_to_end(name, quickstart_run, tmp_path, monkeypatch, capsys):
    need(name)
    arguments = [part.replace("RUN", str(quickstart_run)).replace("FOLDER", str(tmp_path)) for part in TINY[name]]
    precision = jax.config.jax_default_matmul_precision
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [f"benchmarks/{name}", *arguments])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    monkeypatch.setenv("XLA_FLAGS", flags)  # of processes that it starts
    monkeypatch.setenv(PINNED, ",".join(map(str, sorted(os.sched_getaffinity(0)))))  # it would start itself again
    try:
        runpy.run_path(f"benchmarks/{name}", run_name="__main__")
    except SystemExit as end:  # of those that state an exit code
        assert not end.code, end.code
    finally:
        jax.config.update("jax_default_matmul_precision", precision)
    assert capsys.readouterr().out.strip()
    for report in (tmp_path / "report.md", tmp_path / "report"):
        if f"--out={report}" in arguments:
            text = report.with_suffix(".md").read_text()
            assert text.startswith("# ")
            assert f"python benchmarks/{name} " in text, "a report states its command"
