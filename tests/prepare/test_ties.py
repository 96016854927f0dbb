"""Interactions of one user and second: the order of the files, unless that is the order of the item ids."""

import itertools
import json
import random

import numpy as np
import pytest

from tests.baselines.catalogues import catalogue_of, quiet
from tests.prepare.test_preparation import LOOSE, read_splits, write_source
from tests.said import said
from tsrec_jax.baselines.counts import fit_transitions
from tsrec_jax.baselines.ranking import rank_sids
from tsrec_jax.data.prepared import tied_targets
from tsrec_jax.data.text_folder import read_texts
from tsrec_jax.errors import UserError
from tsrec_jax.prepare.preparation import prepare
from tsrec_jax.prepare.settings import PrepareSettings
from tsrec_jax.prepare.splitting import Log
from tsrec_jax.prepare.ties import Ties, is_newest_first, is_tied, settle

DAY = 86_400
ITEMS = [f"i{n:02}" for n in range(30)]


def baskets(count, *, arrange=lambda ids: ids, items=ITEMS, size=4, seed=0):
    """Two users' baskets in turn, a day apart, of different items in an order that `arrange` makes of a random one."""
    draw = random.Random(seed)
    return [(f"u{day % 2}", item, day * DAY) for day in range(count) for item in arrange(draw.sample(items, size))]


def sequences(folder):
    """{user: items in their order}, from the last rows."""
    found = {}
    for rows in read_splits(folder).values():
        for user, history, target in rows:
            found[user] = [*(found.get(user) or history), target]
    return found


def prepared(tmp_path, log, **changes):
    """(sequences, ties as prepare.json has them, reported lines)"""
    settings = PrepareSettings(**{"k_core": 1, "max_history": 1000, **changes})
    with said() as lines:
        prepare(write_source(tmp_path, log), settings, "Shop", tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "prepare.json").read_text("utf-8"))
    return sequences(tmp_path / "out"), summary["ties"], lines


def in_file_order(log):
    return {user: [item for name, item, _ in log if name == user] for user in sorted({row[0] for row in log})}


# --- the order ---


def test_purchases_of_one_day_keep_the_order_of_the_file(tmp_path):
    log = baskets(24)
    found, ties, _ = prepared(tmp_path, log)
    assert found == in_file_order(log)
    assert (ties["order"], ties["interactions"], ties["share"], ties["pairs"]) == ("file", 96, 1.0, 72)


def test_several_files_follow_one_another(tmp_path):
    draw = random.Random(1)
    first, second = ([("u", item, 0) for item in draw.sample(ITEMS, 15)] for _ in range(2))
    second = [("u", f"later {item}", 0) for _, item, _ in second]
    rest = [("u", f"day {day}", day * DAY) for day in range(1, 20)]
    ids = {item: f"Title {item}" for _, item, _ in [*first, *second, *rest]}
    sources = [write_source(tmp_path / name, part, ids) for name, part in (("b", first), ("a", [*second, *rest]))]
    source = type(sources[0])("tables", [each.interactions[0] for each in sources], sources[0].items)
    prepare(source, PrepareSettings(k_core=1, max_history=1000), "Shop", tmp_path / "out")
    assert sequences(tmp_path / "out")["u"] == [item for _, item, _ in [*first, *second, *rest]]


@pytest.mark.parametrize(
    ("items", "arrange"),
    [
        (ITEMS, sorted),
        (ITEMS, lambda ids: sorted(ids, reverse=True)),
        ([str(n) for n in range(5, 35)], lambda ids: sorted(ids, key=int)),
        (
            [f"B{n:02}-{n}" for n in range(98, 128)],
            lambda ids: sorted(ids, key=lambda text: int(text[1:].split("-")[0])),
        ),
    ],
)
def test_a_file_that_was_sorted_by_item_has_its_ties_shuffled(tmp_path, items, arrange):
    log = baskets(24, arrange=arrange, items=items)
    found, ties, lines = prepared(tmp_path, log)
    assert ties["order"] == "shuffled" and ties["ascending"] in (0.0, 1.0)
    assert found != in_file_order(log)
    for user, sequence in found.items():  # days stay where they were
        for start in range(0, len(sequence), 4):
            assert sorted(sequence[start : start + 4]) == sorted(in_file_order(log)[user][start : start + 4])
    steps = [a < b for sequence in found.values() for a, b in itertools.pairwise(sequence)]
    assert 0.3 < np.mean(steps) < 0.7
    assert any("shuffled by a hash" in line for line in lines if line.startswith("ties: "))


def test_a_few_sorted_baskets_are_an_accident(tmp_path):
    log = baskets(12, arrange=sorted, size=2)
    assert prepared(tmp_path, log)[0] == in_file_order(log)


def test_files_from_new_to_old_are_read_from_the_end(tmp_path):
    log = baskets(30)
    found, ties, lines = prepared(tmp_path, log[::-1])
    assert found == in_file_order(log)
    assert (ties["order"], ties["backwards"]) == ("file", True)
    assert any("from the last line to the first" in line for line in lines)


def test_users_one_after_the_other_from_new_to_old_are_read_from_the_end(tmp_path):
    log = [(f"u{user:02}", item, day + user * DAY) for user in range(40) for _, item, day in baskets(3, seed=user)]
    users = sorted({row[0] for row in log})
    found, ties, _ = prepared(tmp_path, [row for user in users for row in log[::-1] if row[0] == user])
    assert found == in_file_order(log)
    assert ties["backwards"]


