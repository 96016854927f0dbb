"""A file of histories becomes a file of recommendations, in whatever format, also after a stop."""

import csv
import json

import polars as pl
import pytest

from tests.serving.fakes import FakeRecommender
from tests.serving.test_live_catalogue import live
from tsrec_jax.errors import UserError
from tsrec_jax.main import main
from tsrec_jax.serving.answers import Request
from tsrec_jax.serving.catalogue_changes import Changes, NotKept
from tsrec_jax.serving.offline import changes_for, recommend_file

USERS = [(f"u{n}", [f"B{n:03d}", f"B{n * 7 % 30:03d}"]) for n in range(10)]


def write(path, users=USERS):
    """The users' histories as a file."""
    if path.suffix == ".parquet":
        pl.DataFrame({"id": [name for name, _ in users], "history": [ids for _, ids in users]}).write_parquet(path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("id", "history"), *((name, json.dumps(ids)) for name, ids in users)])
    else:
        path.write_text("".join(json.dumps({"id": name, "history": ids}) + "\n" for name, ids in users))
    return path


def recommend(histories, out, recommender=None, k=3, skip_unknown=False):
    lines = []
    recommender = recommender or FakeRecommender()
    recommend_file(recommender, histories, out, k=k, skip_unknown=skip_unknown, report=lines.append, part=4)
    return lines


def wanted(ids, k=3):
    return [item.item_id for item in FakeRecommender().alone(Request(tuple(ids), k)).items]


@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".parquet"])
def test_every_format_in_and_out_holds_the_same(tmp_path, kind):
    lines = recommend(write(tmp_path / f"in{kind}"), tmp_path / "out.jsonl")
    assert lines == ["4 histories", "8 histories", "10 histories"]
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(one["id"], [item["id"] for item in one["items"]]) for one in found] == [
        (name, wanted(ids)) for name, ids in USERS
    ]
    recommend(write(tmp_path / "again.jsonl"), tmp_path / f"out2{kind}")
    if kind != ".jsonl":
        table = (pl.read_csv if kind == ".csv" else pl.read_parquet)(tmp_path / f"out2{kind}")
        rows = [(name, rank, item) for name, ids in USERS for rank, item in enumerate(wanted(ids), 1)]
        assert table.select("id", "rank", "item").rows() == rows
    assert not list(tmp_path.glob("*.parts"))


def test_it_goes_on_where_it_stopped_and_ends_as_if_it_had_not(tmp_path):
    histories, out = write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    stopped = FakeRecommender()
    answer = stopped.answer
    stopped.answer = lambda requests: kill() if stopped.batches else answer(requests)
    with pytest.raises(KeyboardInterrupt):
        recommend(histories, out, stopped)
    assert not out.exists()
    second = FakeRecommender()
    recommend(histories, out, second)
    assert sum(map(len, second.batches)) == 6  # the first part is not asked for again
    whole = tmp_path / "whole.jsonl"
    recommend(histories, whole)
    assert out.read_bytes() == whole.read_bytes()


def test_all_of_a_file_is_of_the_catalogue_of_its_beginning(tmp_path):
    histories, out, path = write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl", tmp_path / "changes"
    assert live(path=changes_for(out, path)).last_change == 0 and not path.exists()
    live(path=path).block(["1"])
    catalogue = live(path=changes_for(out, path))

    def recommender():
        made = FakeRecommender()
        made.catalogue.changes, made.catalogue.last_change = catalogue.changes, catalogue.last_change
        return made

    with pytest.raises(UserError, match="row 9: item 'GONE'"):
        recommend(write(histories, [*USERS[:8], ("x", ["GONE"])]), out, recommender())
    live(path=path).block(["1"], blocked=False)
    live(path=path).block(["2"])
    for taken_over in (catalogue, live(path=changes_for(out, path))):
        taken_over.follow()
        assert taken_over.last_change == 1 and taken_over.get("1").blocked and not taken_over.get("2").blocked
        with pytest.raises(NotKept, match="read as of change 1"):
            taken_over.block(["3"])
    assert live(path=changes_for(tmp_path / "another.jsonl", path)).last_change == 3
    Changes(path).compact(lambda dropped: None)  # and what the catalogue was is not known any more
    with pytest.raises(UserError, match="another journal; remove it"):
        recommend(histories, out, recommender())


