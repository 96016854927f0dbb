"""The catalogue of a service, without a model."""

import contextlib
import dataclasses
import difflib
import shutil
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from tests.serving.processes import ROOT
from tsrec_jax.data import catalogue as ids
from tsrec_jax.data.catalogue import Catalogue, Item
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.errors import UserError
from tsrec_jax.serving import catalogue_follower, catalogue_search, live_catalogue
from tsrec_jax.serving.catalogue_changes import Changes, NotKept
from tsrec_jax.serving.catalogue_items import LiveItem
from tsrec_jax.serving.engine import NotReady, refuse_unless_indexed
from tsrec_jax.serving.live_catalogue import LiveCatalogue

SID, OTHER, THIRD = ("<a_1>", "<b_1>"), ("<a_1>", "<b_2>"), ("<a_2>", "<b_1>")
ITEMS = [Item("1", "Groß pump"), Item("2", "Steel pump"), Item("3", "Drill")]


def live(items=ITEMS, path=None, sids=None):
    catalogue = Catalogue(tuple(items), tuple(sids or [SID, OTHER, THIRD][: len(items)]))
    changes = path if isinstance(path, Changes) else Changes(path)
    return LiveCatalogue(catalogue, Trie.of_catalogue(catalogue, 10), changes)


def until(reached):
    limit = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < limit
        time.sleep(0.01)


def found(catalogue, text, limit=10):
    return [item.id for item in catalogue.find(text, limit)]


def state(catalogue):
    """All that a search for items, a history or a recommendation could see."""
    items = list(catalogue.items())
    members = {
        sid: [item.id for item in catalogue.members(catalogue.codes([i.id])[0])] for i in items for sid in [i.sid]
    }
    return items, members, catalogue.trie.sid_codes().tolist(), found(catalogue, ""), catalogue.num_items


def test_a_search_follows_what_is_put_renamed_and_removed():
    catalogue = live()
    assert found(catalogue, "GROSS") == ["1"]
    catalogue.put("4", "Blue PUMP", SID)
    assert found(catalogue, "pump") == ["1", "2", "4"]
    catalogue.put("2", "Steel drill", SID)
    assert found(catalogue, "pump") == ["1", "4"]
    assert found(catalogue, "drill 2") == ["2"]
    catalogue.block(["4"])
    assert found(catalogue, "pump") == ["1", "4"]
    catalogue.remove("1")
    assert found(catalogue, "pump") == ["4"]
    assert found(catalogue, "", 1) == ["2"]


def test_a_search_finds_what_a_look_at_every_item_finds():
    words = ["tv", "x", "steel", 'a"b', "%_", "手机", "ÉTÉ", "nul\0", "a-1", "<b>"]
    items = [
        Item(f"Q{n:03d}", " ".join(words[k] for k in range(len(words)) if n >> k & 1) or "none") for n in range(300)
    ]
    catalogue = live(items, sids=[SID] * 300)
    for text in [
        *words,
        "t",
        "v",
        "机",
        "st",
        "eel",
        "te el",
        "TV Steel",
        "q00",
        "0",
        "été x",
        "\0",
        "\ud800",
        "a\0",
        "zz",
    ]:
        wanted = [i.id for i in items if all(w in f"{i.id} {i.title}".casefold() for w in text.casefold().split())]
        assert found(catalogue, text, 7) == wanted[:7], text
        assert found(catalogue, text, 1000) == wanted, text


def test_a_search_reads_few_items_whatever_it_is_asked(monkeypatch):
    items = [Item(f"Q{n}", "steel pump" if n % 2 else "abcd bcde") for n in range(3_000)]
    catalogue = live(items, sids=[SID] * len(items))
    catalogue.search.index()
    looked, look = [], catalogue_search._searched
    monkeypatch.setattr(catalogue_search, "_searched", lambda *texts: looked.append(1) or look(*texts))
    monkeypatch.setattr(catalogue_search, "_PASSED_OVER", 100)
    assert found(catalogue, "stexxxxxx" * 22) == [] and looked == []  # each ninth run of it is one of all pumps
    with pytest.raises(UserError, match="and not the words; look for others"):
        found(catalogue, "abcde")
    assert len(looked) == 101
    assert found(catalogue, "pump", 50) == [f"Q{n}" for n in range(1, 100, 2)]
    looked.clear()
    for item_id in ("stexx" * 20, "abcde" * 20, "q7", "\ud800"):
        with pytest.raises(UserError, match="is not in the catalogue"):
            catalogue.item(item_id)
    assert looked == []