def test_the_order_of_files_is_told_by_each_user_and_else_by_all_lines():
    times, users = np.tile(np.arange(2), 1000), np.repeat(np.arange(1000), 2)
    assert not is_newest_first(users, times)
    assert is_newest_first(users, 1 - times)
    assert not is_newest_first(users, times - 5 * users), "the users come from new to old, their own lines do not"
    assert is_newest_first(np.arange(1000), -np.arange(1000))
    assert not is_newest_first(np.arange(1000), np.zeros(1000, np.int64))
    assert not is_newest_first(users[:0], times[:0])


def test_the_setting_chooses(tmp_path):
    log = baskets(24, arrange=sorted)
    assert prepared(tmp_path / "file", log, ties="file")[0] == in_file_order(log)
    unsorted = baskets(24)
    assert prepared(tmp_path / "shuffled", unsorted, ties="shuffled")[0] != in_file_order(unsorted)
    assert prepared(tmp_path / "item", unsorted, ties="item")[0] == in_file_order(
        sorted(unsorted, key=lambda row: (row[2], row[1]))
    )


def test_a_shuffle_is_the_same_whatever_the_order_of_lines_and_whatever_else_is_there(tmp_path):
    log = baskets(12)
    first = prepared(tmp_path / "first", log, ties="shuffled")[0]
    more = [("a", "a0", 0), ("a", "zz", 5), *log, ("v", "i00", 7), ("v", "j", 7)]
    random.Random(5).shuffle(more)
    second = prepared(tmp_path / "second", more, ties="shuffled")[0]
    assert {user: second[user] for user in first} == first


def test_a_line_that_stands_twice_counts_where_it_stands_first(tmp_path):
    log = [("u", "b", 0), ("u", "a", 0), ("u", "c", 0), ("u", "a", 0), *[("u", f"x{t}", t) for t in range(1, 12)]]
    assert prepared(tmp_path, log)[0]["u"][:4] == ["b", "a", "c", "x1"]


# --- what follows from it ---


def hit_rate(folder):
    """HR@10 of `transitions` on test."""
    texts = read_texts(folder)
    catalogue = catalogue_of([item.id for item in texts.items], codes=range(len(texts.items)))
    fitted = fit_transitions(catalogue, texts.splits["train"], texts.splits["valid"], 0, quiet)
    test = texts.splits["test"]
    ranked = rank_sids(fitted.scores(test.histories), catalogue, 10)
    return np.mean([catalogue.sid(int(t)) in best for t, best in zip(test.targets, ranked, strict=True)])


@pytest.mark.parametrize("split", ["ratio", "leave_one_out"])
@pytest.mark.parametrize("arrange", [list, sorted])
def test_nothing_is_learned_from_the_ties_of_random_data(tmp_path, split, arrange):
    """600 users take 8 of 100 items, all at one second, the next user days later: ten guesses find one in ten."""
    draw = random.Random(0)
    items = [f"i{n:03}" for n in range(100)]
    log = [(f"u{u}", item, 3 * u * DAY) for u in range(600) for item in arrange(draw.sample(items, 8))]
    source = write_source(tmp_path, log)
    prepare(source, PrepareSettings(k_core=1, split=split), "Shop", tmp_path / "auto")
    assert 0.05 < hit_rate(tmp_path / "auto") < 0.16
    prepare(source, PrepareSettings(k_core=1, split=split, ties="item"), "Shop", tmp_path / "item")
    assert hit_rate(tmp_path / "item") > 0.2, "the experiment would show a rule that can be learned"


def test_rows_whose_target_is_tied_are_counted_for_each_split(tmp_path):
    log = [("u", f"i{t}", t) for t in range(20)] + [("u", "a", 20), ("u", "b", 20)]
    log += [("u", f"x{t}", t) for t in (21, 22, 23)]
    with said() as lines:
        prepare(write_source(tmp_path, log), LOOSE, "Shop", tmp_path / "out")
    assert tied_targets(tmp_path / "out") == {"order": "file", "train": 0.0, "valid": 1.0, "test": 0.0}
    assert [line for line in lines if line.startswith("ties")] == [
        "ties: 2 interactions (8.0 %) share user and second with another; in the files the item ids of 100.0 % of such "
        "neighbours ascend; their order here is that of the files (prepare.ties)"
    ]
    assert "2 interactions (8.0 %) share user and second" in (tmp_path / "out" / "prepare.md").read_text("utf-8")


def test_many_ties_are_a_warning(tmp_path):
    assert any(
        line.startswith("ties: WARNING: 96 interactions (100.0 %)") for line in prepared(tmp_path, baskets(24))[2]
    )


def test_folders_that_count_no_ties_say_nothing_of_them(tmp_path):
    assert tied_targets(tmp_path) is None
    (tmp_path / "prepare.json").write_text(json.dumps({"splits": []}))
    assert tied_targets(tmp_path) is None


def test_a_log_without_ties_or_rows_is_left_as_it_is():
    none = np.zeros(0, np.uint32)
    log = Log(none, none, np.zeros(0, np.int64))
    assert settle(log, [], [], "auto") == (log, Ties(0, 0.0, 0, None, "file", False))
    log = Log(np.array([0, 0, 1], np.uint32), np.array([1, 0, 0], np.uint32), np.array([5, 6, 6]))
    assert not is_tied(log).any()
    assert settle(log, ["u", "v"], ["a", "b"], "shuffled")[0] is log


@pytest.mark.parametrize("times", [[0] * 11, [0] * 10 + [1], [*range(10), 10, 10, 11]])
def test_a_split_that_ties_empty_names_the_times_and_not_the_core(tmp_path, times):
    log = [("u", f"i{n}", time) for n, time in enumerate(times)]
    with pytest.raises(
        UserError, match=r"targets have the same time.*give times that differ, or .*leave_one_out"
    ) as info:
        prepare(write_source(tmp_path, log), LOOSE, "Shop", tmp_path / "out")
    assert "k_core" not in str(info.value)
