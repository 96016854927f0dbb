"""What a preparation loses: counted by reason, and refused where it is much, with the way out."""

import dataclasses
import json
import pathlib

import pytest

from tests.prepare.test_preparation import in_a_line, read_splits, write_source
from tests.said import said
from tsrec_jax.errors import UserError
from tsrec_jax.prepare.preparation import prepare
from tsrec_jax.prepare.settings import PrepareSettings

STRICT = PrepareSettings(k_core=1)


def run(tmp_path, log, titles=None, settings=STRICT, append=""):
    """(summary of prepare.json, reported lines); `append` is written behind the interactions as it is."""
    source = write_source(tmp_path, log, titles)
    with pathlib.Path(source.interactions[0]).open("a") as file:
        file.write(append)
    with said() as lines:
        prepare(source, settings, "Shop", tmp_path / "out")
    return json.loads((tmp_path / "out" / "prepare.json").read_text("utf-8")), lines


# --- lines that cannot be read ---


def test_lines_beyond_the_limit_are_refused_by_reason_with_the_way_out(tmp_path):
    bad = "u0,i1,soon\nu0,i1,later\nu0\n"
    with pytest.raises(
        UserError,
        match=r"log\.csv: 3 of 44 lines cannot be read, more than config\.prepare\.max_unreadable=0\.05 allows: "
        r"timestamp is neither seconds nor an ISO 8601 date \(2\), 1 field\(s\) where the header has 3 \(1\); the "
        r"first: line 43: .*'soon'",
    ):
        run(tmp_path, in_a_line(41), append=bad)
    assert not (tmp_path / "out").exists()
    summary, _ = run(tmp_path, in_a_line(41), append=bad, settings=dataclasses.replace(STRICT, max_unreadable=0.1))
    (file,) = summary["interaction_files"]
    reasons = {"timestamp is neither seconds nor an ISO 8601 date": 2, "1 field(s) where the header has 3": 1}
    assert (file["malformed"], file["reasons"]) == (3, reasons)
    table = (tmp_path / "out" / "prepare.md").read_text("utf-8")
    assert "| log.csv | timestamp is neither seconds nor an ISO 8601 date |     2 |" in table


def test_a_share_of_exactly_the_limit_is_allowed(tmp_path):
    summary, _ = run(tmp_path, in_a_line(38), append="u0\nu0\n")
    assert summary["interaction_files"][0]["malformed"] == 2


def test_a_stray_quote_cannot_take_a_tenth_of_a_table(tmp_path):
    log = [(f"u{n % 7}", f"i{n % 50}", n) for n in range(900)]
    rest = "".join(f"u1,i{n},{n}\n" for n in range(100))
    with pytest.raises(
        UserError, match=r"log\.csv: 101 of 1,001 lines cannot be read.*line 902: not valid CSV .*a quote"
    ):
        run(tmp_path, log, {f"i{n}": "Saw" for n in range(100)}, append=f'u1,"i1,5\n{rest}')


def test_the_items_have_the_same_limit(tmp_path):
    titles = [(f"i{n}", "Saw") for n in range(11)] + [("", "no id")]
    with pytest.raises(UserError, match=r"items\.csv: 1 of 12 lines cannot be read.*item is not an id \(1\)"):
        run(tmp_path, in_a_line(11), titles)


# --- interactions without an item ---


def test_unmatched_interactions_are_refused_by_reason_with_ids_to_look_for(tmp_path):
    titles = {f"i{n}": "Saw" for n in range(2, 11)} | {"i1": "nan"}
    log = [*in_a_line(11, users=2), *(("u1", "i0", 200 + n) for n in range(4))]
    with pytest.raises(
        UserError,
        match=r"8 of 26 interactions have no item with a usable title, more than config\.prepare\.max_unmatched=0\.2 "
        r"allows: item is not in the item files \(6\), item has no title \(2\); of 2 items, the first: 'i0', 'i1'\.",
    ):
        run(tmp_path, log, titles)
    summary, _ = run(tmp_path, log, titles, dataclasses.replace(STRICT, max_unmatched=0.35))
    assert [step["dropped"] for step in summary["steps"][3:5]] == [6, 2]


def test_long_titles_are_the_choice_of_the_settings(tmp_path):
    titles = {f"i{n}": "one two" if n < 5 else "one" for n in range(20)}
    summary, _ = run(tmp_path, in_a_line(20), titles, dataclasses.replace(STRICT, max_title_words=1))
    assert summary["num_items"] == 15