def test_two_at_once_do_not_share_the_parts(tmp_path):
    histories, out = write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    first = FakeRecommender()
    answer = first.answer

    def answered_beside_another(requests):
        with pytest.raises(UserError, match=r"out.jsonl: another process is making it"):
            recommend(histories, out)
        return answer(requests)

    first.answer = answered_beside_another
    recommend(histories, out, first)
    assert len(out.read_text().splitlines()) == len(USERS) and not list(tmp_path.glob("*.parts"))


def kill():
    raise KeyboardInterrupt


def test_parts_of_another_run_are_not_mixed_in(tmp_path):
    histories, out = write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    bad = write(tmp_path / "bad.jsonl", [*USERS[:4], ("x", ["GONE"])])
    with pytest.raises(UserError, match="row 5: item 'GONE'"):
        recommend(bad, out)
    with pytest.raises(UserError, match=r"another histories.*remove it"):
        recommend(histories, out)
    with pytest.raises(UserError, match="another k"):
        recommend(bad, out, k=4)
    changed = FakeRecommender()
    changed.catalogue.last_change = 1  # an item may have been taken down: what was written before may recommend it
    with pytest.raises(UserError, match="another catalogue; remove it to begin anew"):
        recommend(bad, out, changed)
    recommend(bad, tmp_path / "out2.jsonl", skip_unknown=True)
    *_, last = map(json.loads, (tmp_path / "out2.jsonl").read_text().splitlines())
    assert last == {"id": "x", "items": [], "exact": True, "used": 0, "skipped": ["GONE"]}


def test_what_stops_before_its_first_part_binds_no_later_run(tmp_path):
    histories = write(tmp_path / "in.jsonl", [("x", ["GONE", "B001"]), *USERS])
    out, path, folder = tmp_path / "out.jsonl", tmp_path / "changes", tmp_path / "out.jsonl.parts"
    live(path=path).block(["1"])
    for skip_unknown, error in ((False, UserError), (True, KeyboardInterrupt)):
        stopped = FakeRecommender()
        stopped.answer = lambda requests: kill()
        with pytest.raises(error):
            recommend(histories, out, stopped, skip_unknown=skip_unknown)
        assert not folder.exists()
    folder.mkdir()  # as a killed process leaves it
    (folder / "made_with.json").write_text('{"catalogue": 0, "unknown": "refuse"}')
    assert changes_for(out, path).last_number == 1 and live(path=changes_for(out, path)).get("1").blocked
    recommend(histories, out, skip_unknown=True)
    assert len(out.read_text().splitlines()) == 11 and not folder.exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("in.txt", "", "must end in .jsonl, .csv or .parquet"),
        ("none.jsonl", None, "No such file"),
        ("in.jsonl", "", "no history"),
        ("in.jsonl", '{"history": ["B001"]}\n{"history": "B001"}\n', "row 2: `history` must be a list"),
        ("in.jsonl", "{", "row 1: not JSON"),
        ("in.jsonl", "[1]", "row 1: must be an object"),
        ("in.jsonl", '{"history": []}', "row 1: the history is empty"),
        ("in.csv", "user\n1\n", "no column `history`"),
        ("in.csv", "history\nB001 B002\n", "row 1: `history` is 'B001 B002'"),
        ("in.parquet", "no parquet", "cannot be read"),
    ],
)
def test_a_file_that_is_wrong_is_one_line(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=words) as error:
        recommend(tmp_path / name, tmp_path / "out.jsonl")
    assert "\n" not in str(error.value) and not (tmp_path / "out.jsonl").exists()


def test_a_result_that_is_there_is_kept(tmp_path):
    (tmp_path / "out.csv").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        recommend(write(tmp_path / "in.csv"), tmp_path / "out.csv")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--histories=a.csv"], "--out=FILE together"),
        (["--histories=a.csv", "--out=b.csv", "--history=1"], "not both"),
        (["--unknown=no"], "skip"),
    ],
)
def test_the_command_names_what_it_lacks(tmp_path, capsys, flags, words):
    assert main(["recommend", f"--workdir={tmp_path}", *flags]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.splitlines()) == 1
