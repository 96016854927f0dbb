"""Preparations: what is kept, how it is split, that nothing leaks, and what stands in the folder."""

import ast
import collections
import csv
import dataclasses
import hashlib
import json
import random

import pytest

from tests.said import said
from tsrec_jax.errors import UserError
from tsrec_jax.prepare import preparation
from tsrec_jax.prepare.preparation import prepare
from tsrec_jax.prepare.raw import RawSource
from tsrec_jax.prepare.settings import PrepareSettings
from tsrec_jax.prepare.titles import MARKUP, NO_TITLE, TOO_LONG, fault_of_title, plain_text

LOOSE = PrepareSettings(k_core=1, max_unreadable=1, max_unmatched=1)
KINDS = {
    "ratio": PrepareSettings(k_core=2, max_history=4, ratios=(3, 1, 2)),
    "date": PrepareSettings(
        k_core=2, max_history=4, split="date", valid_from="1970-01-01T00:01:05", test_from="1970-01-01T00:01:25"
    ),
    "leave_one_out": PrepareSettings(k_core=2, max_history=4, split="leave_one_out"),
}


def write_source(tmp_path, log, titles=None):
    """A source of (user, item, time) and {item: title}; without titles every item of the log has one."""
    tmp_path.mkdir(exist_ok=True)
    titles = {item: f"Title of {item}" for _, item, _ in log} if titles is None else titles
    for name, header, rows in (
        ("log", ("user", "item", "timestamp"), log),
        ("items", ("item", "title"), titles if isinstance(titles, list) else titles.items()),
    ):
        with (tmp_path / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([header, *rows])
    return RawSource("tables", tmp_path / "log.csv", tmp_path / "items.csv")


def run(tmp_path, log, settings=LOOSE, titles=None):
    """(summary, {split: [(user, history, target)]}, items)"""
    source = write_source(tmp_path, log, titles)
    summary = prepare(source, settings, "Shop", tmp_path / "out")
    return summary, read_splits(tmp_path / "out"), json.loads((tmp_path / "out" / "Shop.item.json").read_text("utf-8"))


def read_splits(folder):
    splits = {}
    for split in ("train", "valid", "test"):
        with (folder / f"{split}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        splits[split] = [(r["user_id"], tuple(ast.literal_eval(r["history_item_id"])), r["item_id"]) for r in rows]
    return splits


def random_log(seed, size=300):
    """Few users, items and seconds, so that ties, duplicates, repeated purchases and repeated rows abound."""
    draw = random.Random(seed)
    return [(f"u{draw.randrange(25)}", f"i{int(12 * draw.random() ** 2)}", draw.randrange(100)) for _ in range(size)]


def expected_rows(log, settings):
    """[(time, user, position, history, target)] in the order of time, by the plainest means."""
    kept = list(dict.fromkeys(log))
    while True:
        users, items = (collections.Counter(row[column] for row in kept) for column in (0, 1))
        left = [row for row in kept if users[row[0]] >= settings.k_core and items[row[1]] >= settings.k_core]
        if left == kept:
            break
        kept = left
    rows = []
    for user in {row[0] for row in kept}:
        own = sorted(((time, item) for name, item, time in kept if name == user), key=lambda event: event[0])
        for end in range(1, len(own)):
            history = tuple(item for _, item in own[max(0, end - settings.max_history) : end])
            rows.append((own[end][0], user, end, history, own[end][1]))
    return sorted(rows)


def in_a_line(n, users=1):
    """A log in which each user has n items at seconds that nobody else has."""
    return [(f"u{u}", f"i{t}", 10 * t + u) for u in range(users) for t in range(n)]


# --- rows and splits ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_rows_are_every_prefix_and_every_row_lies_in_one_split(tmp_path, kind, seed):
    log, settings = random_log(seed), KINDS[kind]
    _, splits, items = run(tmp_path, log, settings)
    expected = expected_rows(log, settings)
    rows = [row for split in splits.values() for row in split]
    assert sorted(rows) == sorted((user, history, target) for _, user, _, history, target in expected)
    assert set(items) == {item for _, history, target in rows for item in (*history, target)}
    for rows in located(splits, expected).values():  # in the order of time
        places = [expected.index(row) for row in rows]
        assert places == sorted(places)


def located(splits, expected):
    """The expected rows that each split holds; of rows that are alike, the earlier come first."""
    by_content = collections.defaultdict(collections.deque)
    for row in expected:
        by_content[row[1:2] + row[3:]].append(row)
    return {name: [by_content[row].popleft() for row in splits[name]] for name in ("train", "valid", "test")}


@pytest.mark.parametrize("kind", ["ratio", "date"])
@pytest.mark.parametrize("seed", range(6))
def test_no_target_is_later_than_one_of_a_later_split(tmp_path, kind, seed):
    log, settings = random_log(seed), KINDS[kind]
    _, splits, _ = run(tmp_path, log, settings)
    expected = expected_rows(log, settings)
    times = {name: [row[0] for row in rows] for name, rows in located(splits, expected).items()}
    assert max(times["train"]) < min(times["valid"])
    assert max(times["valid"]) < min(times["test"])
    if kind == "date":
        assert max(times["train"]) < 65 <= min(times["valid"]) and max(times["valid"]) < 85 <= min(times["test"])


@pytest.mark.parametrize("seed", range(4))
def test_no_history_holds_what_came_after_its_target(tmp_path, seed):
    log = [(user, f"{item}@{time}", time) for user, item, time in random_log(seed)]
    _, splits, _ = run(tmp_path, log, LOOSE)
    for split in splits.values():
        for _, history, target in split:
            times = [int(item.split("@")[1]) for item in (*history, target)]
            assert times == sorted(times)


def test_leave_one_out_of_short_users_says_how_many_interactions_it_needs(tmp_path):
    log = [(f"u{user}", f"i{user + n}", user * 9 + n) for user in range(9) for n in range(2)]
    with pytest.raises(UserError, match=r"\(train 0, valid 0, test 9\); .* only users with four interactions have one"):
        run(tmp_path, log, PrepareSettings(k_core=1, split="leave_one_out"))


def test_leave_one_out_gives_each_user_a_test_row_then_a_valid_row(tmp_path):
    log = [*in_a_line(5), ("v", "i1", 1), ("v", "i2", 2), ("v", "i3", 3), ("w", "i1", 1), ("w", "i2", 2)]
    _, splits, _ = run(tmp_path, log, PrepareSettings(k_core=1, split="leave_one_out"))
    assert splits == {
        "train": [("u0", ("i0",), "i1"), ("u0", ("i0", "i1"), "i2")],
        "valid": [("v", ("i1",), "i2"), ("u0", ("i0", "i1", "i2"), "i3")],
        "test": [("w", ("i1",), "i2"), ("v", ("i1", "i2"), "i3"), ("u0", ("i0", "i1", "i2", "i3"), "i4")],
    }


def test_the_ratio_cuts_all_rows_by_time(tmp_path):
    summary, splits, _ = run(tmp_path, in_a_line(11, users=2))
    assert [len(rows) for rows in splits.values()] == [16, 2, 2]
    assert [split.rows for split in summary.splits] == [16, 2, 2]


@pytest.mark.parametrize(("tied", "sizes"), [(range(16, 18), [15, 3, 2]), (range(14, 18), [17, 1, 2])])
def test_a_cut_inside_a_second_moves_to_its_nearer_end(tmp_path, tied, sizes):
    """Targets are at seconds 1 to 20, so the first cut is between 16 and 17; those of `tied` are made one second."""
    log = [("u", f"i{t:02}", tied[0] if t in tied else t) for t in range(21)]
    _, splits, _ = run(tmp_path, log)
    assert [len(rows) for rows in splits.values()] == sizes


def test_histories_hold_the_last_items(tmp_path):
    _, splits, _ = run(tmp_path, in_a_line(12), dataclasses.replace(LOOSE, max_history=3))
    assert splits["test"][-1] == ("u0", ("i8", "i9", "i10"), "i11")
    assert splits["train"][0] == ("u0", ("i0",), "i1")


# --- what is dropped ---


def test_exact_duplicates_go_and_later_purchases_stay(tmp_path):
    log = [("u", "a", 1), ("u", "a", 1), ("u", "b", 2), ("u", "a", 3), *[("u", f"x{t}", t) for t in range(4, 14)]]
    summary, splits, _ = run(tmp_path, log)
    assert splits["train"][:2] == [("u", ("a",), "b"), ("u", ("a", "b"), "a")]
    assert {step.reason: step.dropped for step in summary.steps}["same user, item and second again"] == 1


def test_a_row_that_its_user_had_before_stays_and_is_counted(tmp_path):
    log = [("u", "a", t) for t in range(20)] + [("v", "a", t) for t in range(20, 40)]
    summary, splits, _ = run(tmp_path, log, PrepareSettings(k_core=1, max_history=3))
    rows = [row for split in splits.values() for row in split]
    assert rows == [(user, ("a",) * min(n, 3), "a") for user in "uv" for n in range(1, 20)]
    assert summary.repeated_rows == 32


def test_rows_of_one_hash_are_compared_in_full(tmp_path, monkeypatch):
    monkeypatch.setattr(preparation.splitting, "_MIX", preparation.splitting.np.uint64(0))
    summary, splits, _ = run(tmp_path, in_a_line(11, users=2))
    assert (summary.repeated_rows, sum(map(len, splits.values()))) == (0, 20)


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_the_core_is_stable(tmp_path, k, seed):
    draw = random.Random(seed)
    log = [(f"u{draw.randrange(30)}", f"i{draw.randrange(30)}", draw.randrange(10_000)) for _ in range(160)]
    settings = PrepareSettings(k_core=k)
    summary, splits, _ = run(tmp_path, log, settings)
    rows = [row for split in splits.values() for row in split]
    assert sorted(rows) == sorted((row[1], row[3], row[4]) for row in expected_rows(log, settings))
    assert summary.steps[-1].reason.startswith(f"not in the {k}-core (rounds: ")
    # Each user's first interaction makes no row.
    assert summary.steps[-1].interactions == len(rows) + len({user for user, _, _ in rows})


def test_the_window_has_its_start_and_not_its_end(tmp_path):
    log = in_a_line(20)
    _, splits, items = run(
        tmp_path, log, dataclasses.replace(LOOSE, start="1970-01-01T00:00:30", end="1970-01-01 00:02:30Z")
    )
    assert set(items) == {f"i{t}" for t in range(3, 15)}
    assert splits["train"][0] == ("u0", ("i3",), "i4")


def test_items_without_a_usable_title_go_before_the_core_and_each_reason_is_counted(tmp_path):
    good = [f"g{n:02}" for n in range(14)]
    titles = dict.fromkeys(good, "Good one")
    titles |= {"none": "<b> </b>", "code": "var aPage = (new Date()).getTime();", "long": "one two three four"}
    log = [("u", item, t) for t, item in enumerate([*good, "none", "code", "code", "long", "stray", "stray", "stray"])]
    # v has two interactions, but one of them is with an item that goes.
    log += [("v", "g00", 1), ("v", "none", 2)]
    summary, splits, items = run(tmp_path, log, dataclasses.replace(LOOSE, max_title_words=3), titles)
    assert sorted(items) == good
    assert {user for rows in splits.values() for user, _, _ in rows} == {"u"}
    dropped = {step.reason: step.dropped for step in summary.steps}
    assert dropped["item is not in the item files"] == 3
    assert (dropped[NO_TITLE], dropped[MARKUP], dropped[TOO_LONG]) == (2, 2, 1)
    assert dropped["not in the 1-core (rounds: 1)"] == 1


def test_the_first_entry_with_a_usable_title_counts(tmp_path):
    titles = [
        *((f"i{t}", f"Title {t}") for t in range(1, 11)),
        ("i0", ""),
        ("i0", "First &amp; best"),
        ("i0", "Second"),
    ]
    _, _, items = run(tmp_path, in_a_line(11), titles=titles)
    assert items["i0"]["title"] == "First & best"


def test_titles_may_stay_as_they_are_but_for_white_space(tmp_path):
    titles = {f"i{t}": f" A&amp;B \n <b>{t}</b>\t" for t in range(11)}
    _, _, items = run(tmp_path, in_a_line(11), dataclasses.replace(LOOSE, clean_titles=False), titles)
    assert items["i3"]["title"] == "A&amp;B <b>3</b>"


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("Drill &amp;amp; bit &quot;5&quot;", 'Drill & bit "5"'),
        ("<span id='t'>Drill</span><br/>bit", "Drill bit"),
        ("&lt;b&gt;Drill&lt;/b&gt;", "Drill"),
        ("Drill<script>var x = '<b>';</script> bit<style>.a {b: c;}</style><!-- <p> -->", "Drill bit"),
        ("fits < 5 in and > 3 in, <3", "fits < 5 in and > 3 in, <3"),
        (" a\t\n b\u200b\u00a0c\x00d ", "a b c d"),
        ("木 Étagère", "木 Étagère"),
        ("می\u200cخواهم \u200c", "می\u200cخواهم"),
        ("\u200dक्\u200dष \u200d\u200b \u200c👩\u200d🔧\u200c", "क्\u200dष 👩\u200d🔧"),
    ],
)
def test_plain_texts(raw, plain):
    assert plain_text(raw) == plain