def test_blanks_around_ids_lose_nothing(tmp_path):
    log = [(f" {user}", f"{item} ", time) for user, item, time in in_a_line(11)]
    summary, _ = run(tmp_path, log, {f"\t{item}": "Saw" for _, item, _ in in_a_line(11)})
    assert {step["dropped"] for step in summary["steps"]} == {0}
    assert read_splits(tmp_path / "out")["train"][0] == ("u0", ("i0",), "i1")


# --- what is left out otherwise ---


def test_cold_items_and_entries_that_repeat_are_counted(tmp_path):
    titles = [*((f"i{n}", "Saw") for n in range(20)), ("i3", "Again"), ("i3", ""), ("i19", "Cold again")]
    summary, lines = run(tmp_path, in_a_line(12), titles)
    assert (summary["num_items"], summary["cold_items"], summary["repeated_entries"]) == (12, 8, 3)
    words = "12 written; 8 left out because nobody interacted with them; 3 entries of an item that has an earlier one"
    assert f"items: {words}" in lines
    table = (tmp_path / "out" / "prepare.md").read_text("utf-8")
    assert (
        "8 items of the item files are left out because nobody interacted with them; 3 entries are of an item" in table
    )


def test_a_core_that_leaves_less_than_a_fifth_is_a_warning(tmp_path):
    log = [*in_a_line(11), *in_a_line(11), *(("v", f"x{n}", 500 + n) for n in range(60))]
    log += [("w", item, 1000 + time) for _, item, time in in_a_line(11)]
    titles = {item: "Saw" for _, item, _ in log}
    _, lines = run(tmp_path / "few", log, titles, dataclasses.replace(STRICT, k_core=2))
    # 22 of 82 are more than a fifth.
    assert "2-core: 22 interactions left" in lines
    log += [("y", f"y{n}", 900 + n) for n in range(60)]
    titles |= {f"y{n}": "Saw" for n in range(60)}
    _, lines = run(tmp_path / "fewer", log, titles, dataclasses.replace(STRICT, k_core=2))
    assert "2-core: WARNING: only 22 interactions left of 142: lower prepare.k_core=2 to keep more" in lines


def test_nothing_left_names_the_step_that_dropped_most(tmp_path):
    settings = dataclasses.replace(STRICT, max_unreadable=1, max_unmatched=1)
    log = [("u", "i0", 1), ("v", "i1", 2)]
    with pytest.raises(
        UserError, match=r"nothing is left: 9 of 11 interactions were dropped because: line is malformed; mend"
    ):
        run(tmp_path / "lines", log, settings=settings, append="u,i0,soon\n" * 9)
    log += [("u", f"x{n}", n) for n in range(5)]
    with pytest.raises(
        UserError, match=r"5 of 7 interactions were dropped because: item is not in the item files; mend"
    ):
        run(tmp_path / "items", log, {"i0": "Saw", "i1": "Saw"}, settings)
    with pytest.raises(UserError, match=r"no interaction has an item with a usable title \(item has no title: 7\)"):
        run(tmp_path / "titles", log, {item: "None" for _, item, _ in log}, settings)
    with pytest.raises(UserError, match=r"prepare\.k_core=9 leaves nothing of 7 interactions, since .*; lower it"):
        run(tmp_path / "core", log, settings=dataclasses.replace(settings, k_core=9))
    with pytest.raises(UserError, match=r"k_core=1 leaves nothing of 2 interactions, since .* two at least; widen"):
        run(tmp_path / "one", log[:2], settings=dataclasses.replace(settings, k_core=1))


def test_control_characters_and_halves_of_pairs_are_cleaned_where_texts_come_in(tmp_path):
    source = write_source(tmp_path, in_a_line(11))
    texts = "".join(f'"i{n}","Drill\u0000 \u0007{n}","\u009bred\u200b\u2028"\n' for n in range(11))
    pathlib.Path(source.items[0]).write_text(f"item,title,description\n{texts}", encoding="utf-8")
    for clean in (True, False):
        settings = dataclasses.replace(STRICT, clean_titles=clean)
        prepare(source, settings, "Shop", tmp_path / f"out-{clean}")
        item = json.loads((tmp_path / f"out-{clean}" / "Shop.item.json").read_text("utf-8"))["i3"]
        assert (item["title"], item["description"]) == ("Drill 3", "red")
