"""A user who buys one item again and again makes equal rows: all are kept and counted, from raw data to sequences."""

import ast
import collections
import csv

import numpy as np
import pytest

from tsrec_jax.data.catalogue import Catalogue, Item
from tsrec_jax.data.dataset import read_dataset, write_dataset
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.row_facts import keys
from tsrec_jax.data.text_folder import read_texts
from tsrec_jax.data.user_sequences import user_sequences
from tsrec_jax.prepare.preparation import prepare
from tsrec_jax.prepare.raw import RawSource
from tsrec_jax.prepare.settings import PrepareSettings

PURCHASES, LONGEST = 12, 10
SPLITS = ("train", "valid", "test")
LENGTHS = [min(n, LONGEST) for n in range(1, PURCHASES)]  # of the histories: 1 to 10, and 10 again
CATALOGUE = Catalogue((Item("pen", "Pen"), Item("cup", "Cup")), (("<a_0>",), ("<a_1>",)))


@pytest.fixture
def folder(tmp_path):
    """Every split has the same twelve purchases of one user."""
    rows = Interactions(("u",) * len(LENGTHS), tuple((0,) * n for n in LENGTHS), np.zeros(len(LENGTHS), np.int32))
    write_dataset("Shop", CATALOGUE, dict.fromkeys(SPLITS, rows), (), tmp_path / "shop")
    return tmp_path / "shop"


@pytest.mark.parametrize("read", [read_dataset, read_texts])
def test_equal_rows_of_every_split_are_read_and_counted(folder, read):
    found = read(folder)
    assert [[len(history) for history in found.splits[split].histories] for split in SPLITS] == [LENGTHS] * 3
    repeats = [f"{folder / split}.csv: 1 of 11 rows repeat an earlier one; all are kept" for split in SPLITS]
    shared = [f"{folder / later}.csv: 11 of 11 rows stand in {earlier}.csv too" for earlier, later in
              (("train", "valid"), ("train", "test"), ("valid", "test"))]  # fmt: skip
    assert len(found.notes) == 6
    assert all(any(note.startswith(words) for note in found.notes) for words in (*repeats, *shared))


def test_each_of_the_equal_rows_is_learned_once(folder):
    found = user_sequences(read_dataset(folder).splits["train"])
    assert sorted(row for sequence in found for row in sequence.rows) == list(range(len(LENGTHS)))
    assert [len(sequence.items) for sequence in found] == [11, 11]


def test_prepare_keeps_and_counts_them_in_every_split(tmp_path):
    """The first user buys by the first date, the second between the dates, the third after them."""
    log = [(f"u{user}", "pen", 100 * user + n) for user in range(3) for n in range(PURCHASES)]
    for name, rows in (("log", [("user", "item", "timestamp"), *log]), ("items", [("item", "title"), ("pen", "Pen")])):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    settings = PrepareSettings(
        k_core=1, max_history=LONGEST, split="date", valid_from="1970-01-01T00:01:40", test_from="1970-01-01T00:03:20"
    )
    source = RawSource("tables", tmp_path / "log.csv", tmp_path / "items.csv")
    summary = prepare(source, settings, "Shop", tmp_path / "made")
    assert [split.rows for split in summary.splits] == [len(LENGTHS)] * 3
    assert summary.repeated_rows == 3
    assert "3 rows have the user, history and target of an earlier one" in (tmp_path / "made/prepare.md").read_text()
    for user, rows in enumerate(read_texts(tmp_path / "made").splits.values()):
        assert collections.Counter(keys(rows)) == collections.Counter((f"u{user}", (0,) * n, 0) for n in LENGTHS)


def test_the_beauty_benchmark_comes_out_whole(tmp_path, shared_data):
    """Every interaction but each user's first is a target: the last of a user in test, the one before in valid."""
    tables = shared_data.parent / "beauty"
    if not tables.is_dir():
        pytest.skip("needs ../shared/data/beauty, which is not here")
    with (tables / "interactions.csv").open() as file:
        sequences = collections.defaultdict(list)
        for row in csv.DictReader(file):
            sequences[row["user"]].append(row["item"])  # the file is in order
    assert (len(sequences), sum(map(len, sequences.values()))) == (22_363, 198_502)
    settings = PrepareSettings(k_core=1, max_history=20, split="leave_one_out")
    source = RawSource("tables", tables / "interactions.csv", tables / "items.csv")
    summary = prepare(source, settings, "Beauty", tmp_path / "made")
    assert (summary.num_items, sum(step.dropped for step in summary.steps)) == (12_101, 0)
    for split, back in (("test", 1), ("valid", 2)):
        with (tmp_path / f"made/{split}.csv").open() as file:
            rows = {row["user_id"]: row for row in csv.DictReader(file)}
        assert len(rows) == 22_363
        for user, items in sequences.items():
            before = items[:-back]
            assert rows[user]["item_id"] == items[-back]
            assert ast.literal_eval(rows[user]["history_item_id"]) == before[-20:]
    assert sum(split.rows for split in summary.splits) == 198_502 - 22_363
