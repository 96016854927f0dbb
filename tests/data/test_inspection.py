"""The verb `check`: what it says of a folder with and without SIDs, and every fault, without JAX."""

import contextlib
import csv
import io
import json
import subprocess
import sys

import pytest

from tsrec_jax.data.faults import DatasetError
from tsrec_jax.data.inspection import inspect_folder
from tsrec_jax.data.text_folder import read_texts
from tsrec_jax.main import main


def inspected(folder, **options):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        faults = inspect_folder(folder, **options)
    return faults, printed.getvalue().removesuffix("\n")


def test_a_folder_with_sids_is_described(folder):
    assert inspected(folder) == (
        0,
        f"""{folder}: Shop: texts, interactions and SIDs
items: 5, 0 of them in no row; 3 with description, 3 with brand, 3 with categories
split  rows  users  targets  cold targets  had before  equal rows  history: least  median  most
train     4      3        4                         0           0               1       2     3
valid     2      2        2             0           0           0               2       3     4
 test     1      1        1             0           0           0               3       3     3
levels: 3, with 3, 3, 3 codes
SIDs: 4 of 5 items; 2 items share one, 2 at most
words: 9 tokens (description_keywords.json)
histories: oldest first (3 of 5 rows of users with several continue another one at the end, 0 at the beginning)
rows of train: nothing speaks against the order of time
0 faults""",
    )


def test_a_folder_without_sids_is_described_with_repeats_overlaps_cold_targets_and_ties(tmp_path):
    items = {name: {"title": name} for name in ("A", "B", "C", "D")} | {"E": {"title": "nan"}}
    (tmp_path / "Toy.item.json").write_text(json.dumps(items))
    splits = {"train": [("u", "A", "B"), ("u", "A", "B"), ("v", "B", "A")], "valid": [("u", "A", "B"), ("v", "C", "C")]}
    for split, rows in splits.items():
        with (tmp_path / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("user_id", "history_item_id", "item_id"), *((u, [h], t) for u, h, t in rows)])
    summary = {"ties": {"order": "file"}, "splits": [{"name": "train", "tied": 0.25}, {"name": "valid", "tied": 0.0}]}
    (tmp_path / "prepare.json").write_text(json.dumps(summary))
    faults, text = inspected(tmp_path)
    assert faults == 0
    for line in (
        f"{tmp_path}: Toy: texts and interactions, no SIDs",
        "items: 5, 2 of them in no row; 0 with description, 0 with brand, 0 with categories",
        "train     3      2        2                         0           1               1       1     1",
        "valid     2      2        2             1           1           0               1       1     1",
        "histories: unknown, since no row continues another one (0 of 5 rows of users with several continue",
        "ties (prepare.json): 25.0% of train, 0.0% of valid have a target that shares its second with another item",
        "train.csv: 1 of 3 rows repeat an earlier one; all are kept",
        "valid.csv: 1 of 2 rows stand in train.csv too",
        "1 of 5 titles are what programs write where there is none, such as nan or N/A ('E')",
    ):
        assert line in text, text
    assert read_texts(tmp_path).splits["train"].users == ("u", "u", "v")


def test_every_fault_is_listed_and_reading_goes_on_behind_it(folder):
    with (folder / "train.csv").open("a") as file:
        file.writelines(f"u{row},x\n" for row in range(14))
    index = json.loads((folder / "Shop.index.json").read_text())
    del index["p3"]
    (folder / "Shop.index.json").write_text(json.dumps(index))
    (folder / "Shop.description_keywords.json").write_text("[")
    (folder / "test.csv").write_bytes(b"\xff\xfe")
    faults, text = inspected(folder)
    assert text.count("\nfault: ") == faults == 17
    assert all(f"train.csv, row {row}: has another number of fields" in text for row in range(6, 20))
    assert "item 'p3': has no SID" in text
    assert "test.csv, row 1: not UTF-8 (byte 0xff); save the file as UTF-8" in text
    assert "description_keywords.json: not valid JSON" in text
    assert "\ntrain     4      3" in text


def test_an_item_file_that_cannot_be_read_is_one_fault(folder):
    (folder / "Shop.item.json").write_text("{")
    faults, text = inspected(folder)
    assert faults == 1
    assert "Shop.item.json: not valid JSON" in text


def test_a_folder_without_an_item_file_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"expected one NAME\.item\.json, found none .*; tsrec prepare makes one"):
        inspect_folder(tmp_path)


def test_the_verb_takes_a_folder_and_ends_with_two_where_there_is_a_fault(folder, capsys):
    assert main(["check", str(folder)]) == 0
    assert capsys.readouterr().out.endswith("\n0 faults\n")
    (folder / "Shop.info.txt").unlink()
    assert main(["check", str(folder)]) == 2
    printed = capsys.readouterr().out
    assert f"fault: {folder / 'Shop.info.txt'}: file is missing\n1 fault\n" in printed


def test_the_verb_takes_the_settings_of_a_config(folder, tmp_path, capsys):
    config = tmp_path / "config.py"
    config.write_text(
        "from tsrec_jax.settings import default_config\n\n\ndef get_config():\n    return default_config()\n"
    )
    lines = (folder / "train.csv").read_text().splitlines()
    with (folder / "test.csv").open("a") as file:
        file.write(lines[1] + "\n")
    given = ["check", f"--config={config}", f"--config.dataset.path={folder}"]
    assert main(given) == 0
    assert main([*given, "--config.dataset.overlaps=refuse"]) == 2
    assert "fault: " in capsys.readouterr().out
    assert main(["check", str(folder), "--k=3"]) == 2
    assert "--k is for the verb recommend, not for check" in capsys.readouterr().err
    for arguments in (["check"], [*given, str(folder)], ["check", "a", "b"]):
        assert main(arguments) == 2
        assert "check takes one folder" in capsys.readouterr().err


def test_reading_a_folder_needs_no_jax(folder):
    loaded = "{'jax', 'transformers'} & set(sys.modules)"
    code = (
        "import pathlib, sys; from tsrec_jax.data.inspection import inspect_folder; "
        f"inspect_folder(pathlib.Path({str(folder)!r})); sys.exit(bool({loaded}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
