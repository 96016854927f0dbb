"""Files as they lie about: compressed, encoded and separated in any way, or refused by what they are."""

import bz2
import csv
import gzip
import io
import lzma
import tarfile
import zipfile

import polars as pl
import pytest

from tests.prepare.test_raw import META_2023, REVIEW_2023, as_lines
from tsrec_jax.errors import UserError
from tsrec_jax.prepare.raw import RawSource, read_raw
from tsrec_jax.prepare.settings import columns_of

LOG = "user,item,timestamp\nJürgen,木,5\nu2,B2,6\n"
ITEMS = "item,title\n木,Säge\nB2,Bohrer\n"
ROWS = [("Jürgen", "木", 5), ("u2", "B2", 6)]


def read(tmp_path, log, items=ITEMS, kind="tables", names=("log.csv", "items.csv"), **source):
    """(interactions, items, counts of the interaction file) of two files' bytes or texts."""
    paths = []
    for name, data in zip(names, (log, items), strict=True):
        paths.append(tmp_path / name)
        paths[-1].write_bytes(data.encode() if isinstance(data, str) else data)
    tables = read_raw(RawSource(kind, *paths, **source), tmp_path / "scratch")
    return tables.interactions.collect().rows(), tables.items.collect(), tables.interaction_files[0]


# --- compression ---


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.jsonl", "log"])
@pytest.mark.parametrize(
    "pack",
    [
        bytes,
        gzip.compress,
        lambda data: gzip.compress(gzip.compress(data)),
        lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:]),
        bz2.compress,
        lzma.compress,
    ],
)
def test_tables_are_unpacked_whatever_their_names_say(tmp_path, name, pack):
    assert read(tmp_path, pack(LOG.encode()), names=(name, "items.csv"))[0] == ROWS


@pytest.mark.parametrize("name", ["reviews.jsonl.gz", "reviews.jsonl", "reviews.txt"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, lambda data: gzip.compress(gzip.compress(data)), bz2.compress])
def test_reviews_are_unpacked_whatever_their_names_say(tmp_path, name, pack):
    lines = b"\xef\xbb\xbf" + as_lines([REVIEW_2023, REVIEW_2023]).replace(b"\n", b"\r\n")
    rows, _, count = read(tmp_path, pack(lines), as_lines([META_2023]), "amazon2023", (name, "meta.jsonl"))
    assert (rows, count.lines, count.malformed) == ([("U1", "B1", 1_400_000_000)] * 2, 2, 0)


def test_parquet_is_read_under_any_name(tmp_path):
    buffer = io.BytesIO()
    pl.DataFrame({"user": ["u"], "item": ["i"], "timestamp": [5]}).write_parquet(buffer)
    assert read(tmp_path, buffer.getvalue())[0] == [("u", "i", 5)]
    (tmp_path / "again").mkdir()
    with pytest.raises(UserError, match=r"is a Parquet file, and Amazon's hold JSON lines; use config.prepare.source"):
        read(tmp_path / "again", buffer.getvalue(), as_lines([META_2023]), "amazon2023")


def zipped(data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("log.csv", data)
    return buffer.getvalue()


def tarred(data):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        entry = tarfile.TarInfo("log.csv")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (zipped(LOG), "is a ZIP archive or an Excel workbook; unpack it, or save the sheet as CSV"),
        (tarred(LOG.encode()), "is a tar archive; unpack it"),
        (b"\x28\xb5\x2f\xfd" + bytes(20), "is compressed with zstd; unpack it with `zstd -d`"),
        (b"\xd0\xcf\x11\xe0" + bytes(20), "is an old Excel workbook; save the sheet as CSV"),
        (b"\n<!DOCTYPE html><title>Not found", "is an HTML page, perhaps what a server said"),
        (gzip.compress(b"<html>"), "is an HTML page"),
        (b'{"user": "u"}\n', "holds JSON; tables are CSV or Parquet"),
        (gzip.compress(b"PAR1" + bytes(20)), "is a Parquet file that was compressed once more; unpack it"),
        (b"\xef\xbb\xbf\n", "holds no header; its first line must name the columns"),
        (b"", "is empty"),
        (gzip.compress(b""), "is empty"),
        (gzip.compress(LOG.encode() * 999)[:-40], "the gzip stream ends early, after line"),
        (bz2.compress(LOG.encode())[:-4], "the bzip2 stream ends early, after line 0"),
        (b"BZh9" + bytes(50), "not a sound bzip2 file after line 0"),
        (lzma.compress(LOG.encode() * 999)[:-90], "the xz stream ends early, after line"),
        (gzip.compress(LOG.encode()) + b"junk", "not a sound gzip file after line"),
    ],
    ids=lambda part: part if isinstance(part, str) else "data",  # gzip's bytes hold the time, and workers must agree
)
def test_what_cannot_be_read_is_named_by_what_it_is(tmp_path, data, words):
    with pytest.raises(UserError, match=rf"log\.csv: {words}"):
        read(tmp_path, data)


