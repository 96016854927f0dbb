"""Raw sources: two Amazon formats and plain tables in one shape, bad lines counted and shown, broken files named."""

import datetime
import gzip
import hashlib
import json

import polars as pl
import pytest

from tests.said import said
from tsrec_jax.errors import UserError
from tsrec_jax.prepare import raw, raw_rows, raw_tables
from tsrec_jax.prepare.raw import RawSource, read_raw

REVIEW_2018 = {"reviewerID": "U1", "asin": "B1", "unixReviewTime": 1_400_000_000, "reviewText": "good", "overall": 5.0}
REVIEW_2023 = {"user_id": "U1", "asin": "B1x", "parent_asin": "B1", "timestamp": 1_400_000_000_999, "text": "good"}
META_2018 = {
    "asin": "B1",
    "title": "Drill &amp; bit",
    "description": ["One.", "", "Two."],
    "brand": "Acme",
    "category": ["Tools", "Drills"],
    "imageURL": ["", "https://shop.example/1.jpg", "https://shop.example/2.jpg"],
    "also_buy": ["B2"],
}
META_2023 = {
    "parent_asin": "B1",
    "title": "Drill",
    "description": ["One."],
    "features": ["Red", "Loud"],
    "store": "Acme",
    "categories": ["Tools", "Drills"],
    "images": [{"hi_res": None, "thumb": "https://shop.example/small.jpg", "large": "https://shop.example/1.jpg"}],
}


def as_lines(entries):
    return b"".join((entry if isinstance(entry, bytes) else json.dumps(entry).encode()) + b"\n" for entry in entries)


def write(path, data):
    if isinstance(data, list):
        data = as_lines(data)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(tmp_path, kind, interactions, items):
    """(interactions, items, counts of the interaction files, counts of the item files, reported lines)"""
    with said() as lines:
        tables = read_raw(RawSource(kind, interactions, items), tmp_path / "scratch")
    return tables.interactions.collect(), tables.items.collect(), tables.interaction_files, tables.item_files, lines


def read_amazon(tmp_path, year, reviews, metadata, ending=".jsonl.gz"):
    reviews = write(tmp_path / f"reviews{ending}", reviews)
    return read(tmp_path, f"amazon{year}", reviews, write(tmp_path / f"meta{ending}", metadata))


@pytest.mark.parametrize("ending", [".json.gz", ".jsonl.gz", ".jsonl", ".json"])
def test_amazon_2018_in_every_ending(tmp_path, ending):
    interactions, items, *_ = read_amazon(tmp_path, 2018, [REVIEW_2018], [META_2018], ending)
    assert interactions.schema == raw_rows.INTERACTION_SCHEMA
    assert interactions.rows() == [("U1", "B1", 1_400_000_000)]
    assert items.rows(named=True) == [
        {
            "entry": 0,
            "item": "B1",
            "title": "Drill &amp; bit",
            "description": "One. Two.",
            "brand": "Acme",
            "categories": "Tools > Drills",
            "image": "https://shop.example/1.jpg",
        }
    ]


def test_amazon_2023_has_milliseconds_parents_and_features(tmp_path):
    orphan = {**REVIEW_2023, "parent_asin": None, "timestamp": -1}
    interactions, items, *_ = read_amazon(tmp_path, 2023, [REVIEW_2023, orphan], [META_2023])
    assert interactions.rows() == [("U1", "B1", 1_400_000_000), ("U1", "B1x", -1)]
    assert items.rows() == [(0, "B1", "Drill", "One. Red Loud", "Acme", "Tools > Drills", "https://shop.example/1.jpg")]


def test_texts_that_are_missing_are_empty_and_broken_emoji_do_not_stop_the_reading(tmp_path):
    metadata = [
        {"asin": "B1"},
        {"asin": "B2", "title": None, "description": "plain"},
        b'{"asin": "B3", "title": "a\\ud83d"}',
    ]
    _, items, *_ = read_amazon(tmp_path, 2018, [REVIEW_2018], metadata)
    assert items["title"].to_list() == ["", "", "a?"]
    assert items["description"].to_list() == ["", "plain", ""]


BAD_REVIEWS = {
    "not JSON": b'{"user_id": "U1", ',
    "not UTF-8 (byte 0xff)": b'{"user_id": "\xff"}',
    "not a JSON object": b"[1, 2]",
    "user_id missing": {**REVIEW_2023, "user_id": ""},
    "parent_asin and asin missing": {"user_id": "U1", "timestamp": 5},
    "timestamp missing": {"user_id": "U1", "asin": "B1"},
    "timestamp is not a whole number: '1.5'": {**REVIEW_2023, "timestamp": 1.5},
    "timestamp is not a whole number: 'True'": {**REVIEW_2023, "timestamp": True},
    "is beyond the year 9999": {**REVIEW_2023, "timestamp": 10**18},
    "user_id is not an id: ['U1']": {**REVIEW_2023, "user_id": ["U1"]},
    "parent_asin holds control characters": {**REVIEW_2023, "parent_asin": "B\t1"},
    "user_id holds control characters": b'{"user_id": "\\ud800", "asin": "B1", "timestamp": 5}',
}


