"""The verb `catalogue`, on an export of which it needs nothing but the items."""

import contextlib
import json

import pytest

from tests.serving.conftest import small_catalogue
from tsrec_jax.files import write_json
from tsrec_jax.main import main
from tsrec_jax.serving import catalogue_command
from tsrec_jax.serving.catalogue_changes import Change, Changes, changes_file, now
from tsrec_jax.serving.catalogue_command import Command
from tsrec_jax.serving.export_files import CATALOGUE_FILE

HEADER = "id,title,sid,blocked,brand,categories,image"
SIDS = ["".join(sid) for sid in small_catalogue().sids]


@pytest.fixture
def export(tmp_path):
    write_json(tmp_path / "run" / "export" / CATALOGUE_FILE, small_catalogue().to_json())
    return tmp_path / "run" / "export"


@pytest.fixture
def catalogue(export, capsys):
    """catalogue(action, *words and flags): the exit code, the printed lines, the words on stderr."""

    def run(*arguments, workdir=export.parent):
        code = main(["catalogue", *map(str, arguments), f"--workdir={workdir}", "--who=Ann"])
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err

    return run


def listed(catalogue, *words):
    code, lines, _ = catalogue("list", *words)
    assert code == 0 and lines[0] == HEADER
    return {line.partition(",")[0]: line for line in lines[1:]}


def test_items_are_listed_added_blocked_removed_and_restored(catalogue, export):
    assert list(listed(catalogue)) == [item.id for item in small_catalogue().items]
    assert listed(catalogue, "thing", "b007") == {"B007": f"B007,Thing 7,{SIDS[7]},0,,,"}
    assert catalogue("add", "NEW", "--title=A, new thing", f"--sid={SIDS[3]}")[:2] == (0, ["added NEW; 31 items"])
    assert catalogue("block", "B000", "NEW")[0] == catalogue("remove", "B001", "B002")[0] == 0
    assert catalogue("unblock", "NEW")[0] == catalogue("restore", "B002")[0] == 0
    found = listed(catalogue)
    assert found["NEW"] == f'NEW,"A, new thing",{SIDS[3]},0,,,' and found["B000"].endswith(",1,,,")
    assert "B001" not in found and "B002" in found
    assert export.with_name("export.catalogue.sqlite").exists()
    assert [json.loads(line)["action"] for line in catalogue("journal", "--after=3")[1]] == [
        "remove",
        "remove",
        "unblock",
        "restore",
    ]
    wanted = ["30 items: 30 exported, 1 added, 1 removed; 1 are blocked", "last change: 7"]
    assert catalogue("verify")[:2] == (0, wanted)
    whole, dropped = catalogue("journal")[1], export.with_name("dropped.jsonl")
    assert catalogue("compact", dropped)[:2] == (
        0,
        [f"3 changes that later ones of the same item had overtaken are in {dropped} now"],
    )
    assert listed(catalogue) == found
    kept = catalogue("journal")[1]
    assert sorted(kept + dropped.read_text().splitlines(), key=whole.index) == whole and len(kept) == 4
    assert "exists already" in catalogue("compact", dropped)[2]


def test_an_import_keeps_what_others_changed_while_it_read_its_file(catalogue, export, tmp_path, monkeypatch):
    file, read = tmp_path / "new.csv", catalogue_command._rows
    file.write_text("id,title\nB000,Another title\n")

    @contextlib.contextmanager
    def slowly(path):
        with read(path) as rows:
            yield rows
        others = Changes(changes_file(export))
        with others.writing():
            others.append([Change(0, now(), "Bob", "block", "B000", {"blocked": True})])

    monkeypatch.setattr(catalogue_command, "_rows", slowly)
    assert catalogue("import", file)[:2] == (0, ["0 added, 1 changed, 0 as they were"])
    assert listed(catalogue)["B000"] == f"B000,Another title,{SIDS[0]},1,,,"


def test_what_is_listed_is_imported_again_and_a_file_of_some_columns_changes_those(catalogue, tmp_path):
    catalogue("add", "NEW", "--title=A thing", f"--sid={SIDS[3]}")
    before = listed(catalogue)
    file = tmp_path / "items.csv"
    file.write_text("\n".join([HEADER, *before.values()]))
    assert catalogue("import", file)[:2] == (0, ["0 added, 0 changed, 31 as they were"])
    file.write_text("﻿id,blocked\nB000,1\nB001,0\nNEW,yes\n")
    assert catalogue("import", file)[:2] == (0, ["0 added, 2 changed, 1 as they were"])
    file.write_text(f'id,title,sid,image\nB000,"New, title",,\nN2,Second,{SIDS[5]},https://a.b/c.png\n')
    shares = "1 of those added share their SID with another item; `tsrec code` makes SIDs of their own"
    assert catalogue("import", file)[:2] == (0, ["1 added, 1 changed, 0 as they were", shares])
    found = listed(catalogue)
    assert found["B000"] == f'B000,"New, title",{SIDS[0]},1,,,' and found["NEW"].endswith(",1,,,")
    assert found["N2"] == f"N2,Second,{SIDS[5]},0,,,https://a.b/c.png"