@pytest.mark.parametrize(
    ("title", "fault"),
    [
        ("", NO_TITLE),
        ("- ... !", NO_TITLE),
        ("<span class=a-size", MARKUP),
        ("var aPageStart = (new Date()).getTime();", MARKUP),
        ("#nav { color: red }", MARKUP),
        ("(function(a) { return a })", MARKUP),
        ("window.ue = 1", MARKUP),
        ("one two three four", TOO_LONG),
        ("one two three", ""),
        ("Window film (function)", ""),
        ("木", ""),
    ],
)
def test_faults_of_titles(title, fault):
    assert fault_of_title(title, 3 if fault != MARKUP else 0, refuse_markup=True) == fault


# --- the folder ---


def test_ids_with_quotes_and_backslashes_survive(tmp_path):
    ids = ["it's", 'say "x"', "back\\slash", "new\\n", "a,b", "'", "木", "[1]", "tab\\t'\"", "1", "01"]
    log = [(user, item, t) for t, item in enumerate(ids) for user in ("o'u", '"')]
    _, splits, items = run(tmp_path, log)
    assert splits["test"][-1] == ("o'u", tuple(ids[:10]), ids[10])
    assert list(items) == sorted(ids)


def test_the_item_file_has_clean_texts(tmp_path):
    log = write_source(tmp_path, in_a_line(11))
    rows = [
        (f"i{t}", f"Drill {t}", "<p>A &amp; B</p>", "by\n Acme", "Tools &gt; Drills", "https://x/?a=1&b=2" * (t == 4))
        for t in range(11)
    ]
    with (tmp_path / "items.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("item", "title", "description", "brand", "categories", "image"), *rows])
    prepare(log, LOOSE, "Shop", tmp_path / "out")
    items = json.loads((tmp_path / "out" / "Shop.item.json").read_text("utf-8"))
    assert items["i4"] == {
        "title": "Drill 4",
        "description": "A & B",
        "brand": "by Acme",
        "categories": "Tools > Drills",
        "image": "https://x/?a=1&b=2",
    }
    assert "image" not in items["i5"]


def test_the_summary_stands_in_the_folder_as_values_and_as_tables(tmp_path):
    log = [*in_a_line(11), ("w", "i0", "soon"), ("u0", "x", 105)]
    summary, _, _ = run(tmp_path, log, titles={f"i{t}": "A" for t in range(11)})
    found = json.loads((tmp_path / "out" / "prepare.json").read_text("utf-8"))
    assert found == json.loads(json.dumps(dataclasses.asdict(summary)))
    assert found["settings"]["ratios"] == [8, 1, 1]
    (file,) = found["interaction_files"]
    assert file["sha256"] == hashlib.sha256((tmp_path / "log.csv").read_bytes()).hexdigest()
    assert (file["file"], file["lines"], file["malformed"]) == ("log.csv", 13, 1)
    table = (tmp_path / "out" / "prepare.md").read_text("utf-8")
    assert "| line is malformed                   |                    1 |                12 |     1 |    12 |" in table
    assert "- log.csv, line 13: timestamp is neither seconds" in table
    assert str(tmp_path) not in table + json.dumps(found)
    blocks = [[len(line) for line in block.splitlines()] for block in table.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 4 and all(len(set(widths)) == 1 for widths in blocks)


def test_steps_and_splits_are_counted(tmp_path):
    log = [*in_a_line(11), ("v", "i3", 1000), ("v", "new", 1001), ("v", "i0", 1002), ("w", "i1", 3)]
    summary, splits, _ = run(tmp_path, log)
    last = summary.steps[-1]
    assert (last.dropped, last.interactions, last.users, last.items) == (1, 14, 2, 12)
    assert [step.interactions + step.dropped for step in summary.steps[1:]] == [
        step.interactions for step in summary.steps[:-1]
    ]
    assert [len(rows) for rows in splits.values()] == [9, 1, 2]
    train, valid, test = summary.splits
    assert (train.rows, train.users, train.targets, train.unseen) == (9, 1, 9, 0.0)
    assert (train.first, train.last) == ("1970-01-01T00:00:10Z", "1970-01-01T00:01:30Z")
    # i10 and `new` occur nowhere in train; i0 occurs in its histories alone.
    assert (valid.unseen, test.unseen) == (1.0, 0.5)
    assert summary.num_items == 12


def test_a_folder_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    source = write_source(tmp_path, in_a_line(11))
    monkeypatch.setattr(preparation, "summary_tables", lambda _: None)
    with pytest.raises(TypeError):
        prepare(source, LOOSE, "Shop", tmp_path / "out")
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["items.csv", "log.csv"]
    (tmp_path / "out.writing").mkdir()
    (tmp_path / "out.writing" / "left").touch()
    prepare(source, LOOSE, "Shop", tmp_path / "out")
    files = ["Shop.item.json", "prepare.json", "prepare.md", "test.csv", "train.csv", "valid.csv"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files
    with pytest.raises(UserError, match="exists already; nothing was written"):
        prepare(source, LOOSE, "Shop", tmp_path / "out")


def test_every_stage_is_reported(tmp_path):
    with said() as lines:
        prepare(write_source(tmp_path, in_a_line(11)), LOOSE, "Shop", tmp_path / "out")
    stages = [line.split(":")[0] for line in lines]
    files = ["train.csv", "valid.csv", "test.csv"]
    read = ["read log.csv", "read items.csv"]
    assert stages == [*read, "numbered", "titles", "1-core", "split", "items", *files, "done"]


# --- what cannot be ---


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k_core": 0}, "k_core=0 must be 1 or more"),
        ({"k_core": 2.0}, r"k_core=2\.0 must be a whole number"),
        ({"max_history": 0}, "max_history=0 must be"),
        ({"max_title_words": -1}, "max_title_words=-1 must be"),
        ({"max_unreadable": 5}, "max_unreadable=5 must lie between 0 and 1"),
        ({"max_unmatched": float("nan")}, "max_unmatched=nan must be finite"),
        ({"ties": "random"}, "ties='random' is not one of auto, file, shuffled, item"),
        ({"split": "random"}, "split='random' is not one of ratio, date, leave_one_out"),
        ({"ratios": (8, 2)}, "must be three positive numbers"),
        ({"ratios": (8, 2, 0)}, r"ratios\[2\]=0 must be above 0"),
        ({"ratios": "811"}, "must be a tuple"),
        ({"start": "spring"}, r"prepare\.start='spring' is not an ISO 8601 date"),
        ({"start": "2017-01-01", "end": "2017-01-01"}, "start='2017-01-01' must be before end"),
        ({"split": "date", "valid_from": "2017-01-01"}, "split='date' needs both"),
        ({"split": "ratio", "valid_from": "2017-01-01"}, "the other splits neither"),
        ({"split": "date", "valid_from": "2017-02-01", "test_from": "2017-01-01"}, "must be before test_from"),
    ],
)
def test_settings_that_cannot_be_meant(changes, words):
    with pytest.raises(UserError, match=words):
        PrepareSettings(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k_core": 12}, "k_core=12 leaves nothing of 11 interactions, since .* two at least; lower it, or widen"),
        ({"start": "2017-01-01"}, "no interaction lies between prepare.start='2017-01-01' and end=''"),
        ({"max_title_words": 1}, "no interaction has an item with a usable title"),
        (
            {"ratios": (1000, 1, 1)},
            r"prepare\.ratios=\(1000, 1, 1\) leaves valid without rows .train 9, valid 0, test 1.",
        ),
        (
            {"split": "date", "valid_from": "2017-01-01", "test_from": "2018-01-01"},
            "valid_from='2017-01-01', prepare.test_from='2018-01-01' leaves valid and test without rows",
        ),
    ],
)
def test_what_leaves_nothing_names_the_setting_to_loosen(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        run(tmp_path, in_a_line(11), dataclasses.replace(LOOSE, **changes))
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_no_file_name(tmp_path):
    with pytest.raises(UserError, match=r"data set name '\.\./x'"):
        prepare(write_source(tmp_path, in_a_line(11)), LOOSE, "../x", tmp_path / "out")
