"""A folder without SIDs: what is read of it, what is refused, and what is ignored."""

import csv
import json

import numpy as np
import pytest

from tsrec_jax.data.dataset import read_dataset, write_dataset
from tsrec_jax.data.faults import DatasetError
from tsrec_jax.data.text_folder import read_texts
from tsrec_jax.shop.shop import make_shop


@pytest.fixture
def folder(tmp_path):
    """A folder as `prepare` leaves it: no SIDs, no titles in the rows."""
    items = {"B1": {"title": "pen"}, "B'2": {"title": "ink", "brand": "Alder", "categories": ["desk", "writing"]}}
    (tmp_path / "Shop.item.json").write_text(json.dumps(items))
    for split, rows in {"train": [("U1", ["B1"], "B'2")], "valid": [("U1", ["B1", "B'2"], "B1")]}.items():
        with (tmp_path / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("user_id", "history_item_id", "item_id"))
            writer.writerows(rows)
    return tmp_path


def test_texts_and_interactions_are_read_in_file_order(folder):
    texts = read_texts(folder)
    assert [item.id for item in texts.items] == ["B1", "B'2"]
    assert (texts.items[1].brand, texts.items[1].categories) == ("Alder", "desk writing")
    assert texts.splits["valid"].histories == ((0, 1),)
    assert texts.splits["valid"].targets.tolist() == [0]
    assert set(texts.splits) == {"train", "valid"}


def test_a_dataset_folder_is_read_without_its_sids_even_if_the_rows_disagree_with_them(tmp_path):
    shop = make_shop(0, num_items=80, num_users=20)
    write_dataset("shop", shop.catalogue, shop.splits, shop.token_descriptions, tmp_path / "shop")
    for name in ("shop.index.json", "shop.info.txt", "shop.description_keywords.json"):
        (tmp_path / "shop" / name).unlink()
    texts = read_texts(tmp_path / "shop")
    assert texts.items == shop.catalogue.items
    for split, rows in shop.splits.items():
        assert texts.splits[split].histories == rows.histories
        assert np.array_equal(texts.splits[split].targets, rows.targets)
    with pytest.raises(DatasetError, match=r"index\.json: file is missing"):
        read_dataset(tmp_path / "shop")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("U1,['B1'],B'2", "U1,['B1'],B9", "row 2: item 'B9' is not in the catalogue"),
        ("['B1']", "['B1'", "row 2: history_item_id is not a Python list"),
        ("['B1']", "[]", "row 2: the history is empty"),
        ("history_item_id", "history", "columns are missing: history_item_id"),
        (
            "user_id,history_item_id,item_id",
            "user_id;history_item_id;item_id",
            "its columns are 'user_id;history_item_id;item_id'; it separates them by ';', write it with commas",
        ),
    ],
)
def test_a_fault_is_named_with_its_row(folder, old, new, words):
    file = folder / "train.csv"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(DatasetError, match=words.replace("[", r"\[")):
        read_texts(folder)


@pytest.mark.parametrize("word", ["nan", "N/A", r"\N"])
def test_rows_without_a_user_are_not_those_of_one_user(folder, word):
    with (folder / "train.csv").open("a", newline="") as file:
        csv.writer(file).writerows([(word, ["B1"], "B'2"), (word, ["B1", "B'2"], "B1")])
    (folder / "valid.csv").write_text((folder / "valid.csv").read_text().replace("U1", word))
    texts = read_texts(folder)
    users = [user for rows in texts.splits.values() for user in rows.users]
    assert len(set(users)) == len(users) == 4 and users[1] == f"{word} (train, row 3)"
    assert [note.partition(": ")[2].partition(" have")[0] for note in texts.notes] == ["2 of 3 rows", "1 of 1 rows"]
    assert all(note.endswith("each is read as the row of a user of its own") for note in texts.notes)


def test_the_hash_follows_the_contents_and_missing_files_are_named(folder):
    first = read_texts(folder).data_hash
    assert read_texts(folder).data_hash == first
    (folder / "train.csv").write_text((folder / "train.csv").read_text().replace("U1", "U2"))
    assert read_texts(folder).data_hash != first
    (folder / "valid.csv").unlink()
    with pytest.raises(DatasetError, match=r"valid\.csv: file is missing"):
        read_texts(folder)
