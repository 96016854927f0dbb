"""Raw files by a pattern or at an address: which they are, that they are read as one, and what is said of a bad one."""

import gzip

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.prepare.test_raw import META_2023, REVIEW_2023, as_lines
from tests.said import said
from tsrec_jax.errors import UserError
from tsrec_jax.pipeline.prepare import prepared_folder
from tsrec_jax.prepare.places import find_files, version_of
from tsrec_jax.prepare.raw import RawSource, read_raw
from tsrec_jax.prepare.settings import PrepareSettings


@pytest.fixture
def store():
    """An empty object store at memory://."""
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    return MemoryFileSystem()


def reviews(user, items, first):
    """Gzipped reviews of one user, a second apart."""
    return gzip.compress(as_lines([
        {**REVIEW_2023, "user_id": user, "parent_asin": item, "timestamp": 1000 * (first + number)}
        for number, item in enumerate(items)
    ]))  # fmt: skip


def fill(store):
    """Reviews of two users in two files, and their items in a third."""
    store.pipe("/raw/b/reviews_2.jsonl.gz", reviews("U2", "CBA", 50))
    store.pipe("/raw/a/reviews_1.jsonl.gz", reviews("U1", "ABCD", 10))
    store.pipe("/raw/meta.jsonl.gz", gzip.compress(as_lines([{**META_2023, "parent_asin": item} for item in "ABCD"])))
    return PrepareSettings(
        source="amazon2023",
        interactions_file="memory://raw/*/reviews_*.jsonl.gz",
        items_file="memory://raw/meta.*",
        k_core=1,
        ratios=(2, 1, 1),
    )


def test_a_pattern_means_its_files_in_the_order_of_their_names_and_one_name_a_file_of_that_name(tmp_path):
    for name in ("log_2.csv", "log_1.csv", "other.csv", "log_[1].csv"):
        (tmp_path / name).write_text(f"user,item,timestamp\n{name},A,5\n")
    (tmp_path / "log_3.csv").mkdir()
    found = find_files(f"{tmp_path}/log_?.csv", "key")
    assert found == tuple(str(tmp_path / name) for name in ("log_1.csv", "log_2.csv"))
    assert find_files(f"{tmp_path}/log_[1].csv", "key") == (f"{tmp_path}/log_[1].csv",)
    (tmp_path / "items.csv").write_text("item,title\nA,Saw\n")
    tables = read_raw(RawSource("tables", found, tmp_path / "items.csv"), tmp_path / "scratch")
    assert tables.interactions.collect()["user"].to_list() == ["log_1.csv", "log_2.csv"]
    assert [file.file for file in tables.interaction_files] == ["log_1.csv", "log_2.csv"]
    before = version_of(found)
    (tmp_path / "log_2.csv").write_text("user,item,timestamp\nu,A,6\n")
    assert version_of(found) != before


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("{}/none.csv", "key='{}/none.csv': no such file"),
        ("{}", r"key='{}' is a folder; .* {}/\*.csv"),
        ("{}/*.csv", "key='{}/.*': no file has such a name"),
        ("memory://nowhere/*", "key='memory://nowhere/.*': no file has such a name"),
        ("nothing://x/*", "key=nothing://x/.*nothing"),
    ],
)
def test_what_means_no_file_is_refused_by_its_setting(tmp_path, store, wanted, words):
    with pytest.raises(UserError, match=words.replace("{}", str(tmp_path))):
        find_files(wanted.replace("{}", str(tmp_path)), "key")


def test_files_of_a_store_are_prepared_as_one_and_known_again(tmp_path, store):
    settings = fill(store)
    folder = prepared_folder(settings, tmp_path)
    rows = "".join((folder / f"{split}.csv").read_text() for split in ("train", "valid", "test")).splitlines()
    assert len([row for row in rows if row.startswith("U1,")]) == 3
    assert len([row for row in rows if row.startswith("U2,")]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prepared", "prepared.json"]
    with said() as lines:
        assert prepared_folder(settings, tmp_path) == folder
    assert lines == ["prepare: finished before, skipped"]
    store.pipe("/raw/b/reviews_2.jsonl.gz", reviews("U2", "CBAD", 50))
    with pytest.raises(UserError, match=r"SHA-256 of prepare\.interactions_file"):
        prepared_folder(settings, tmp_path)


def test_a_bad_file_of_a_store_is_named_by_its_address(tmp_path, store):
    settings = fill(store)
    store.pipe("/raw/b/reviews_2.jsonl.gz", reviews("U2", "CBA", 50)[:-9])
    with pytest.raises(UserError, match=r"^memory:///raw/b/reviews_2\.jsonl\.gz: the gzip stream ends early"):
        prepared_folder(settings, tmp_path)
    assert not (tmp_path / "prepared").exists()


def test_an_empty_file_among_others_is_read_as_such_and_only_empty_ones_are_refused(tmp_path):
    (tmp_path / "log_1.csv").write_text("user,item,timestamp\n")
    (tmp_path / "log_2.csv").write_text("user,item,timestamp\nu,A,5\n")
    (tmp_path / "items.csv").write_text("item,title\nA,Saw\n")
    found = find_files(f"{tmp_path}/log_?.csv", "key")
    tables = read_raw(RawSource("tables", found, tmp_path / "items.csv"), tmp_path / "scratch")
    assert [file.lines for file in tables.interaction_files] == [0, 1]
    with pytest.raises(UserError, match=r"log_1\.csv: none of 0 lines is one of interactions"):
        read_raw(RawSource("tables", found[0], tmp_path / "items.csv"), tmp_path / "other")
