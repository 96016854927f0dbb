"""What a thinning says of its tables binds the preparation of them; no Beam is needed for that."""

import dataclasses
import gzip
import json
import os

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.said import said
from tsrec_jax.errors import UserError
from tsrec_jax.prepare.preparation import prepare
from tsrec_jax.prepare.raw import RawSource
from tsrec_jax.prepare.settings import PrepareSettings
from tsrec_jax.prepare.thin_facts import FACTS, SETTINGS, find_facts

SETTINGS_THEN = PrepareSettings(source="amazon2023", k_core=2, start="2020-01-01", end="2021-01-01T00:00+01:00")
SETTINGS_NOW = dataclasses.replace(SETTINGS_THEN, source="tables", ratios=(1, 1, 1))
DAY = 86_400
FIRST = 1_577_836_800  # 2020-01-01


@pytest.fixture
def folder(tmp_path):
    """Two tables of interactions and one of items, as a thinning of files that ran from new to old leaves them."""
    log = [(user, item, FIRST + DAY * day) for day, user in enumerate("uvw") for item in "CAB"]
    parts = {"interactions-00000-of-00002": log[:3], "interactions-00001-of-00002": log[3:]}
    parts["items-00000-of-00001"] = [(item, f"Saw {item}") for item in "ABC"]
    for name, rows in parts.items():
        header = "item,title" if name.startswith("items") else "user,item,timestamp"
        lines = "\n".join([header, *(",".join(map(str, row)) for row in rows)])
        (tmp_path / f"thinned-{name}.csv.gz").write_bytes(gzip.compress(lines.encode()))
    write_facts(tmp_path, newest_first=True)
    return tmp_path


def write_facts(folder, newest_first):
    settings = {name: getattr(SETTINGS_THEN, name) for name in SETTINGS}
    facts = {"settings": settings, "newest_first": newest_first, "interactions": {"read": 20, "left": 9}}
    (folder / FACTS).write_text(json.dumps(facts))


def tables(folder):
    return [tuple(map(str, sorted(folder.glob(f"thinned-{name}-*")))) for name in ("interactions", "items")]


def test_the_order_of_ties_is_that_of_the_raw_files_whatever_the_tables_look_like(folder):
    def histories(newest_first):
        write_facts(folder, newest_first)
        out = folder / f"out_{newest_first}"
        with said() as lines:
            prepare(RawSource("tables", *tables(folder)), SETTINGS_NOW, "Shop", out)
        assert lines[0] == "thinned before: 9 of 20 interactions are left"
        return [row for split in ("train", "valid", "test") for row in (out / f"{split}.csv").read_text().splitlines()]

    assert "u,\"['C', 'A']\",B" in histories(False)
    assert "u,\"['B', 'A']\",C" in histories(True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k_core": 1}, r"config\.prepare\.k_core=1 is below 2"),
        ({"start": ""}, r"config\.prepare\.start='' is beyond '2020-01-01'"),
        ({"start": "2019-12-31"}, r"config\.prepare\.start='2019-12-31' is beyond '2020-01-01'"),
        ({"end": "2021-01-01"}, r"config\.prepare\.end='2021-01-01' is beyond '2021-01-01T00:00\+01:00'"),
        ({"max_title_words": 9}, "max_title_words=9 is not 0, with which the tables were thinned"),
        ({"clean_titles": False, "end": ""}, "end='' is beyond .*; config.prepare.clean_titles=False is not True"),
    ],
)
def test_settings_that_would_keep_what_thinning_dropped_are_refused(folder, changes, words):
    settings = dataclasses.replace(SETTINGS_NOW, **changes)
    with pytest.raises(UserError, match=words):
        prepare(RawSource("tables", *tables(folder)), settings, "Shop", folder / "out")
    assert not (folder / "out").exists()


def test_tighter_settings_are_taken(folder):
    facts = find_facts(*tables(folder))
    facts.refuse_looser(dataclasses.replace(SETTINGS_NOW, k_core=9, start="2020-02-01", end="2020-12-31"))
    assert facts.interactions["read"] == 20


@pytest.mark.parametrize("change", ["a table less", "a table of another kind", "raw items", "another folder"])
def test_the_tables_of_one_thinning_are_taken_together(folder, change):
    interactions, items = tables(folder)
    if change == "a table less":
        interactions = interactions[1:]
    if change == "a table of another kind":
        interactions = (*interactions[:1], *items)
    if change == "raw items":
        items = (f"{folder}/items.csv",)
    if change == "another folder":
        items = ("gs://bucket/thinned-items-00000-of-00001.csv.gz",)
    with pytest.raises(UserError, match="not those that one thinning has written, all of them and no others; give"):
        find_facts(interactions, items)


def test_a_table_is_named_from_where_one_stands_and_others_by_a_pattern(folder, monkeypatch):
    monkeypatch.chdir(folder)
    interactions, items = tables(folder)
    assert find_facts(interactions, [os.path.basename(name) for name in items]).newest_first
    assert find_facts([os.path.basename(name) for name in interactions], items).newest_first


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "thin.json is not there: "),
        ("{", "not as thinning"),
        ("{}", "not as thinning"),
        ('{"settings": 3, "newest_first": true, "interactions": {}}', "not as thinning"),
        ('{"settings": {}, "newest_first": true, "interactions": {}}', r"not as thinning .*without source, .*k_core"),
    ],
)
def test_tables_count_only_with_their_facts(folder, text, words):
    (folder / FACTS).unlink()
    if text:
        (folder / FACTS).write_text(text)
    with pytest.raises(UserError, match=words):
        find_facts(*tables(folder))


def test_a_store_that_fails_is_one_line(monkeypatch):
    def fail(*_):
        raise OSError("the host is away")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", fail)
    names = [[f"memory://a/thinned-{table}-00000-of-00001.csv.gz"] for table in ("interactions", "items")]
    with pytest.raises(UserError, match=r"memory://a/thin\.json cannot be read: OSError: the host is away"):
        find_facts(*names)


def test_other_tables_have_no_facts(folder):
    assert find_facts([f"{folder}/log.csv"], [f"{folder}/items.csv"]) is None
