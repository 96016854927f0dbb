"""Dataset folders: a round trip, every fault with its file and row, ten faults at once, and the real Amazon data."""

import ast
import collections
import csv
import json

import numpy as np
import pytest

from tsrec_jax.data.catalogue import Item
from tsrec_jax.data.dataset import read_dataset, write_dataset
from tsrec_jax.data.faults import DatasetError, Faults
from tsrec_jax.data.folder_files import Reading
from tsrec_jax.data.folder_sids import parse_index
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.row_facts import keys, repeats
from tsrec_jax.data.user_sequences import user_sequences
from tsrec_jax.errors import UserError


def test_a_written_folder_reads_back_equal(folder, catalogue, splits, token_descriptions):
    found = read_dataset(folder)
    assert found.name == "Shop"
    assert found.path == folder
    assert found.catalogue == catalogue
    assert found.token_descriptions == token_descriptions
    assert list(found.splits) == ["train", "valid", "test"]
    for split, rows in splits.items():
        assert found.splits[split].users == rows.users
        assert found.splits[split].histories == rows.histories
        assert found.splits[split].targets.tolist() == rows.targets.tolist()


def test_the_keyword_file_and_the_test_split_may_be_absent(tmp_path, catalogue, splits):
    del splits["test"]
    write_dataset("Shop", catalogue, splits, (), tmp_path / "shop")
    found = read_dataset(tmp_path / "shop")
    assert found.token_descriptions == {}
    assert list(found.splits) == ["train", "valid"]


def test_the_hash_depends_on_the_contents_and_not_on_the_place(folder, tmp_path, catalogue, splits, token_descriptions):
    write_dataset("Shop", catalogue, splits, token_descriptions.values(), tmp_path / "again")
    before = read_dataset(folder).data_hash
    assert read_dataset(tmp_path / "again").data_hash == before
    edit_json(folder / "Shop.item.json", lambda items: items["p2"].update(brand="Other"))
    assert read_dataset(folder).data_hash != before


def test_ids_may_be_numbers_and_descriptions_lists_written_as_text(folder):
    edit_cell(folder / "train.csv", 4, "history_item_id", "['p3', 42, 'p2']")
    edit_cell(folder / "train.csv", 4, "history_item_sid", "['<a_10><b_1><c_3>', '<a_2><b_7><c_1>', '<a_9><b_2><c_0>']")
    edit_json(folder / "Shop.item.json", lambda items: items["p1"].update(description="['One. ', '', 'Two.']"))
    found = read_dataset(folder)
    assert found.splits["train"].histories[2] == (2, 3, 1)
    assert found.catalogue.items[0].description == "One. Two."


def test_texts_that_are_null_are_empty(folder):
    nothing = {"brand": None, "description": None, "categories": [None, "Tools"], "image": None}
    edit_json(folder / "Shop.item.json", lambda items: items["p1"].update(nothing))
    item = read_dataset(folder).catalogue.items[0]
    assert (item.brand, item.description, item.categories) == ("", "", "Tools")


def test_an_image_is_an_address_that_no_model_reads(folder, tmp_path, splits, token_descriptions):
    address = "https://shop.example/1.jpg?size=2"
    edit_json(folder / "Shop.item.json", lambda items: items["p1"].update(image=address))
    found = read_dataset(folder)
    item = found.catalogue.items[0]
    assert item.image == address and address not in item.read_by_models.values()
    write_dataset("Shop", found.catalogue, splits, token_descriptions.values(), tmp_path / "again")
    assert read_dataset(tmp_path / "again").catalogue == found.catalogue
    for bad in ("javascript:alert(1)", "1.jpg", "https://x/ y", ["https://x/1.jpg"]):
        edit_json(folder / "Shop.item.json", lambda items, bad=bad: items["p1"].update(image=bad))
        with pytest.raises(UserError, match=r"item 'p1': its image .* is no address"):
            read_dataset(folder)