@pytest.mark.parametrize("reason", BAD_REVIEWS)
def test_a_bad_line_is_counted_and_shown_and_the_others_are_read(tmp_path, reason):
    reviews = [REVIEW_2023, BAD_REVIEWS[reason], {**REVIEW_2023, "user_id": "U2"}]
    interactions, _, (count,), _, lines = read_amazon(tmp_path, 2023, reviews, [META_2023])
    assert interactions["user"].to_list() == ["U1", "U2"]
    assert (count.lines, count.malformed) == (3, 1)
    (example,) = count.examples
    assert example.startswith("line 2: ") and reason in example
    assert any("3 lines, 1 malformed; line 2: " in line for line in lines)


def test_only_the_first_bad_lines_are_shown_and_blank_lines_count_for_nothing(tmp_path):
    reviews = [b"", REVIEW_2023, b"  ", *[b"x"] * 9, REVIEW_2023]
    _, _, (count,), _, _ = read_amazon(tmp_path, 2023, reviews, [META_2023])
    assert (count.lines, count.malformed) == (11, 9)
    assert [example.split(":")[0] for example in count.examples] == [f"line {number}" for number in range(4, 9)]


def test_bad_lines_of_metadata_are_counted(tmp_path):
    _, items, _, (count,), _ = read_amazon(tmp_path, 2023, [REVIEW_2023], [{"title": "no id"}, META_2023])
    assert (count.lines, count.malformed, count.examples) == (2, 1, ("line 1: parent_asin and asin missing",))
    assert items.rows()[0][:2] == (0, "B1")


def test_a_line_without_end_costs_itself_only(tmp_path, monkeypatch):
    monkeypatch.setattr(raw_rows, "_LONGEST_LINE", 1000)
    long = {**REVIEW_2023, "text": "x" * 5000}
    interactions, _, (count,), _, _ = read_amazon(tmp_path, 2023, [long, REVIEW_2023], [META_2023])
    assert (len(interactions), count.lines, count.malformed) == (1, 2, 1)


def test_batches_and_several_files_keep_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(raw, "_INTERACTION_BATCH", 7)
    monkeypatch.setattr(raw, "_ITEM_BATCH", 3)
    monkeypatch.setattr(raw, "_REPORT_EVERY", 10)
    first, second = ([{**REVIEW_2018, "unixReviewTime": t} for t in times] for times in (range(20), range(20, 25)))
    reviews = [write(tmp_path / "a.jsonl.gz", first), write(tmp_path / "b.json", second)]
    metadata = write(tmp_path / "m.json", [{"asin": f"B{i}"} for i in range(10)])
    interactions, items, counts, _, lines = read(tmp_path, "amazon2018", reviews, metadata)
    assert interactions["timestamp"].to_list() == list(range(25))
    assert (items["entry"].to_list(), items["item"].to_list()) == (list(range(10)), [f"B{i}" for i in range(10)])
    assert [(count.file, count.lines) for count in counts] == [("a.jsonl.gz", 20), ("b.json", 5)]
    assert counts[0].sha256 == hashlib.sha256(reviews[0].read_bytes()).hexdigest()
    assert lines[:2] == ["read a.jsonl.gz: 10 lines", "read a.jsonl.gz: 20 lines"]


def test_a_gzip_stream_cut_short_is_named(tmp_path):
    reviews = write(tmp_path / "reviews.jsonl.gz", [{**REVIEW_2023, "text": str(i) * 50} for i in range(2000)])
    reviews.write_bytes(reviews.read_bytes()[:-500])
    source = RawSource("amazon2023", reviews, write(tmp_path / "meta.jsonl", [META_2023]))
    with pytest.raises(UserError, match=r"reviews\.jsonl\.gz: the gzip stream ends early, after line \d+; delete"):
        read_raw(source, tmp_path / "scratch")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            "no gzip",
            r"reviews\.jsonl\.gz: is an HTML page, perhaps what a server said instead of the file; fetch it again",
        ),
        ("flipped", r"reviews\.jsonl\.gz: not a sound gzip file"),
    ],
)
def test_a_file_that_is_no_sound_gzip_is_named(tmp_path, damage, words):
    reviews = write(tmp_path / "reviews.jsonl.gz", [{**REVIEW_2023, "text": str(i) * 50} for i in range(2000)])
    body = bytearray(reviews.read_bytes())
    body[len(body) // 2 : len(body) // 2 + 20] = bytes(20)
    reviews.write_bytes(b"<html>Not found</html>" if damage == "no gzip" else body)
    source = RawSource("amazon2023", reviews, write(tmp_path / "meta.jsonl", [META_2023]))
    with pytest.raises(UserError, match=words):
        read_raw(source, tmp_path / "scratch")


def test_a_file_of_another_kind_is_refused_with_its_first_line(tmp_path):
    with pytest.raises(UserError, match=r"none of its 1 lines is an interaction .*; line 1: timestamp missing"):
        read_amazon(tmp_path, 2023, [REVIEW_2018], [META_2023])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"meta\.jsonl\.gz: is empty"):
        read_amazon(tmp_path / "empty", 2023, [REVIEW_2023], [])


