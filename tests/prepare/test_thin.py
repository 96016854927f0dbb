"""Raw data that Apache Beam has thinned makes the folder that the raw data would have made, on its local runner."""

import csv
import dataclasses
import importlib.util
import json
import os
import pathlib
import random
import subprocess

import pytest

from tsrec_jax.errors import UserError
from tsrec_jax.prepare.places import find_files
from tsrec_jax.prepare.preparation import prepare
from tsrec_jax.prepare.raw import RawSource
from tsrec_jax.prepare.settings import PrepareSettings
from tsrec_jax.prepare.thin import main
from tsrec_jax.prepare.thin_facts import FACTS, SETTINGS

HAS_BEAM = importlib.util.find_spec("apache_beam") is not None
needs_beam = pytest.mark.skipif(not HAS_BEAM, reason="needs Beam: the first test runs it, where TSREC_BEAM is set")
CHANGES = {"k_core": 4, "start": "1970-01-01T00:00:05", "max_title_words": 3, "max_unreadable": 1, "max_unmatched": 1}
NAMED = ("--source=tables", "--interactions_file=log.csv", "--items_file=items.csv")


def write(path, header, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.mark.skipif(
    HAS_BEAM or "TSREC_BEAM" not in os.environ, reason="the tests below run here, or TSREC_BEAM is not set"
)
def test_these_tests_pass_where_beam_is():
    command = [os.environ["TSREC_BEAM"], "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "", __file__]
    root = pathlib.Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 passed, 1 skipped" in done.stdout


def test_without_beam_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main([*NAMED, "--out=thin"]) == 2
    assert capsys.readouterr().err == "thin: needs Apache Beam, which is not installed: pip install 'tsrec_jax[beam]'\n"


def thin(settings, out):
    """Thins on the local runner."""
    from apache_beam.options.pipeline_options import PipelineOptions

    from tsrec_jax.prepare import thin_pipeline

    return thin_pipeline.thin(settings, str(out), PipelineOptions(["--runner=FnApiRunner"]))


def thinned(settings, out):
    """The settings of `prepare` for what was thinned."""
    files = {f"{name}_file": str(out / f"thinned-{name}-*.csv.gz") for name in ("interactions", "items")}
    return dataclasses.replace(settings, **files)


@pytest.fixture
def raw(tmp_path):
    """Settings that name two logs and two item files, in which all that is ever dropped occurs."""
    draw = random.Random(3)
    log = [(f"u{int(40 * draw.random() ** 2)}", f"i{int(30 * draw.random() ** 2)}", 60 - n // 10) for n in range(600)]
    titles = [(f"i{n}", "<b>Saw</b>\r\n" if n % 7 else "", 'one, "two"\nthree') for n in range(28)]
    titles += [("i0", "Late &amp; usable", "x"), ("i8", "far too many words for a title", "y")]
    write(tmp_path / "log_1.csv", ("user", "item", "timestamp"), [*log[:300], ("u1", "", 5)])
    write(tmp_path / "log_2.csv", ("user", "item", "timestamp"), log[290:])  # some lines again
    write(tmp_path / "items_1.csv", ("item", "title", "description"), titles[:20])
    write(tmp_path / "items_2.csv", ("item", "title", "description"), titles[20:])
    files = {"interactions_file": f"{tmp_path}/log_*.csv", "items_file": f"{tmp_path}/items_*.csv"}
    return PrepareSettings(source="tables", **files, **CHANGES, ties="file")


def prepared(settings, folder):
    """The files of the folder that settings make."""
    files = [find_files(place, "key") for place in (settings.interactions_file, settings.items_file)]
    prepare(RawSource("tables", *files), settings, "Shop", folder)
    return {path.name: path.read_text("utf-8") for path in folder.iterdir() if not path.name.startswith("prepare.")}


@needs_beam
def test_what_is_thinned_makes_the_same_folder(raw, tmp_path):
    counts = thin(raw, tmp_path / "thin")
    assert counts["read"] == 610 and 0 < counts["left"] < counts["in the window"] < 610
    facts = json.loads((tmp_path / "thin" / FACTS).read_text())
    assert facts["interactions"] == counts and facts["settings"]["k_core"] == 4
    wanted = prepared(raw, tmp_path / "wanted")
    assert len(wanted["train.csv"]) > 500
    assert prepared(thinned(raw, tmp_path / "thin"), tmp_path / "found") == wanted
    with pytest.raises(UserError, match="k_core=3 is below 4"):
        prepared(dataclasses.replace(thinned(raw, tmp_path / "thin"), k_core=3), tmp_path / "looser")
    with pytest.raises(UserError, match="thin is not empty"):
        thin(raw, tmp_path / "thin")
    with pytest.raises(UserError, match="was thinned before; thin the raw files again under these settings"):
        thin(dataclasses.replace(thinned(raw, tmp_path / "thin"), k_core=5), tmp_path / "thinner")


@needs_beam
@pytest.mark.parametrize("newest_first", [False, True])
def test_what_only_all_the_raw_lines_tell_is_known_of_what_is_left(raw, tmp_path, newest_first):
    """Every user has one day, so that the order of the users, which Beam changes, says which way the file runs."""
    draw = random.Random(5)
    log = [(f"u{7919 * day % 60}", f"i{draw.randrange(28)}", 86_400 * day) for day in range(60) for _ in range(6)]
    for number in (1, 2):
        (tmp_path / f"log_{number}.csv").unlink()
    write(tmp_path / "log_1.csv", ("user", "item", "timestamp"), log[::-1] if newest_first else log)
    raw = dataclasses.replace(raw, ties="auto", k_core=3, start="")
    thin(raw, tmp_path / "thin")
    assert json.loads((tmp_path / "thin" / FACTS).read_text())["newest_first"] == newest_first
    wanted = prepared(raw, tmp_path / "wanted")
    assert prepared(thinned(raw, tmp_path / "thin"), tmp_path / "found") == wanted


@needs_beam
def test_raw_data_that_prepare_refuses_are_refused(raw, tmp_path, capsys):
    flags = [f"--{name}={getattr(raw, name)}" for name in SETTINGS if not isinstance(getattr(raw, name), bool)]
    assert main([*flags, "--max_unmatched=0.01", f"--out={tmp_path / 'thin'}", "--runner=FnApiRunner"]) == 2
    assert "interactions have no item with a usable title" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"thin\.json is not there: thinning has not come to its end"):
        prepared(thinned(raw, tmp_path / "thin"), tmp_path / "found")


@needs_beam
def test_a_flag_that_neither_this_program_nor_beam_knows_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([*NAMED, f"--out={tmp_path / 'thin'}", "--k-core=3", "--runner=FnApiRunner"])
    assert "nor of Beam: k_core" in capsys.readouterr().err


def test_files_that_are_not_named_are_asked_for_by_their_flags(capsys):
    with pytest.raises(SystemExit):
        main(["--source=tables", "--out=thin"])
    assert "required: --interactions_file, --items_file" in capsys.readouterr().err


@needs_beam
@pytest.mark.parametrize("untitled", [True, False])
def test_titles_are_missed_by_distinct_interactions_as_prepare_counts_them(tmp_path, untitled):
    """Either kind of line stands five times over: of the distinct ones, 6 of 30 have no title."""
    log = [(f"u{n % 8}", f"i{n % 4}", n) for n in range(24)]
    log += [(f"u{n}", "nameless", 90 + n) for n in range(6)]
    log += 4 * [row for row in log if (row[1] == "nameless") == untitled]
    write(tmp_path / "log.csv", ("user", "item", "timestamp"), log)
    write(tmp_path / "items.csv", ("item", "title"), [(f"i{n}", f"Saw {n}") for n in range(4)])
    files = {"interactions_file": f"{tmp_path}/log.csv", "items_file": f"{tmp_path}/items.csv"}
    settings = PrepareSettings(source="tables", **files, k_core=1, max_unmatched=0.2)
    thin(settings, tmp_path / "thin")
    prepared(settings, tmp_path / "folder")
    for make in (thin, prepared):
        with pytest.raises(UserError, match=r"6 of 30 interactions have no item with a usable title"):
            make(dataclasses.replace(settings, max_unmatched=0.19), tmp_path / f"refused by {make.__name__}")
