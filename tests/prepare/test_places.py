"""Raw files by a pattern or at an address: which they are, that they are read as one, and what is said of a bad one."""

import dataclasses
import gzip
import os

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.prepare.test_raw import META_2023, REVIEW_2023, as_lines
from tests.said import said
from tsrec_jax.data.folder_files import sha256_of
from tsrec_jax.errors import UserError
from tsrec_jax.pipeline.prepare import prepared_folder
from tsrec_jax.prepare import places
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
    before = version_of(found, {})
    (tmp_path / "log_2.csv").write_text("user,item,timestamp\nu,A,6\n")
    assert version_of(found, {}) != before


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


def test_files_here_are_read_again_only_where_they_have_changed_and_may_be_gone_when_all_is_made(tmp_path, monkeypatch):
    def write(name, text):
        (tmp_path / name).write_text(text)

    read = []
    monkeypatch.setattr(places, "sha256_of", lambda path: read.append(path.name) or sha256_of(path))
    write("log_1.csv", "user,item,timestamp\n" + "".join(f"u,{item},{time}\n" for time, item in enumerate("ABCD")))
    write("log_2.csv", "user,item,timestamp\nw,A,1\nw,B,2\n")
    write("items.csv", "item,title\nA,Saw\nB,Nail\nC,Screw\nD,Plane\n")
    files = {"interactions_file": f"{tmp_path}/log_?.csv", "items_file": f"{tmp_path}/items.csv"}
    settings = PrepareSettings(source="tables", **files, k_core=1, ratios=(2, 1, 1))
    folder = prepared_folder(settings, tmp_path / "run")
    assert read == ["log_1.csv", "log_2.csv", "items.csv"]
    prepared_folder(settings, tmp_path / "run")
    assert len(read) == 3
    write("log_1.csv", (tmp_path / "log_1.csv").read_text())  # the same again, at another time
    os.utime(tmp_path / "log_1.csv", ns=(0, 0))
    for _ in range(2):
        prepared_folder(settings, tmp_path / "run")
        assert read[3:] == ["log_1.csv"]
    write("log_3.csv", "user,item,timestamp\n")
    with pytest.raises(UserError, match=r"use a new --workdir.*\. Raw files: .*/log_3\.csv \(new\)$"):
        prepared_folder(settings, tmp_path / "run")
    (tmp_path / "log_3.csv").rename(tmp_path / "log_2.csv")
    with pytest.raises(UserError, match=r"Raw files: [^,]*/log_2\.csv \(changed\)$"):
        prepared_folder(settings, tmp_path / "run")
    (tmp_path / "log_2.csv").unlink()
    with pytest.raises(UserError, match=r"Raw files: [^,]*/log_2\.csv \(gone\)$"):
        prepared_folder(settings, tmp_path / "run")
    write("log_2.csv", "user,item,timestamp\nw,A,1\nw,B,2\n")
    (tmp_path / "items.csv").unlink()
    with said() as lines:
        assert prepared_folder(settings, tmp_path / "run") == folder
    assert "prepare: not compared with what" in lines[0] and "items.csv': no such file" in lines[0]
    with pytest.raises(UserError, match="k_core was 1 and is now 2"):
        prepared_folder(dataclasses.replace(settings, k_core=2), tmp_path / "run")
    with pytest.raises(UserError, match=r"other\.csv': no such file"):
        prepared_folder(dataclasses.replace(settings, items_file=f"{tmp_path}/other.csv"), tmp_path / "run")
    write("log_2.csv", "user,item,timestamp\nw,A,1\nw,C,2\n")
    with pytest.raises(UserError, match=r"SHA-256 of prepare\.interactions_file"):
        prepared_folder(settings, tmp_path / "run")


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_a_folder_without_a_record_of_what_it_was_made_of_is_refused(tmp_path, text):
    (tmp_path / "prepared").mkdir()
    if text:
        (tmp_path / "prepared.json").write_text(text)
    with pytest.raises(UserError, match=r"prepared\.json cannot be read .*prepared was made of; give a new --workdir"):
        prepared_folder(PrepareSettings(source="tables", interactions_file="a", items_file="b"), tmp_path)


def test_a_store_tells_versions_as_http_does_or_is_said_to_tell_none(store, monkeypatch):
    def version(**facts):
        monkeypatch.setattr(MemoryFileSystem, "info", lambda system, name: {"size": 5, **facts})
        with said() as lines:
            return version_of(("memory://a", "memory://b"), {}), lines

    assert version(**{"Last-Modified": "Mon"})[0] != version(**{"Last-Modified": "Tue"})[0]
    assert version(**{"Content-MD5": "x"})[1] == []
    assert version()[1] == [
        "memory://a and 1 more: the store states no version, so only another size is noticed as a change"
    ]

    def fail(system, name):
        raise OSError("the host is away")

    monkeypatch.setattr(MemoryFileSystem, "info", fail)
    with pytest.raises(UserError, match="memory://a cannot be read: OSError: the host is away"):
        version_of(("memory://a",), {})


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