def test_whoever_looks_items_up_keeps_no_recommendation_and_no_unknown_id_waiting(monkeypatch):
    catalogue = live()
    monkeypatch.setattr(live_catalogue, "NEAREST_AMONG", 0)  # so that nearest ids come from the index
    index = catalogue.search.index()
    with index._lock:  # as in the middle of a search
        change = threading.Thread(target=catalogue.block, args=(["1"],))
        change.start()
        until(lambda: catalogue.get("1").blocked)
        with catalogue.held(), pytest.raises(UserError, match="'Drill' is not in the catalogue"):
            catalogue.item("Drill")
        assert change.is_alive(), "it is answered once it can be found too"
    change.join()
    assert found(catalogue, "pump") == ["1", "2"]


def test_changes_are_indexed_that_come_while_the_index_is_built(monkeypatch):
    catalogue = live()
    building, go_on = threading.Event(), threading.Event()

    class Slow(list):
        def __iter__(self):
            building.set()
            assert go_on.wait(30)
            return super().__iter__()

    monkeypatch.setattr("builtins.list", lambda values=(): Slow(values))
    search = threading.Thread(target=catalogue.search.index)
    search.start()
    assert building.wait(30)
    monkeypatch.undo()
    catalogue.search.prepare()  # which waits for nothing
    assert catalogue.search.built is None
    catalogue.put("4", "Blue pump", SID)
    catalogue.remove("1")
    go_on.set()
    search.join()
    assert catalogue.search.built and found(catalogue, "pump") == ["2", "4"]


def test_an_unknown_id_among_many_is_compared_with_a_few(monkeypatch):
    many = [Item(f"B{number:06d}", "Thing") for number in range(ids.NEAREST_AMONG + 1)]
    catalogue = live(many, sids=[SID] * len(many))
    assert catalogue.search.index()
    compare = difflib.get_close_matches

    def counted(word, candidates, **options):
        assert len(candidates) < 50
        return compare(word, candidates, **options)

    monkeypatch.setattr(difflib, "get_close_matches", counted)
    for wrong in ("b000777", "B00077", "B0000777", "X000777", "B000777 "):
        with pytest.raises(UserError, match=r"is not in the catalogue of 1001 items; nearest ids: .*B000777"):
            catalogue.item(wrong)
    with pytest.raises(UserError, match=r"is not in the catalogue of 1001 items$"):
        catalogue.item("?" * 1_000_000)


def test_a_catalogue_that_is_loaded_again_is_as_it_was_left(tmp_path):
    catalogue = live(path=tmp_path / "changes")
    catalogue.put("4", "Blue pump", SID)
    catalogue.put("5", "Red pump", THIRD, blocked=True)
    catalogue.put("2", "Steel drill", SID)
    catalogue.block(["1", "4"])
    catalogue.block(["4"], blocked=False)
    catalogue.remove("3")
    catalogue.remove("5")
    catalogue.put("5", "Red pump", THIRD)
    again = live(path=tmp_path / "changes")
    assert state(again) == state(catalogue)
    assert again.get("1").blocked and not again.get("4").blocked and again.get("3") is None
    dropped = []
    assert again.changes.compact(dropped.extend) == len(dropped) == 4
    assert sorted(live(path=tmp_path / "changes").items(), key=str) == sorted(catalogue.items(), key=str)


def test_the_journal_says_who_changed_what_and_when(tmp_path):
    catalogue = live(path=tmp_path / "changes")
    catalogue.put("4", "Blue pump", SID, who="Ann")
    catalogue.block(["1", "4"], who="Bob")
    catalogue.remove("4", who="Ann")
    catalogue.restore(["1"], who="Cy")
    journal = catalogue.changes.after(0)
    assert [(c.number, c.who, c.action, c.id) for c in journal] == [
        (1, "Ann", "put", "4"),
        (2, "Bob", "block", "1"),
        (3, "Bob", "block", "4"),
        (4, "Ann", "remove", "4"),
        (5, "Cy", "restore", "1"),
    ]
    assert journal[0].at <= journal[-1].at and journal[0].at.endswith("+00:00")
    assert journal[2].state == {"title": "Blue pump", "sid": list(SID), "blocked": True}
    assert catalogue.changes.after(3, 1) == journal[3:4]


def test_a_new_export_brings_its_titles_and_items_and_keeps_what_was_changed(tmp_path):
    catalogue = live(path=tmp_path / "changes")
    catalogue.put("4", "Blue pump", SID)
    catalogue.block(["1"])
    catalogue.remove("2")
    items = [Item("1", "Big pump"), Item("2", "Steel pump"), Item("6", "Nut"), Item("3", "Drill")]
    again = live(items, tmp_path / "changes", [SID, OTHER, SID, THIRD])
    assert {item.id: (item.title, item.blocked) for item in again.items()} == {
        "1": ("Big pump", True),
        "6": ("Nut", False),
        "3": ("Drill", False),
        "4": ("Blue pump", False),
    }
    again.restore(["2"])
    assert again.get("2") == LiveItem("2", "Steel pump", OTHER)