def test_texts_that_an_import_would_refuse_may_stay_as_the_export_has_them(catalogue, export, tmp_path):
    facts, file = small_catalogue().to_json(), tmp_path / "items.csv"
    facts["items"][0]["title"] = "x" * 2_001
    facts["items"][1]["title"] = "two\nlines"
    write_json(export / CATALOGUE_FILE, facts)
    file.write_text("\n".join(catalogue("list")[1]))
    assert catalogue("import", file)[:2] == (0, ["0 added, 0 changed, 30 as they were"])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("title\nx", "its first line must name columns, id"),
        ("id,price\nB000,1", "its first line must name columns, id"),
        ("id,title\nB000,x\nB001", "line 3: not as many cells"),
        ("id,title\nB000,x\nB000,y", "line 3: item 'B000' stands in line 2"),
        ("id,title\nB000,x\nNEW,y", "line 3: item 'NEW' is new, so it needs a title and a sid"),
        ("id,blocked\nB000,1\nB001,perhaps", "line 3: item 'B001': blocked='perhaps'"),
        ("id,sid\nB000,a b", "line 2: item 'B000': sid='a b'"),
        ("id,sid\nB000,<a_1>", "item 'B000': its SID has 1 tokens"),
        ("id,sid\nB000,<a_1><b_1><z_9>", "'<z_9>' is not one of"),
        ("id,image\nB000,javascript:x", "line 2: item 'B000': image"),
        ('id,title\nB000,"a\nb"', "line 3: item 'B000': title must be one line"),
        ('id,title\nB000,"a', "not CSV"),
    ],
)
def test_a_file_with_a_mistake_is_refused_whole(catalogue, export, tmp_path, rows, words):
    file = tmp_path / "items.csv"
    file.write_text(rows)
    code, printed, said = catalogue("import", file)
    assert (code, printed) == (2, []) and words in said and said.count("\n") == 1
    assert not export.with_name("export.catalogue.sqlite").exists()


def test_mistakes_are_named_and_change_nothing(catalogue, export, tmp_path):
    for arguments, words in (
        (["sell"], "'sell' is none of its actions, which are list, add"),
        ([], "'' is none of its actions"),
        (["block"], "name at least one item id"),
        (["block", "B000", "B0O1"], "item 'B0O1' is not in the catalogue of 30 items; nearest ids: B0"),
        (["remove", "B000", "NONE"], "item 'NONE' is not in the catalogue"),
        (["restore", "NONE"], "none of the export's"),
        (["add", "NEW", "--title=x"], "add takes one id"),
        (["import", tmp_path / "none.csv"], "No such file"),
        (["list", f"--catalogue={tmp_path / 'none' / 'file'}"], None),
        (["block", "B000", f"--catalogue={tmp_path / 'none' / 'file'}"], "its folder is not there"),
    ):
        code, _, said = catalogue(*arguments)
        assert code == (2 if words else 0) and (words or "") in said, said
    assert "not there; run the verb" in catalogue("list", workdir=tmp_path / "none")[2]
    assert catalogue("journal")[:2] == (0, [])


def test_where_nothing_was_changed_nothing_is_made(catalogue, export):
    for action, *words in (["verify"], ["adopt"], ["compact", export.with_name("dropped.jsonl")], ["journal"]):
        code, printed, _ = catalogue(action, *words)
        assert code == 0 and (action == "journal" or "nothing was changed yet" in printed[0]), printed
    assert [path.name for path in export.parent.iterdir()] == ["export"]


def test_a_damaged_file_is_found_by_verify(catalogue, export):
    catalogue("block", *(f"B{n:03d}" for n in range(30)))
    file = export.with_name("export.catalogue.sqlite")
    content = bytearray(file.read_bytes())
    content[4096 : 4096 + 64] = bytes(64)
    file.write_bytes(content)
    code, printed, said = catalogue("verify")
    assert code == 2 and "export.catalogue.sqlite: database disk image is malformed" in "".join(printed) + said


def test_another_exports_sids_are_taken_out_and_all_else_is_kept(catalogue, export):
    catalogue("add", "NEW", "--title=A thing", f"--sid={SIDS[3]}")
    sid = small_catalogue().sids[3]
    Command(export, None, ()).catalogue().put("B005", "Another title", sid, brand="Acme")  # without its other facts
    catalogue("block", "B000", "B005")
    catalogue("remove", "B001")
    facts = small_catalogue().to_json()
    for item, other in zip(facts["items"], reversed(SIDS), strict=True):
        item["sid"] = other.replace("><", "> <").split(" ")
    write_json(export / CATALOGUE_FILE, facts)
    code, _, said = catalogue("list")
    assert code == 2 and "adopt" in said
    assert catalogue("adopt")[:2] == (
        0,
        ["1 items taken out that had SIDs of another export, 1 now with the SIDs of this one"],
    )
    found = listed(catalogue)
    assert "NEW" not in found and "B001" not in found and found["B000"].endswith(",1,,,")
    assert found["B005"] == f"B005,Another title,{SIDS[24]},1,Acme,,"
    assert catalogue("unblock", "B005")[0] == 0
    assert listed(catalogue)["B005"] == f"B005,Another title,{SIDS[24]},0,Acme,,"