def test_a_folder_in_the_place_of_a_file(tmp_path):
    (tmp_path / "log.csv").mkdir()
    with pytest.raises(UserError, match=r"log\.csv: is a folder; name the file in it"):
        read_raw(RawSource("tables", tmp_path / "log.csv", tmp_path), tmp_path / "scratch")


# --- encodings ---


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_encodings_that_tell_their_name_and_all_line_ends(tmp_path, encoding, ending):
    log = LOG.replace("u2", "\nu2").replace("\n", ending)  # an empty line counts for nothing
    rows, _, count = read(tmp_path, log.encode(encoding))
    assert (rows, count.lines, count.malformed) == (ROWS, 2, 0)


def test_big_endian_utf_16_with_its_mark(tmp_path):
    assert read(tmp_path, b"\xfe\xff" + LOG.encode("utf-16-be"))[0] == ROWS


def test_other_encodings_are_refused_with_the_line_and_read_where_they_are_named(tmp_path):
    items = "item,title\n" + "".join(f"i{n},{'Tür' if n % 2 else 'Tor'} {n}\n" for n in range(12))
    with pytest.raises(
        UserError, match=r"items\.csv: is not UTF-8 \(line 3: byte 0xfc\); set config\.prepare\.encoding"
    ):
        read(tmp_path, LOG, items.encode("cp1252"))
    (tmp_path / "named").mkdir()
    log = LOG.replace("木", "i1").encode("cp1252")
    rows, read_items, _ = read(tmp_path / "named", log, items.encode("cp1252"), encoding="cp1252")
    assert read_items["title"].to_list()[:2] == ["Tor 0", "Tür 1"] and rows[0] == ("Jürgen", "i1", 5)


def test_utf_16_without_its_mark_is_refused_and_read_where_it_is_named(tmp_path):
    for order in ("le", "be"):
        (tmp_path / order).mkdir()
        data = LOG.encode(f"utf-16-{order}")
        with pytest.raises(
            UserError, match=f"holds NUL bytes, as UTF-16 does; set config.prepare.encoding=utf-16-{order}"
        ):
            read(tmp_path / order, data)
        (tmp_path / f"{order}-named").mkdir()
        items = ITEMS.encode(f"utf-16-{order}")
        assert read(tmp_path / f"{order}-named", data, items, encoding=f"utf-16-{order}")[0] == ROWS


def test_a_mark_is_stronger_than_the_setting(tmp_path):
    assert read(tmp_path, LOG.encode("utf-8-sig"), ITEMS.encode("utf-16"), encoding="cp1252")[0] == ROWS


def test_the_setting_is_for_the_files_that_are_not_utf_8(tmp_path):
    items = "item,title\n" + "".join(f"i{n},Tür {n}\n" for n in range(12))
    log = LOG.replace("木", "i1").encode("cp1252")
    rows, read_items, _ = read(tmp_path, log, items, encoding="cp1252")
    assert read_items["title"][0] == "Tür 0" and rows[0] == ("Jürgen", "i1", 5)


def test_bytes_that_an_encoding_does_not_have_cost_their_row(tmp_path):
    rows, _, count = read(tmp_path, LOG.encode("utf-8").replace(b"u2", b"\x81"), encoding="cp1252")
    assert len(rows) == 1 and count.reasons == {"not CP1252": 1}
    (tmp_path / "cut").mkdir()
    with pytest.raises(UserError, match=r"log\.csv: not utf-16 after line"):
        read(tmp_path / "cut", LOG.encode("utf-16")[:-1])


def test_a_few_bad_bytes_are_damage_and_no_other_encoding(tmp_path):
    rows, _, count = read(tmp_path, LOG.encode() + b"u\xff,B1,7\n")
    assert (rows, count.reasons, count.examples) == (ROWS, {"not UTF-8": 1}, ("line 4: not UTF-8",))


def test_amazon_files_are_utf_8(tmp_path):
    with pytest.raises(UserError, match="is UTF-16, and Amazon's files are UTF-8"):
        read(tmp_path, as_lines([REVIEW_2023]).decode().encode("utf-16"), as_lines([META_2023]), "amazon2023")