def test_sids_of_another_export_are_refused_although_it_has_their_tokens(tmp_path):
    catalogue = live(path=tmp_path / "changes")
    catalogue.block(["1"])
    swapped = [OTHER, SID, THIRD]
    assert live(path=tmp_path / "changes", sids=swapped).get("1").blocked  # which needs no SID
    catalogue.put("4", "Blue pump", SID)
    with pytest.raises(UserError, match=r"1 items have SIDs of another export.*adopt"):
        live(path=tmp_path / "changes", sids=swapped)
    with pytest.raises(UserError, match=r"1 items are none of this export's: item '4'.*'<a_1>' is not one of"):
        live(ITEMS[2:], tmp_path / "changes", [THIRD])


def test_what_is_stated_of_an_exported_item_stays_and_all_else_comes_from_a_new_export(tmp_path):
    catalogue = live(path=tmp_path / "changes")
    catalogue.change("1", {"title": "Big pump"})
    catalogue.block(["1"])
    catalogue.put_all([dataclasses.replace(catalogue.item("1"), blocked=False)])
    catalogue.put("2", "Steel drill", OTHER)  # the SID that it has
    again = live([Item("1", "Groß pump", brand="Acme"), *ITEMS[1:]], tmp_path / "changes", [THIRD, SID, OTHER])
    assert again.get("1") == LiveItem("1", "Big pump", THIRD, brand="Acme")
    assert again.get("2") == LiveItem("2", "Steel drill", SID)


def test_a_change_is_on_the_disk_before_it_is_answered(tmp_path):
    for number in (1, 2):
        catalogue = live(path=tmp_path / "changes")
        db = catalogue.changes._connection()
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL: a commit returns when the disk has it
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        catalogue.put(f"N{number}", "Blue pump", SID)
        with contextlib.closing(sqlite3.connect(tmp_path / "changes")) as other:  # which sees what is committed
            assert other.execute("SELECT count(*) FROM changes").fetchone() == (number,)


def test_what_is_so_already_is_no_change():
    catalogue = live()
    catalogue.block(["1"])
    for again in (
        lambda: catalogue.block(["1"]),
        lambda: catalogue.block(["2"], blocked=False),
        lambda: catalogue.put("1", "Groß pump", SID, blocked=True),
        lambda: catalogue.change("1", {"blocked": True}),
    ):
        again()
        assert catalogue.last_change == 1
    catalogue.put_all([LiveItem("2", "Big drill", OTHER), catalogue.item("2")])  # the last one counts
    assert catalogue.last_change == 1


def test_an_index_that_cannot_be_made_is_not_waited_for(monkeypatch, caplog):
    monkeypatch.setattr(catalogue_search, "_LEAST_SQLITE", (9,))
    catalogue = live()
    for _ in range(2):
        with pytest.raises(NotReady, match=r"no index of the titles: .*SQLite"):
            refuse_unless_indexed(catalogue)
    assert caplog.text.count("there is no index") == 1
    catalogue.block(["1"])
    assert catalogue.search._waiting is None, "what changes is not kept for it"


def test_what_is_refused_changes_nothing(tmp_path):
    catalogue = live(path=tmp_path / "changes")
    before = state(catalogue)
    for change in (
        lambda: catalogue.put_all([LiveItem("4", "Blue pump", SID), LiveItem("5", " ", SID)]),
        lambda: catalogue.put("4", "Blue pump", SID[:1]),
        lambda: catalogue.put("4", "Blue pump", ("<a_1>", "<b_9>")),
        lambda: catalogue.block(["1", "9"]),
        lambda: catalogue.change("9", {"blocked": True}),
        lambda: catalogue.change("1", {"sid": SID[:1]}),
        lambda: catalogue.remove_all(["1", "9"]),
        lambda: catalogue.restore(["1", "9"]),
    ):
        with pytest.raises(UserError):
            change()
    assert state(catalogue) == before and catalogue.changes.after(0) == []


def test_what_cannot_be_written_is_not_changed_and_says_so(tmp_path):
    path = tmp_path / "changes"
    catalogue = live(path=path)
    catalogue.put("4", "Blue pump", SID)
    before = state(catalogue)
    catalogue.changes._connection().execute("PRAGMA max_page_count = 1")  # as of a full disk
    with pytest.raises(NotKept, match=r"not made .*full"):
        catalogue.put_all([LiveItem(f"N{n}", "x" * 100, SID) for n in range(500)])
    assert state(catalogue) == before
    path.rename(tmp_path / "elsewhere")
    for _ in range(2):
        with pytest.raises(NotKept, match="removed or replaced"):
            catalogue.put("5", "Red pump", SID)
        catalogue.changes.reopen()  # as after an error of reading
    assert state(catalogue) == before and not path.exists()


