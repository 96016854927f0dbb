"""Raw data that Apache Beam has thinned makes the folder that the raw data would have made, on its local runner."""

import csv
import dataclasses
import random

import pytest

pytest.importorskip("apache_beam", reason="needs the extra `beam`")

from apache_beam.options.pipeline_options import PipelineOptions

from tsrec_jax.errors import UserError
from tsrec_jax.prepare.places import find_files
from tsrec_jax.prepare.preparation import prepare
from tsrec_jax.prepare.raw import RawSource
from tsrec_jax.prepare.settings import PrepareSettings
from tsrec_jax.prepare.thin import FACTS, SETTINGS, main, thin

HERE = PipelineOptions(["--runner=FnApiRunner"])
CHANGES = {"k_core": 4, "start": "1970-01-01T00:00:05", "max_title_words": 3, "max_unreadable": 1, "max_unmatched": 1}


def write(path, header, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


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


def test_what_is_thinned_makes_the_same_folder(raw, tmp_path):
    counts = thin(raw, str(tmp_path / "thin"), HERE)
    assert counts["read"] == 610 and 0 < counts["left"] < counts["in the window"] < 610
    assert (tmp_path / "thin" / FACTS).exists()
    thinned = {f"{name}_file": str(tmp_path / "thin" / f"{name}-*.csv.gz") for name in ("interactions", "items")}
    wanted = prepared(raw, tmp_path / "wanted")
    assert len(wanted["train.csv"]) > 500
    assert prepared(dataclasses.replace(raw, **thinned), tmp_path / "found") == wanted
    with pytest.raises(UserError, match="something already"):
        thin(raw, str(tmp_path / "thin"), HERE)


def test_raw_data_that_prepare_refuses_are_refused(raw, tmp_path, capsys):
    flags = [f"--{name}={getattr(raw, name)}" for name in SETTINGS if not isinstance(getattr(raw, name), bool)]
    assert main([*flags, "--max_unmatched=0.01", f"--out={tmp_path / 'thin'}", "--runner=FnApiRunner"]) == 2
    assert "interactions have no item with a usable title" in capsys.readouterr().err
    assert not (tmp_path / "thin" / FACTS).exists()


def test_a_flag_that_neither_this_program_nor_beam_knows_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([f"--out={tmp_path / 'thin'}", "--k-core=3", "--runner=FnApiRunner"])
    assert "nor of Beam: k_core" in capsys.readouterr().err