@pytest.mark.parametrize("encoding", ["ansi-8", "rot13", "base64", "idna"])
def test_encodings_that_do_not_exist_or_are_none_of_texts(encoding):
    with pytest.raises(UserError, match=rf"encoding='{encoding}' is not known; use a name as utf-8, utf-16, cp1252"):
        RawSource("tables", "a", "b", encoding=encoding)


# --- separators, headers and columns ---


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_the_one_that_gives_the_columns(tmp_path, separator):
    cells = [["note, a; b|c\td", "user", "item", "timestamp"], ["x;y,z|\t", "u;1", "i|1", "5"]]
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=separator).writerows(cells)
    assert read(tmp_path, buffer.getvalue(), ITEMS.replace(",", separator))[0] == [("u;1", "i|1", 5)]


@pytest.mark.parametrize("line", ["sep=;", '"sep=;"', "\ufeffsep=;"])
def test_the_line_that_names_the_separator_to_excel_is_no_header(tmp_path, line):
    rows, _, count = read(tmp_path, f"{line}\n{LOG.replace(',', ';')}")
    assert (rows, count.lines) == (ROWS, 2)


def test_lines_of_nothing_but_separators_are_empty(tmp_path):
    rows, _, count = read(tmp_path, ",,\n" + LOG + ",,\n , ,\n" * 50)
    assert (rows, count.lines, count.malformed) == (ROWS, 2, 0)


def test_a_header_that_stands_again_is_no_row(tmp_path):
    rows, _, count = read(tmp_path, LOG + LOG)
    assert (rows, count.lines, count.reasons) == (ROWS * 2, 5, {"the header again": 1})
    assert count.examples == ("line 4: the header again",)


def test_a_column_that_stands_twice_is_refused_where_it_is_read(tmp_path):
    with pytest.raises(UserError, match=r"log\.csv: column item stands twice in the header; take one of them out"):
        read(tmp_path, "user,item,item,timestamp\nu,i,j,5\n")
    (tmp_path / "unread").mkdir()
    assert read(tmp_path / "unread", "user,x,x,item,timestamp\nu,1,2,i,5\n")[0] == [("u", "i", 5)]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_may_have_other_names(tmp_path, kind):
    log = pl.DataFrame({"userId": ["u"], "movieId": ["m"], "timestamp": [5], "item": ["no"]})
    items = pl.DataFrame({"id": ["m"], "name": ["Heat"], "maker": ["Acme"], "title": ["no"]})
    for frame, name in ((log, "log"), (items, "items")):
        getattr(frame, f"write_{kind}")(tmp_path / name)
    columns = columns_of("user=userId, interactions.item = movieId,items.item=id,title=name,brand=maker,")
    source = RawSource("tables", tmp_path / "log", tmp_path / "items", columns)
    tables = read_raw(source, tmp_path / "scratch")
    assert tables.interactions.collect().rows() == [("u", "m", 5)]
    assert tables.items.collect().rows() == [(0, "m", "Heat", "", "Acme", "", "")]


def test_columns_that_are_not_there_are_named_with_the_way_out(tmp_path):
    with pytest.raises(UserError, match=r"column user is missing; .*: User, item, timestamp. .*columns='user=NAME'"):
        read(tmp_path, LOG.replace("user", "User"))
    (tmp_path / "brand").mkdir()
    with pytest.raises(UserError, match=r"items\.csv: column maker is missing; its columns are: item, title"):
        read(tmp_path / "brand", LOG, columns={"brand": "maker"})
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match=r"items\.csv: column movie is missing; .*columns='items\.item=NAME'"):
        read(tmp_path / "other", LOG.replace("item", "movie"), columns={"item": "movie"})


def test_what_is_said_of_one_table_is_stronger_than_what_is_said_of_both(tmp_path):
    columns = columns_of("items.item=item,item=movie")
    assert read(tmp_path, LOG.replace("item", "movie"), columns=columns)[0] == ROWS


def test_a_column_that_is_named_for_two_things(tmp_path):
    with pytest.raises(UserError, match=r"log\.csv: column item is named for two things in config\.prepare\.columns"):
        read(tmp_path, LOG, columns=columns_of("user=item"))


@pytest.mark.parametrize("text", ["user", "user=", "=x", "user=a,user=b"])
def test_column_settings_that_say_nothing(text):
    with pytest.raises(UserError, match=r"config\.prepare\.columns=.* is not of the form user=NAME, or names it twice"):
        columns_of(text)