@pytest.mark.parametrize("further", [0, 9])
def test_a_backup_that_is_copied_over_the_file_is_noticed_and_takes_no_changes(tmp_path, monkeypatch, further):
    monkeypatch.setattr(catalogue_follower, "FOLLOW_SECONDS", 3600)  # nobody opens the file while it is copied
    path, backup = tmp_path / "changes", tmp_path / "backup"
    catalogue = live(path=path)
    catalogue.put("4", "Blue pump", SID)
    catalogue.changes.reopen()
    shutil.copyfile(path, backup)
    catalogue.block(["1", "4"])
    other = live(path=backup)
    for n in range(further):
        other.put(f"N{n}", "Another's", SID)
    other.changes.close()
    catalogue.changes.reopen()
    shutil.copyfile(backup, path)
    with pytest.raises(NotKept, match="not the journal that was followed"):
        catalogue.put("5", "Red pump", SID)
    assert catalogue.behind > 0 and catalogue.get("5") is None and catalogue.get("1").blocked
    assert Changes(path).last_number == 1 + further


def test_a_file_that_cannot_be_read_is_reported_once_and_followed_again_when_it_can(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(catalogue_follower, "FOLLOW_SECONDS", 0.01)
    path = tmp_path / "changes"
    catalogue = live(path=path)
    catalogue.put("4", "Blue pump", SID)
    looks = []
    monkeypatch.setattr(Changes, "behind", lambda *_: looks.append(1) or 1 / 0)
    with sqlite3.connect(path) as other:
        other.execute(
            "INSERT INTO changes (at, who, action, id, state) VALUES ('', '', 'put', '1', ?)", ['{"title": 7}']
        )
        other.execute("INSERT INTO changes (at, who, action, id, state) VALUES ('', '', 'remove', '2', NULL)")
    other.close()
    until(lambda: len(looks) > 2)
    assert catalogue.behind > 0
    monkeypatch.undo()
    until(lambda: catalogue.get("2") is None)
    until(lambda: catalogue.behind == 0)
    assert caplog.text.count("cannot be read") == 1 and "title" in caplog.text
    assert catalogue.get("1") is None  # a state of another kind is left out
    assert catalogue.trie.sid_codes().tolist() == catalogue.codes(["4", "3"]).tolist()


@pytest.mark.parametrize("content", [b"no database at all, but text that goes on for longer than a header" * 9, None])
def test_a_file_of_another_kind_is_refused_and_left_as_it_is(tmp_path, content):
    path = tmp_path / "changes"
    if content is None:
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE theirs (x)")
        other.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"changes: .*--catalogue"):
        live(path=path)
    assert path.read_bytes() == before


def test_catalogues_of_one_file_see_each_others_changes_and_agree(tmp_path):
    one, other = live(path=tmp_path / "changes"), live(path=tmp_path / "changes")
    assert one.put("4", "Blue pump", SID) and not other.put("4", "Red pump", OTHER)
    until(lambda: one.get("4") == LiveItem("4", "Red pump", OTHER))

    def put(catalogue, first):
        for n in range(first, 60, 2):
            catalogue.put(f"N{n}", f"Thing {n}", SID if n % 3 else OTHER)
            catalogue.block(["1"], blocked=bool(n % 2))

    threads = [threading.Thread(target=put, args=pair) for pair in ((one, 0), (other, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one.catch_up()
    other.catch_up()
    assert state(one) == state(other) == state(live(path=tmp_path / "changes"))
    assert one.num_items == 64


# The journal alone, without what imports JAX: a change is durable, or not, in it.
KILLED = """
import sys
from tsrec_jax.serving.catalogue_changes import Change, Changes, now
changes = Changes(sys.argv[1])
for n in range(1_000_000):
    with changes.writing():
        changes.append([Change(0, now(), "", "put", f"N{n}", {"title": f"Thing {n}", "sid": ["<a_1>", "<b_1>"]})])
    print(n, flush=True)
"""


def test_nothing_that_was_acknowledged_is_lost_when_the_process_is_killed(tmp_path):
    path = tmp_path / "changes"
    process = subprocess.Popen([sys.executable, "-c", KILLED, path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    acknowledged = -1
    for line in process.stdout:
        acknowledged = int(line)
        if acknowledged == 30:
            process.kill()
    process.wait()
    process.stdout.close()
    catalogue = live(path=path)
    assert acknowledged >= 30 and catalogue.changes.faults() == []
    assert all(catalogue.get(f"N{n}") for n in range(acknowledged + 1))
    assert catalogue.num_items - len(ITEMS) - acknowledged in (1, 2)  # the one under way may have been kept