def test_sources_that_cannot_be(tmp_path):
    with pytest.raises(UserError, match="kind 'amazon2014' are not known; use one of: amazon2018, amazon2023, tables"):
        RawSource("amazon2014", "a.json", "b.json")
    with pytest.raises(UserError, match="at least one file of items"):
        RawSource("tables", "a.csv", ())
    with pytest.raises(UserError, match=r"none\.csv: no such file"):
        read_raw(RawSource("tables", tmp_path / "none.csv", tmp_path / "none.csv"), tmp_path / "scratch")


ITEMS_CSV = 'item,title,description,brand,categories\nB1,Drill,"Red, and\nloud",Acme,Tools\n'


def test_csv_tables(tmp_path):
    text = (
        "\ufefftimestamp,rating,user,item\n"
        "1400000000,5,U1,B1\n"
        "2014-05-13,4,U1,B2\n"
        "2014-05-13T16:53:20,4,7,'B\\\n"
        '2014-05-13T18:53:20+02:00,4,"U,""2""",B1\n'
        "-5,4,U3,B1\n"
        "20140532,4,U4,B1\n"
    )
    interactions, items, *_ = read(
        tmp_path,
        "tables",
        write(tmp_path / "log.csv", text.encode()),
        write(tmp_path / "items.csv", ITEMS_CSV.encode()),
    )
    assert interactions.rows() == [
        ("U1", "B1", 1_400_000_000),
        ("U1", "B2", 1_399_939_200),
        ("7", "'B\\", 1_400_000_000),
        ('U,"2"', "B1", 1_400_000_000),
        ("U3", "B1", -5),
        ("U4", "B1", 20_140_532),
    ]
    assert items.rows() == [(0, "B1", "Drill", "Red, and\nloud", "Acme", "Tools", "")]


def test_bad_rows_of_csv_tables_are_counted_and_shown_with_their_line(tmp_path, monkeypatch):
    monkeypatch.setattr(raw, "SHOWN_LINES", 20)
    rows = [
        b"U1,B1,5",
        b'"U\n1",B1,5',
        b"U1,B1",
        b"U1,B1,soon",
        b",B1,5",
        b"U\xff,B1,5",
        b"U1,B1,1400000000000",
        b"U1,B1,20140513",
        b"U2,B1,6",
    ]
    log = write(tmp_path / "log.csv", b"user,item,timestamp\n" + b"\n".join(rows) + b"\n")
    interactions, _, (count,), _, _ = read(tmp_path, "tables", log, write(tmp_path / "items.csv", ITEMS_CSV.encode()))
    assert interactions["user"].to_list() == ["U1", "U2"]
    expected = (
        "line 3: user holds control characters: 'U\\n1'; a quote opens on this line and takes the next 1 with it",
        "line 5: 2 field(s) where the header has 3",
        "line 6: timestamp is neither seconds nor an ISO 8601 date: 'soon'",
        "line 7: user is not an id: ''",
        "line 8: not UTF-8",
        "line 9: timestamp is beyond the year 9999; it must be in seconds, not milliseconds: 1400000000000",
        "line 10: timestamp is a date without hyphens, or seconds of 1970; write dates as 2014-05-13: 20140513",
    )
    assert (count.lines, count.malformed) == (10, len(expected) + 1)
    for example, start in zip(count.examples, expected, strict=True):
        assert example.startswith(start)