def test_a_folder_is_never_overwritten(folder, catalogue, splits):
    before = read_dataset(folder).data_hash
    with pytest.raises(UserError, match="exists already"):
        write_dataset("Shop", catalogue, splits, (), folder)
    assert read_dataset(folder).data_hash == before


def test_a_folder_that_fails_half_way_does_not_appear(tmp_path, catalogue, splits):
    splits["test"] = None
    with pytest.raises(AttributeError):
        write_dataset("Shop", catalogue, splits, (), tmp_path / "shop")
    assert not (tmp_path / "shop").exists()


def edit_json(path, change):
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def edit_cell(path, row, column, value):
    """Row 1 is the header, as in the messages."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    rows[row - 1][rows[0].index(column)] = value
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def edit_lines(path, change):
    lines = path.read_text(encoding="utf-8").splitlines()
    change(lines)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def cell(file, row, column, value):
    return lambda folder: edit_cell(folder / file, row, column, value)


def in_json(file, change):
    return lambda folder: edit_json(folder / file, change)


def in_lines(file, change):
    return lambda folder: edit_lines(folder / file, change)


def in_bytes(file, old, new):
    def change(folder):
        raw = (folder / file).read_bytes()
        assert old in raw
        (folder / file).write_bytes(raw.replace(old, new, 1))

    return change


ITEM, INDEX, INFO, WORDS = "Shop.item.json", "Shop.index.json", "Shop.info.txt", "Shop.description_keywords.json"


def of_path(*path):
    return {"path": list(path), "description": "Things", "keywords": ["thing"]}


# name: (what is broken, file, place, words of the fault)
FAULTS = {
    "missing file": (lambda folder: (folder / INDEX).unlink(), INDEX, "", "file is missing"),
    "not UTF-8": (in_bytes(INFO, b"Blue", b"Bl\xe9e"), INFO, "row 2", "not UTF-8 (byte 0xe9)"),
    "not JSON": (in_bytes(ITEM, b"{", b"["), ITEM, "", "not valid JSON"),
    "JSON list": (lambda folder: (folder / ITEM).write_text("[]"), ITEM, "", "must be a JSON object"),
    "item twice": (in_bytes(ITEM, b'"p2"', b'"p1"'), ITEM, "key 'p1'", "stands twice"),
    "no title": (in_json(ITEM, lambda v: v["p2"].pop("title")), ITEM, "item 'p2'", "title"),
    "title with its SID": (
        in_json(ITEM, lambda v: v["p2"].update(title="Saw <b_2>")),
        ITEM,
        "item 'p2'",
        "names its own SID",
    ),
    "item without SID": (in_json(INDEX, lambda v: v.pop("p3")), INDEX, "item 'p3'", "has no SID"),
    "SID without item": (in_json(ITEM, lambda v: v.pop("p3")), INDEX, "item 'p3'", "is not an item of"),
    "SID as text": (
        in_json(INDEX, lambda v: v.update(p3="<a_10><b_1><c_3>")),
        INDEX,
        "item 'p3'",
        "needs a list of tokens",
    ),
    "two levels": (
        in_json(INDEX, lambda v: v["p3"].pop()),
        INDEX,
        "item 'p3'",
        "has 2 levels where the first item has 3",
    ),
    "four levels": (in_json(INDEX, lambda v: v["p3"].append("<d_1>")), INDEX, "item 'p3'", "has 4 levels"),
    "token on two levels": (
        in_json(INDEX, lambda v: v.update(p3=["<b_1>", "<a_10>", "<c_3>"])),
        INDEX,
        "item 'p3'",
        "token <b_1> stands on level 0 here and on level 1 before",
    ),
    "info of an unknown item": (
        in_lines(INFO, lambda lines: lines.append("<a_9><b_2><c_0>\tSaw\tp9")),
        INFO,
        "row 6",
        "item 'p9' is not in the index",
    ),
    "info item twice": (in_lines(INFO, lambda lines: lines.append(lines[0])), INFO, "row 6", "item 'p1' stands twice"),
    "info with another SID": (
        in_bytes(INFO, b"<c_0>", b"<c_1>"),
        INFO,
        "row 2",
        "item 'p2' has SID <a_9><b_2><c_1> here and <a_9><b_2><c_0> in the index",
    ),
    "info with another title": (in_bytes(INFO, b"Blue saw", b"Green saw"), INFO, "row 2", "another title"),
    "info with two fields": (in_bytes(INFO, b"\tBlue", b" Blue"), INFO, "row 2", "has 2 field(s)"),
    "info without an item": (in_lines(INFO, lambda lines: lines.pop(3)), INFO, "", "item '42' is missing"),
    "missing column": (in_bytes("valid.csv", b"item_sid", b"item_code"), "valid.csv", "row 1", "columns are missing"),
    "unknown target": (cell("test.csv", 2, "item_id", "p9"), "test.csv", "row 2", "item 'p9' is not in the catalogue"),
    "unknown item in a history": (
        cell("train.csv", 3, "history_item_id", "['p1', 'p7']"),
        "train.csv",
        "row 3",
        "item 'p7' is not in the catalogue",
    ),
    "target with another SID": (
        cell("train.csv", 2, "item_sid", "<a_9><b_1><c_3>"),
        "train.csv",
        "row 2",
        "item 'p2' has SID <a_9><b_1><c_3> here and <a_9><b_2><c_0> in the index",
    ),
    "history with another SID": (
        cell("train.csv", 2, "history_item_sid", "['<a_9><b_2><c_0>']"),
        "train.csv",
        "row 2",
        "item 'p1' has SID <a_9><b_2><c_0> here",
    ),
    "list that calls a function": (
        cell("train.csv", 2, "history_item_id", "__import__('os').listdir()"),
        "train.csv",
        "row 2",
        "history_item_id is not a Python list",
    ),
    "list cut short": (
        cell("train.csv", 5, "history_item_sid", "['<a_9>"),
        "train.csv",
        "row 5",
        "history_item_sid is not a Python list",
    ),
    "unhashable literal": (
        cell("train.csv", 5, "history_item_id", "{['p1']: 1}"),
        "train.csv",
        "row 5",
        "history_item_id is not a Python list",
    ),
    "empty history": (cell("valid.csv", 3, "history_item_id", "[]"), "valid.csv", "row 3", "the history is empty"),
    "lists of different lengths": (
        cell("valid.csv", 3, "history_item_id", "['p3']"),
        "valid.csv",
        "row 3",
        "history lengths disagree: 1 in history_item_id, 2 in history_item_sid",
    ),
    "lists as NumPy prints texts": (
        cell("train.csv", 3, "history_item_id", "['p1' 'p2']"),
        "train.csv",
        "row 3",
        "history_item_id has texts without a comma between: \"['p1' 'p2']\", as NumPy prints arrays",
    ),
    "titles as NumPy prints texts": (
        cell("train.csv", 3, "history_item_title", "['Red drill'\n 'Blue saw']"),
        "train.csv",
        "row 3",
        "history_item_title has texts without a comma between",
    ),
    "lists as NumPy prints numbers": (
        cell("train.csv", 4, "history_item_id", "[42  3\n 7]"),
        "train.csv",
        "row 4",
        "history_item_id is not a Python list: '[42  3\\n 7]', as NumPy prints arrays",
    ),
    "lists of NumPy numbers": (
        cell("train.csv", 4, "history_item_id", "[np.int64(42), np.int64(3)]"),
        "train.csv",
        "row 4",
        "as NumPy prints arrays",
    ),
    "tab in a title of info": (in_bytes(INFO, b"Blue saw", b"Blue\tsaw"), INFO, "row 2", "item 'p2' holds a tab"),
    "one token more": (
        in_json(INDEX, lambda v: v["p5"].append("<d_0>")),
        INDEX,
        "item 'p5'",
        "has 4 levels where the first item has 3; set config.dataset.ragged_sids=fill (",
    ),
    "two tokens more": (
        in_json(INDEX, lambda v: v["p5"].extend(["<d_0>", "<e_0>"])),
        INDEX,
        "item 'p5'",
        "has 5 levels where the first item has 3; make other SIDs with config.index.sids=make",
    ),
    "no user": (cell("train.csv", 3, "user_id", " "), "train.csv", "row 3", "user_id is empty"),
    "half of a character in a title": (
        in_json(ITEM, lambda v: v["p2"].update(title="Saw \ud83d")),
        ITEM,
        "item 'p2'",
        "its title holds half of a surrogate pair",
    ),
    "half of a character in a description": (
        in_json(ITEM, lambda v: v["p2"].update(description=["One", "\ude00"])),
        ITEM,
        "item 'p2'",
        "its description holds half of a surrogate pair",
    ),
    "half of a character in an id": (
        in_json(ITEM, lambda v: v.update({"p\ud83d": {"title": "Saw"}})),
        ITEM,
        "item 'p\\ud83d'",
        "its id holds a control character or half of a surrogate pair",
    ),
    "control character in an id": (
        in_json(ITEM, lambda v: v.update({"p\x00": {"title": "Saw"}})),
        ITEM,
        "item 'p\\x00'",
        "its id holds a control character",
    ),
    "title of control characters": (
        in_json(ITEM, lambda v: v["p2"].update(title="\x00\x07")),
        ITEM,
        "item 'p2'",
        "needs an object with a title",
    ),
    "half of a character in keywords": (
        in_json(WORDS, lambda v: v[2].update(keywords=["a", "b\ud83d"])),
        WORDS,
        "entry 3",
        "the keyword 'b\\ud83d' of token <a_10> holds half of a surrogate pair",
    ),
    "half of a character in words": (
        in_json(WORDS, lambda v: v[2].update(description="b\ud83d")),
        WORDS,
        "entry 3",
        "the description of token <a_10> holds half of a surrogate pair",
    ),
    "token that is a list": (
        in_json(WORDS, lambda v: v[2].update(token=["<a_10>"])),
        WORDS,
        "entry 3",
        "is carried by no",
    ),
    "row cut short": (
        in_lines("train.csv", lambda lines: lines.append("u9,x")),
        "train.csv",
        "row 6",
        "another number of fields",
    ),
    "cell beyond CSV": (
        in_lines("train.csv", lambda lines: lines.append("x" * (csv.field_size_limit() + 1))),
        "train.csv",
        "row 6",
        "not valid CSV",
    ),
    "empty split": (in_lines("valid.csv", lambda lines: lines.__delitem__(slice(1, None))), "valid.csv", "", "no rows"),
    "words for an unknown token": (
        in_json(WORDS, lambda v: v[1].update(token="<a_77>")),
        WORDS,
        "entry 2",
        "token '<a_77>' is carried by no item",
    ),
    "words twice": (in_json(WORDS, lambda v: v.append(v[0])), WORDS, "entry 10", "token <a_2> stands twice"),
    "token without words": (in_json(WORDS, lambda v: v.pop(0)), WORDS, "", "token <a_2> has no entry"),
    "no description": (in_json(WORDS, lambda v: v[2].update(description=" ")), WORDS, "entry 3", "has no description"),
    "description that names its token": (
        in_json(WORDS, lambda v: v[2].update(description="What <a_10> holds")),
        WORDS,
        "entry 3",
        "names the token",
    ),
    "no keywords": (in_json(WORDS, lambda v: v[2].update(keywords=[])), WORDS, "entry 3", "needs a list of keywords"),
    "path twice": (
        in_json(WORDS, lambda v: v.extend([of_path("<a_9>", "<b_1>")] * 2)),
        WORDS,
        "entry 11",
        "path <a_9><b_1> stands twice",
    ),
    "path of no item": (
        in_json(WORDS, lambda v: v.append(of_path("<a_9>", "<b_7>"))),
        WORDS,
        "entry 10",
        "path ['<a_9>', '<b_7>'] begins the SID of no item",
    ),
    "path of one token": (
        in_json(WORDS, lambda v: v.append(of_path("<a_9>"))),
        WORDS,
        "entry 10",
        "path ['<a_9>'] is no list of two tokens or more",
    ),
    "path that is a text": (
        in_json(WORDS, lambda v: v.append({**of_path(), "path": "<a_9><b_1>"})),
        WORDS,
        "entry 10",
        "path '<a_9><b_1>' is no list",
    ),
    "path and token": (
        in_json(WORDS, lambda v: v[2].update(path=["<a_9>", "<b_1>"])),
        WORDS,
        "entry 3",
        "one of the keys token and path, not both",
    ),
    "path that names its token": (
        in_json(WORDS, lambda v: v.append({**of_path("<a_9>", "<b_1>"), "description": "What <a_9> holds"})),
        WORDS,
        "entry 10",
        "the description of path <a_9><b_1> names the token <a_9>",
    ),
    "words without keys": (in_json(WORDS, lambda v: v[2].pop("keywords")), WORDS, "entry 3", "needs the keys"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_its_file_and_row(folder, fault):
    breaks, file, place, words = FAULTS[fault]
    breaks(folder)
    with pytest.raises(DatasetError) as caught:
        read_dataset(folder, "Shop")
    lines = str(caught.value).splitlines()
    start = f"{folder / file}{f', {place}' if place else ''}: "
    assert any(start in line and words in line for line in lines), str(caught.value)


def test_one_fault_is_one_line(folder):
    edit_cell(folder / "valid.csv", 3, "history_item_id", "[]")
    with pytest.raises(
        DatasetError,
        match=r"^1 fault in the dataset folder: .*valid\.csv, row 3: the history is empty: .*",
    ):
        read_dataset(folder)


def test_ten_faults_are_listed_at_once_and_the_others_counted(folder):
    edit_lines(folder / "valid.csv", lambda lines: lines.extend(f"u{row},x" for row in range(4, 16)))
    edit_cell(folder / "test.csv", 2, "item_id", "p9")
    with pytest.raises(DatasetError) as caught:
        read_dataset(folder)
    lines = str(caught.value).splitlines()
    assert lines[0] == "13 faults in the dataset folder:"
    assert len(lines) == 12
    for number, line in enumerate(lines[1:11]):
        assert f"valid.csv, row {number + 4}:" in line
    assert lines[11].strip() == "and 3 more; `tsrec check FOLDER` lists all of them"


def test_faults_of_several_files_are_listed_together(folder):
    edit_cell(folder / "train.csv", 2, "item_id", "p9")
    edit_cell(folder / "valid.csv", 2, "item_id", "p8")
    edit_json(folder / WORDS, lambda words: words[0].update(keywords=[]))
    with pytest.raises(DatasetError, match="3 faults") as caught:
        read_dataset(folder)
    assert all(name in str(caught.value) for name in ("train.csv, row 2", "valid.csv, row 2", f"{WORDS}, entry 1"))


def test_equal_rows_are_kept(folder):
    edit_lines(folder / "train.csv", lambda lines: lines.extend([lines[1], lines[1]]))
    found = read_dataset(folder)
    rows = found.splits["train"]
    assert [(rows.users[n], rows.histories[n], rows.targets[n]) for n in (0, 4, 5)] == [("u1", (0,), 1)] * 3
    assert found.notes == (f"{folder / 'train.csv'}: 2 of 6 rows repeat an earlier one; all are kept",)


def test_rows_of_two_splits_are_counted_and_refused_where_a_setting_asks(folder):
    lines = (folder / "train.csv").read_text(encoding="utf-8").splitlines()
    edit_lines(folder / "test.csv", lambda here: here.extend([lines[2], lines[4]]))
    (note,) = read_dataset(folder).notes
    shared = (
        "2 of 3 rows stand in train.csv too, with user, history and item (the first: user 'u1' with 2 items before)"
    )
    assert note == f"{folder / 'test.csv'}: {shared}; config.dataset.overlaps=refuse makes that a fault"
    with pytest.raises(DatasetError) as caught:
        read_dataset(folder, reading=Reading(overlaps="refuse"))
    way = "take them out of train.csv, or set config.dataset.overlaps=warn"
    assert str(caught.value) == f"1 fault in the dataset folder: {folder / 'test.csv'}: {shared}; {way}"


@pytest.fixture
def ragged(folder):
    """The folder with `<d_4>` behind the SID of p5, which p1 has without it, and `<d_0>` behind that of p2."""
    index = json.loads((folder / INDEX).read_text())
    changes = {}
    for item, token in (("p5", "<d_4>"), ("p2", "<d_0>")):
        changes[item] = "".join(index[item])
        index[item].append(token)
    (folder / INDEX).write_text(json.dumps(index))
    with (folder / INFO).open() as file:
        lines = [line.split("\t") for line in file]
    titles = {line[2].strip(): line[1] for line in lines}
    (folder / INFO).write_text("".join(f"{''.join(index[item])}\t{titles[item]}\t{item}\n" for item in index))
    for split in ("train", "valid", "test"):
        with (folder / f"{split}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            row["item_sid"] = "".join(index[row["item_id"]])
            row["history_item_sid"] = str(["".join(index[item]) for item in ast.literal_eval(row["history_item_id"])])
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    edit_json(
        folder / WORDS, lambda words: words.extend([{**words[0], "token": "<d_0>"}, {**words[0], "token": "<d_4>"}])
    )
    return folder


def test_sids_of_which_some_have_one_token_more_are_refused_filled_or_cut(ragged, splits):
    with pytest.raises(DatasetError, match=r"item 'p2': has 4 levels .*ragged_sids=fill .* or drop"):
        read_dataset(ragged)
    filled = read_dataset(ragged, reading=Reading(ragged_sids="fill"))
    assert [sid[3] for sid in filled.catalogue.sids] == ["<d_0>", "<d_0>", "<d_0>", "<d_0>", "<d_4>"]
    assert len(filled.catalogue.items_of_sid) == 5
    assert filled.splits["train"] == splits["train"]
    assert set(filled.token_descriptions) == set(filled.catalogue.tokens)
    assert "3 of 5 SIDs have got a token 4, <d_0>" in filled.notes[0]
    cut = read_dataset(ragged, reading=Reading(ragged_sids="drop"))
    assert cut.catalogue.num_levels == 3
    assert set(cut.token_descriptions) == set(cut.catalogue.tokens)
    assert "is left out of 2 of 5 SIDs; 2 items share a SID now" in cut.notes[0]
    assert len({found.data_hash for found in (filled, cut)}) == 2


def test_paths_as_the_files_have_them_are_no_fault_where_sids_are_filled_or_cut(ragged):
    edit_json(ragged / WORDS, lambda words: words.append(of_path("<a_9>", "<b_1>", "<c_3>", "<d_4>")))
    assert "<a_9><b_1><c_3><d_4>" in read_dataset(ragged, reading=Reading(ragged_sids="fill")).token_descriptions
    cut = read_dataset(ragged, reading=Reading(ragged_sids="drop"))
    assert set(cut.token_descriptions) == set(cut.catalogue.tokens)
    edit_json(ragged / WORDS, lambda words: words.append(of_path("<a_9>", "<b_1>", "<c_3>", "<d_9>")))
    with pytest.raises(DatasetError, match=r"1 fault .*begins the SID of no item"):
        read_dataset(ragged, reading=Reading(ragged_sids="drop"))


def test_tokens_without_a_number_cannot_be_filled_up(ragged):
    edit_json(ragged / INDEX, lambda index: index["p5"].append(index["p5"].pop().replace("4", "x")))
    with pytest.raises(DatasetError, match=r"'p2': has 4 levels .* has no number to go on from, so set .*=drop"):
        read_dataset(ragged, reading=Reading(ragged_sids="fill"))


def test_a_token_that_filling_adds_needs_no_words(ragged):
    for name, mode in (("<d_0>", "fill"), ("<d_4>", "drop")):
        edit_json(ragged / WORDS, lambda words, name=name: [words.remove(w) for w in words[:] if w["token"] == name])
        if mode == "fill":
            with pytest.raises(DatasetError, match="token <d_0> has no entry"):
                read_dataset(ragged, reading=Reading(ragged_sids=mode))
    edit_json(ragged / INDEX, lambda index: index["p2"].pop())
    for name in (INFO, "train.csv", "valid.csv", "test.csv"):
        (ragged / name).write_text((ragged / name).read_text().replace("<d_0>", ""))
    with pytest.raises(DatasetError, match=r"1 fault .*token <d_4> has no entry"):
        read_dataset(ragged, reading=Reading(ragged_sids="fill"))
    edit_json(ragged / WORDS, lambda words: words.append({**words[0], "token": "<d_4>"}))
    found = read_dataset(ragged, reading=Reading(ragged_sids="fill"))
    assert set(found.catalogue.tokens) - set(found.token_descriptions) == {"<d_0>"}


def test_a_filled_token_is_one_that_no_other_item_has(ragged):
    def same(index):
        index["p5"][-1], index["42"] = "<d_0>", [*index["p1"], "<d_1>"]

    edit_json(ragged / INDEX, same)
    faults = Faults()
    index = parse_index(
        ragged / INDEX, (ragged / INDEX).read_text(), items("p1", "p2", "p3", "42", "p5"), "fill", faults
    )
    assert (index.read["p1"][-1], index.read["p3"][-1], faults.lines) == ("<d_2>", "<d_0>", [])


def items(*ids):
    return tuple(Item(each, each) for each in ids)


def test_the_odd_ends_and_marks_that_programs_write_change_nothing(folder):
    before = read_dataset(folder)
    for name in (INFO, "train.csv"):
        text = (folder / name).read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        (folder / name).write_bytes(b"\xef\xbb\xbf" + text)
    (folder / INFO).write_bytes((folder / INFO).read_bytes() + b"\r\n\r\n")
    for name in (ITEM, INDEX, WORDS):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    found = read_dataset(folder)
    assert (found.catalogue, found.token_descriptions, found.notes) == (before.catalogue, before.token_descriptions, ())
    assert found.splits == before.splits


def test_control_characters_in_texts_are_read_as_spaces_and_counted(folder):
    edit_json(folder / ITEM, lambda items: items["p2"].update(title="Blue\x00saw", description="Cuts\x96wood\n\tfast"))
    edit_json(folder / WORDS, lambda words: words[0].update(description="a\x07b", keywords=["c\x00d"]))
    (folder / INFO).write_text((folder / INFO).read_text().replace("Blue saw", "Blue\x00saw"))
    found = read_dataset(folder)
    item = found.catalogue.items[1]
    assert (item.title, item.description) == ("Blue saw", "Cuts wood\n\tfast")
    words = found.token_descriptions[found.catalogue.tokens[0]]
    assert (words.description, words.keywords) == ("a b", ("c d",))
    assert found.notes == (f"{folder / ITEM}: control characters in the texts of 1 item(s) are read as spaces ('p2')",)


@pytest.mark.parametrize("title", ["nan", "None", "NULL", "N/A", " NaN ", r"\N", "N.A."])
def test_titles_that_stand_for_none_are_noted(folder, title):
    edit_json(folder / ITEM, lambda items: items["p2"].update(title=title))
    (folder / INFO).write_text((folder / INFO).read_text().replace("Blue saw", title))
    (note,) = read_dataset(folder).notes
    assert note.startswith(f"{folder / ITEM}: 1 of 5 titles are what programs write where there is none")


@pytest.mark.parametrize("title", ["Nan", "NAN", "Nat"])
def test_titles_that_may_be_names_are_noted_no_more_than_preparing_drops_them(folder, title):
    edit_json(folder / ITEM, lambda items: items["p2"].update(title=title))
    (folder / INFO).write_text((folder / INFO).read_text().replace("Blue saw", title))
    assert not read_dataset(folder).notes


def test_histories_written_newest_first_are_refused(tmp_path, catalogue, splits):
    bought = {f"u{user}": [(user + step * step) % 5 for step in range(6)] for user in range(3)}
    rows = [(user, items[:k], items[k]) for user, items in bought.items() for k in range(1, 6)]
    for name, turned in (("right", False), ("turned", True)):
        histories = tuple(tuple(history[::-1] if turned else history) for _, history, _ in rows)
        train = Interactions(tuple(user for user, _, _ in rows), histories, np.array([t for *_, t in rows], np.int32))
        write_dataset("Shop", catalogue, {**splits, "train": train}, (), tmp_path / name)
    assert len(read_dataset(tmp_path / "right").splits["train"]) == 15
    with pytest.raises(DatasetError, match=r"histories are written newest first: .*turn every history_\* list round"):
        read_dataset(tmp_path / "turned")


def test_a_folder_that_is_not_there_or_holds_no_or_two_datasets(folder, tmp_path):
    with pytest.raises(DatasetError, match=r"dataset.path='.*absent': no such folder"):
        read_dataset(tmp_path / "absent", "Shop")
    with pytest.raises(DatasetError, match=r"item.json': is a file; name the folder that holds it"):
        read_dataset(next(folder.glob("*.item.json")), "Shop")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"expected one NAME.item.json, found none"):
        read_dataset(tmp_path / "empty")
    (folder / "Other.item.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"found several \(Other, Shop\); set dataset.name"):
        read_dataset(folder)
    assert read_dataset(folder, "Shop").name == "Shop"


def test_the_real_industrial_data_has_the_published_shape(shared_data):
    found = read_dataset(shared_data / "Industrial_and_Scientific")
    catalogue = found.catalogue
    assert (catalogue.num_items, len(catalogue.items_of_sid), len(catalogue.tokens)) == (3686, 3670, 560)
    assert [len(tokens) for tokens in catalogue.level_tokens] == [48, 256, 256]
    assert (len(found.splits["valid"]), len(found.splits["test"])) == (4532, 4533)
    assert set(found.token_descriptions) == set(catalogue.tokens)
    assert max(len(history) for rows in found.splits.values() for history in rows.histories) == 10


def test_the_real_office_data_reads_without_a_test_split_and_keywords(shared_data):
    found = read_dataset(shared_data / "Office_Products")
    catalogue = found.catalogue
    assert (catalogue.num_items, len(catalogue.items_of_sid), len(catalogue.tokens)) == (3459, 3444, 600)
    assert [len(tokens) for tokens in catalogue.level_tokens] == [88, 256, 256]
    assert (list(found.splits), len(found.splits["valid"]), found.token_descriptions) == (["train", "valid"], 4866, {})


def test_the_whole_train_split_of_industrial_reads_with_its_repeats(shared_data):
    if not (shared_data / "Industrial_rebuilt").is_dir():
        pytest.skip("needs Industrial_rebuilt in ../shared/data/amazon, which is not here")
    found = read_dataset(shared_data / "Industrial_rebuilt")
    rows = found.splits["train"]
    assert (len(rows), repeats(rows)) == (36_259, 14)  # fifteen rows are one
    linked = user_sequences(rows)
    assert sorted(row for chain in linked for row in chain.rows) == list(range(len(rows)))
    again = collections.Counter(keys(rows)).most_common(1)[0]
    assert again[1] == 15 and set(again[0][1]) == {again[0][2]}
