"""docs/dataset.md: the files it shows are one folder, which reads as it says."""

import csv
import json
import pathlib
import re

import pytest

from tsrec_jax.data.dataset import read_dataset
from tsrec_jax.data.inspection import inspect_folder
from tsrec_jax.data.row_facts import out_of_time
from tsrec_jax.data.text_folder import read_texts

DOCUMENT = pathlib.Path(__file__).resolve().parents[2] / "docs" / "dataset.md"


@pytest.fixture
def folder(tmp_path):
    shown = re.findall(r"^## `([^`]+)`\n.*?^```\w+\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    for name, text in shown:
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_files_that_are_shown_are_a_complete_folder_without_a_fault(folder):
    found = read_dataset(folder)
    assert found.catalogue.items[0].description == "Holds 2 litres. Dishwasher safe."
    assert found.catalogue.items_of_sid["<a_0><b_0><c_0>"] == (0, 3)
    assert found.splits["train"].histories == ((0,), (2,), (0, 1), (2, 2))
    assert found.splits["valid"].targets.tolist() == [3]
    assert set(found.token_descriptions) == set(found.catalogue.tokens)
    assert found.notes == () and out_of_time(found.splits["train"]) == ""
    assert inspect_folder(folder) == 0


def test_an_entry_of_a_path_as_the_document_writes_it_reads(folder, capsys):
    words = folder / "Shop.description_keywords.json"
    entries = json.loads(words.read_text())
    key, value = re.search(r"it has `(\"path\"): (\[.+?\])` for `token`", DOCUMENT.read_text()).groups()
    entries[3] = {"description": "Glass lids.", "keywords": ["lid"], json.loads(key): json.loads(value)}  # for <b_1>
    words.write_text(json.dumps(entries))
    assert read_dataset(folder).token_descriptions["<a_0><b_1>"].keywords == ("lid",)
    assert inspect_folder(folder) == 0
    assert "words: 5 tokens and 1 paths (description_keywords.json)" in capsys.readouterr().out.splitlines()


def test_a_folder_without_sids_needs_the_files_and_columns_that_the_document_names(folder):
    complete = read_dataset(folder)
    for name in ("Shop.index.json", "Shop.info.txt", "Shop.description_keywords.json"):
        (folder / name).unlink()
    columns = re.search(r"A folder without SIDs needs `(\w+)`, `(\w+)` and `(\w+)` only", DOCUMENT.read_text()).groups()
    for name in ("train.csv", "valid.csv"):
        with (folder / name).open(newline="") as file:
            rows = list(csv.DictReader(file))
        with (folder / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
    found = read_texts(folder)
    assert found.items == complete.catalogue.items
    assert found.splits == complete.splits