@pytest.mark.parametrize(
    ("row", "kept", "reason"),
    [
        ('"U1,B1,5', 0, "not valid CSV (unexpected end of data)"),
        ('U1,B1,"5', 0, "not valid CSV (unexpected end of data)"),
        ('"U1,B1,5\nU1,B1,6\nU1"x,B1,7', 10, "not valid CSV"),
        ('U1,"B1,5\nU1,B1,6\nU1,B1",7', 10, "item holds control characters"),
        ('U1,"B1,5\nU1,B1,6",7', 10, "item holds control characters"),
    ],
)
def test_every_line_that_a_stray_quote_takes_along_is_counted(tmp_path, row, kept, reason):
    log = write(tmp_path / "log.csv", f"user,item,timestamp\nU0,B1,5\n{row}\n".encode() + b"U2,B1,6\n" * 10)
    interactions, _, (count,), _, _ = read(tmp_path, "tables", log, write(tmp_path / "items.csv", ITEMS_CSV.encode()))
    lines = row.count("\n") + 1 + 10
    assert (len(interactions), count.lines, count.malformed) == (1 + kept, 1 + lines, lines - kept)
    assert count.examples[0].startswith(f"line 3: {reason}") and "a quote opens on this line" in count.examples[0]


def test_a_stray_quote_in_the_last_column_does_not_become_a_title(tmp_path):
    log = write(tmp_path / "log.csv", b"user,item,timestamp\nU1,B1,5\n")
    items = write(tmp_path / "items.csv", b'item,title\nB0,Rasp\nB1,"Drill\nB2,Saw\nB3,Plane\n')
    _, items, _, (count,), _ = read(tmp_path, "tables", log, items)
    assert (items["title"].to_list(), count.lines, count.malformed) == (["Rasp"], 4, 3)


def test_a_csv_cell_beyond_all_bounds_costs_its_row(tmp_path):
    text = f"user,item,timestamp\nU1,B1,5\nU1,{'x' * 200_000},5\nU2,B1,6\n"
    log = write(tmp_path / "log.csv", text.encode())
    interactions, _, (count,), _, _ = read(tmp_path, "tables", log, write(tmp_path / "items.csv", ITEMS_CSV.encode()))
    assert interactions["user"].to_list() == ["U1", "U2"]
    assert count.malformed == 1 and "line 3: not valid CSV" in count.examples[0]


def test_parquet_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(raw_tables, "_PARQUET_SLICE", 2)
    noon = datetime.datetime(2014, 5, 13, 12)
    log = pl.DataFrame(
        {"user": [1, 2, 3], "item": ["B1", None, "B2"], "timestamp": [noon, noon, noon], "more": [0, 0, 0]}
    )
    log.write_parquet(tmp_path / "log.parquet")
    items = pl.DataFrame({"item": ["B1"], "title": ["Drill"], "categories": [["Tools", "Drills"]]})
    items.write_parquet(tmp_path / "items.parquet")
    interactions, items, (count,), _, _ = read(tmp_path, "tables", tmp_path / "log.parquet", tmp_path / "items.parquet")
    assert interactions.rows() == [("1", "B1", 1_399_982_400), ("3", "B2", 1_399_982_400)]
    assert (count.malformed, count.examples) == (1, ("line 2: item is not an id: None",))
    assert items.rows() == [(0, "B1", "Drill", "", "", "Tools > Drills", "")]


@pytest.mark.parametrize("times", [[datetime.date(2014, 5, 13)], ["2014-05-13"], [1_399_939_200]])
def test_parquet_times_may_be_dates_texts_or_seconds(tmp_path, times):
    pl.DataFrame({"user": ["U"], "item": ["B1"], "timestamp": times}).write_parquet(tmp_path / "log.parquet")
    items = write(tmp_path / "items.csv", ITEMS_CSV.encode())
    assert read(tmp_path, "tables", tmp_path / "log.parquet", items)[0]["timestamp"].to_list() == [1_399_939_200]


def test_a_table_without_a_column_is_named_with_the_columns_it_has(tmp_path):
    items = write(tmp_path / "items.csv", ITEMS_CSV.encode())
    log = write(tmp_path / "log.csv", b"user,product,time\nU1,B1,5\n")
    with pytest.raises(
        UserError, match=r"log\.csv: column item, timestamp is missing; its columns are: user, product, time"
    ):
        read(tmp_path, "tables", log, items)
    pl.DataFrame({"user": ["U"], "item": ["B"]}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(UserError, match=r"log\.parquet: column timestamp is missing; its columns are: user, item"):
        read(tmp_path / "again", "tables", tmp_path / "log.parquet", items)


def test_parquet_files_that_are_none_or_hold_ids_as_floats(tmp_path):
    items = write(tmp_path / "items.csv", ITEMS_CSV.encode())
    with pytest.raises(UserError, match=r"log\.parquet: not a Parquet file"):
        read(tmp_path, "tables", write(tmp_path / "log.parquet", b"PAR1user,item\n" * 9), items)
    pl.DataFrame({"user": [7.0], "item": ["B"], "timestamp": [5]}).write_parquet(tmp_path / "float.parquet")
    with pytest.raises(UserError, match="column user is Float64; ids are text or whole numbers"):
        read(tmp_path / "again", "tables", tmp_path / "float.parquet", items)