@pytest.mark.parametrize("name", ["price", "items.price", "items.user", "interactions.title"])
def test_columns_that_no_table_has(name):
    with pytest.raises(UserError, match=rf"'{name}' is not one of user, item, timestamp, title, descr"):
        RawSource("tables", "a", "b", columns_of(f"{name}=cost"))


# --- cells ---


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1600003600.0", 1_600_003_600),
        ("1600003600.", 1_600_003_600),
        ("1.6E+09", 1_600_000_000),
        ("-5.0", -5),
        ("2020-09-13 13:26:40 UTC", 1_600_003_600),
        ("2020-09-13T13:26:40gmt", 1_600_003_600),
        ("2020-09-13 13:26:40Z", 1_600_003_600),
        ("2020-09-13 13:26:40.75", 1_600_003_600),
    ],
)
def test_times_as_programs_write_them(tmp_path, text, seconds):
    assert read(tmp_path, f"user,item,timestamp\nu,i,{text}\n")[0] == [("u", "i", seconds)]


@pytest.mark.parametrize(
    "text", ["1600003600.5", "nan", "inf", "1e999", "1600003600000.0", "1_600", "²", "20140513.0", "UTC", "13.9.2020"]
)
def test_times_that_are_none(tmp_path, text):
    rows, _, count = read(tmp_path, f"user,item,timestamp\nu,i,5\nu,i,{text}\n")
    assert (len(rows), count.malformed) == (1, 1) and "timestamp" in count.examples[0]


def test_whole_floats_of_parquet_and_json_are_times(tmp_path):
    pl.DataFrame({"user": ["a", "b", "c"], "item": ["i"] * 3, "timestamp": [5.0, None, 5.5]}).write_parquet(
        tmp_path / "log"
    )
    (tmp_path / "items").write_text(ITEMS)
    tables = read_raw(RawSource("tables", tmp_path / "log", tmp_path / "items"), tmp_path / "scratch")
    assert tables.interactions.collect().rows() == [("a", "i", 5)]
    (tmp_path / "json").mkdir()
    review = {**REVIEW_2023, "timestamp": 1.4e12}
    rows, *_ = read(tmp_path / "json", as_lines([review]), as_lines([META_2023]), "amazon2023")
    assert rows == [("U1", "B1", 1_400_000_000)]


def test_ids_lose_the_blanks_around_them_in_every_table(tmp_path):
    rows, items, _ = read(tmp_path, "user,item,timestamp\n u 1\t, i1,5\n", "item,title\ni1\u00a0,Saw\n")
    assert (rows, items["item"].to_list()) == ([("u 1", "i1", 5)], ["i1"])
    (tmp_path / "json").mkdir()
    review, meta = {**REVIEW_2023, "parent_asin": " B1"}, {**META_2023, "parent_asin": "B1 "}
    rows, items, _ = read(tmp_path / "json", as_lines([review]), as_lines([meta]), "amazon2023")
    assert rows[0][1] == items["item"][0] == "B1"


def test_an_id_that_is_a_whole_text_costs_its_row(tmp_path):
    rows, _, count = read(tmp_path, LOG + f"{'x' * 1025},B2,7\n{'x' * 1024},B2,7\n")
    assert (len(rows), count.reasons) == (3, {"user is longer than 1024 characters": 1})


def test_long_texts_are_read_and_the_limit_of_cells_is_as_before(tmp_path):
    before = csv.field_size_limit()
    _, items, _ = read(tmp_path, LOG, f"item,title,description\nB2,Saw,{'word ' * 60_000}\n")
    assert len(items["description"][0]) == 300_000
    assert csv.field_size_limit() == before
    (tmp_path / "broken").mkdir()
    with pytest.raises(UserError):
        read(tmp_path / "broken", "user,item,timestamp\nu,,\n")
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    "nothing", ["nan", "NaN", "None", "none", "NULL", "null", "N/A", "n/a", "<NA>", "undefined", " nan "]
)
def test_what_programs_write_for_nothing_is_no_text(tmp_path, nothing):
    _, items, _ = read(tmp_path, LOG, f"item,title,brand\nB2,{nothing},{nothing}\nB3,{nothing} saw,Nan\n")
    assert items.select("title", "brand").rows() == [("", ""), (f"{nothing} saw", "Nan")]


def test_lists_lose_the_parts_that_say_nothing(tmp_path):
    meta = {**META_2023, "description": ["nan", "One."], "features": [None, "None"], "store": "None"}
    _, items, _ = read(tmp_path, as_lines([REVIEW_2023]), as_lines([meta]), "amazon2023")
    assert items.select("description", "brand").row(0) == ("One.", "")
