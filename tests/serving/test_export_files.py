"""An export that is broken, swapped, half, empty or hostile is one clear line, whichever file it is."""

import json
import os
import shutil

import numpy as np
import pytest

from tests.serving.conftest import base_tokenizer
from tsrec_jax.errors import UserError
from tsrec_jax.models.tokenizer import save_tokenizer
from tsrec_jax.serving import recommender as module
from tsrec_jax.serving.export import accept_catalogue
from tsrec_jax.serving.recommender import Recommender

FILES = (
    "config.json",
    "model.safetensors",
    "prompts.json",
    "sid_catalogue.json",
    "sid_trie.npz",
    "sid_words.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
TEXTS = {
    "null": "null",
    "number": "3",
    "text": '"x"',
    "list": "[]",
    "object": "{}",
    "nested": '{"a":' * 3000,
    "long number": '{"levels": ' + "9" * 5000 + "}",
    "words": "half of it",
}


def damage(folder, name, kind):
    """Damages one file of a folder in one way."""
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind == "a link to nowhere":
        path.symlink_to(folder / "nowhere")
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "half":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "zeros":
        path.write_bytes(bytes(len(content)))
    elif kind == "not UTF-8":
        path.write_bytes(b"\xff\xfe" + content)
    elif kind in FILES:
        shutil.copy(folder / kind, path)
    elif kind != "missing":
        path.write_text(TEXTS[kind])


NEEDED = [name for name in FILES if name != "sid_words.json"]  # older exports have no words
DAMAGES = ("missing", "a folder", "a link to nowhere", "a pipe", "empty", "half", "zeros", "not UTF-8")
CASES = [(name, kind) for name in FILES for kind in (*DAMAGES, *TEXTS, *FILES) if kind != name]


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "export")


@pytest.fixture
def older(folder):
    """As exports were before they carried checksums: each reader is on its own."""
    (folder / "checksums.json").unlink()
    return folder


def refused(folder, words=None):
    with pytest.raises(UserError, match=words) as caught:
        Recommender.load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_damage_is_seen_by_its_checksum(folder, name, kind, monkeypatch):
    """The weights are compared while they are loaded, all else before."""
    if name == "model.safetensors":
        monkeypatch.setattr(module, "_model_parts", lambda *_: None)
    else:
        monkeypatch.setattr(module, "read_catalogue", lambda folder: pytest.fail("read"))
    damage(folder, name, kind)
    refused(folder, name.replace(".", r"\."))


@pytest.mark.parametrize(
    ("name", "kind"),
    [case for case in CASES if case not in (("sid_words.json", "missing"), ("sid_words.json", "list"))],
)
def test_every_damage_is_refused_by_what_reads_the_file(older, name, kind):
    """Without words, as the exports of before, a folder is whole."""
    damage(older, name, kind)
    refused(older)


@pytest.mark.parametrize("kind", [*DAMAGES[1:], *TEXTS])
def test_broken_checksums_are_refused(folder, kind):
    damage(folder, "checksums.json", kind)
    refused(folder, r"checksums\.json")


@pytest.mark.parametrize("sums", [{"../export/config.json": "00"}, {"config.json": 3}, {"a/b": "00"}])
def test_checksums_of_something_else_are_refused(folder, sums):
    (folder / "checksums.json").write_text(json.dumps({"sha256": sums}))
    refused(folder, r"checksums\.json")


def test_what_loading_does_not_read_may_be_changed_or_gone(folder):
    (folder / "README.md").write_text("another card")
    (folder / "generation_config.json").unlink()
    (folder / "notes.txt").write_text("mine")
    assert Recommender.load(folder).catalogue.num_items == 30


def test_flipped_bytes_in_the_weights_are_refused(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(byte ^ 0xFF for byte in content[middle : middle + 64])
    path.write_bytes(content)
    refused(folder, r"model\.safetensors: not as it was exported")


def test_a_file_that_was_put_beside_the_weights_is_refused(folder):
    shutil.copy(folder / "model.safetensors", folder / "more.safetensors")
    refused(folder, r"more\.safetensors: not among the files in checksums\.json")


def test_an_index_of_shards_in_an_older_export_names_files_that_are_there(older):
    (older / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "absent.safetensors"}}))
    refused(older, r"absent\.safetensors: .*No such file")


def edited(folder, change):
    """Writes an export's catalogue anew."""
    path = folder / "sid_catalogue.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    change(facts)
    path.write_text(json.dumps(facts), encoding="utf-8")


def item(**change):
    return lambda facts: facts["items"][3].update(change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (item(title=None), "item 4: title=None is not a text"),
        (item(title=["a"]), r"item 4: title=\['a'\]"),
        (item(title=""), "item 4: title=''"),
        (item(title="half \ud800"), "half of a pair of surrogates"),
        (item(brand="half \ud800"), "half of a pair of surrogates"),
        (item(brand=["Acme"]), r"item 4: brand=\['Acme'\] is not a text"),
        (item(image="javascript:alert(1)"), "item 4: image='javascript:alert\\(1\\)' is not an address"),
        (item(id=4), "item 4: id=4 is not a text"),
        (item(id=""), "item 4: id=''"),
        (item(id="B000"), "two items have the same id"),
        (item(sid="<a_1><b_1><c_1>"), "item 4: sid='<a_1><b_1><c_1>' is not a list of 3 tokens"),
        (item(sid=["<a_1>", "<b_1>"]), "item 4: sid=.*is not a list of 3 tokens"),
        (item(sid=["<a_1>", "<b_1>", 1]), "item 4: sid=.*is not a list of 3 tokens"),
        (item(sid=["<a_1>", "<b_1>", "<a_1>"]), "a token stands on two levels"),
        (item(sid=["<a_1>", "<b_1>", "<c_99>"]), "its tokens are not those of its items"),
        (lambda facts: facts["items"].append(3), "item 31 needs id, title and sid"),
        (lambda facts: facts["items"][3].pop("title"), "item 4 needs id, title and sid"),
        (lambda facts: facts["items"].clear(), "items is not a list with at least one item"),
        (lambda facts: facts.update(items={}), "items is not a list"),
        (lambda facts: facts.update(levels="3"), "levels='3' is not a whole number"),
        (lambda facts: facts.update(levels=10**9), "is not a list of 1000000000 tokens"),
        (lambda facts: facts.update(tokens=3), "its tokens are not those of its items"),
    ],
)
def test_a_catalogue_of_the_wrong_kind_is_refused(older, change, words):
    edited(older, change)
    refused(older, rf"sid_catalogue\.json: .*{words}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_length": 0}, "max_length=0 is not a whole number from 1"),
        ({"max_length": 64.5}, "max_length=64.5"),
        ({"max_length": True}, "max_length=True"),
        ({"max_length": "64"}, "max_length='64'"),
        ({"max_length": 5}, "max_length=5 is below"),
        ({"normaliser": ["vocabulary"]}, "normaliser"),
        ({"templates": []}, "it holds no templates"),
        ({"templates": {"separator": 5}}, r"templates\.separator is not a text"),
        ({"templates": {"next_sid": 3}}, r"templates\.next_sid"),
        ({"templates": {"next_item": {}}}, r"templates\.next_item: no such task"),
    ],
)
def test_prompts_of_the_wrong_kind_are_refused(older, change, words):
    facts = json.loads((older / "prompts.json").read_text(encoding="utf-8"))
    (older / "prompts.json").write_text(json.dumps(facts | change), encoding="utf-8")
    refused(older, rf"prompts\.json: .*{words}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda entries: entries.append(3), "entry 25 needs the keys token"),
        (lambda entries: entries[2].pop("keywords"), "entry 3 needs the keys token"),
        (lambda entries: entries[2].update(token="<d_1>"), "entry 3: token '<d_1>' is carried by no item"),
        (lambda entries: entries[2].update(token=["<a_1>"]), r"entry 3: token \['<a_1>'\]"),
        (lambda entries: entries[2].update(keywords="mug"), "entry 3: token .* needs a list of keywords"),
        (lambda entries: entries[2].update(description=None), "entry 3: token .* has no description"),
        (lambda entries: entries[-1].update(path="<a_7><b_6>"), "entry 24: path '<a_7><b_6>' is no list of two tokens"),
    ],
)
def test_words_of_the_wrong_kind_are_refused(older, change, words):
    entries = json.loads((older / "sid_words.json").read_text(encoding="utf-8"))
    change(entries)
    (older / "sid_words.json").write_text(json.dumps(entries), encoding="utf-8")
    refused(older, rf"sid_words\.json: {words}")


@pytest.mark.parametrize("named", [None, 3, {}, "<no token>"])
def test_a_tokenizer_that_names_no_end_is_refused(older, named):
    path = older / "tokenizer_config.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(facts | {"eos_token": named}), encoding="utf-8")
    refused(older, r"tokenizer_config\.json: names no eos_token of tokenizer\.json")


def test_a_trie_of_other_sids_is_refused(older, trained):
    with np.load(older / "sid_trie.npz") as file:
        arrays = dict(file)
    arrays["alive2"] = arrays["alive2"] ^ 1
    np.savez(older / "sid_trie.npz", **arrays)
    refused(older, r"sid_trie\.npz: not of the SIDs in sid_catalogue\.json")


def test_a_trie_that_would_run_code_is_refused(older):
    np.savez(older / "sid_trie.npz", facts=np.array([{"format": 1}], dtype=object))
    refused(older, r"sid_trie\.npz: not a trie")


def test_the_tokenizer_of_another_catalogue_is_refused(older):
    tokenizer = base_tokenizer()
    tokenizer.add_tokens(["<a_1>", "<b_1>"])
    save_tokenizer(tokenizer, older)
    refused(older, r"its tokenizer does not end with the tokens of sid_catalogue\.json")


def test_swapped_sids_are_refused_until_they_are_accepted(folder):
    def swap(facts):
        first, second = facts["items"][0], facts["items"][1]
        first["sid"], second["sid"] = second["sid"], first["sid"]

    before = Recommender.load(folder)
    edited(folder, swap)
    refused(folder, r"sid_catalogue\.json: not as it was exported.*accept_catalogue` takes an edited one over")
    accept_catalogue(folder)
    after = Recommender.load(folder)
    assert [after.catalogue.item(id).sid for id in ("B001", "B000")] == [
        before.catalogue.item(id).sid for id in ("B000", "B001")
    ]


def test_an_edited_catalogue_may_bring_items_and_lose_them(folder):
    new = ["<a_1>", "<b_1>", "<c_1>"]

    def change(facts):
        facts["items"] += [{"id": "NEW", "title": "A new thing", "sid": new}]
        facts["items"] = [entry for entry in facts["items"] if entry["id"] != "B007"]  # whose SID B003 has too

    edited(folder, change)
    accept_catalogue(folder)
    recommender = Recommender.load(folder)
    assert recommender.catalogue.num_items == 30
    assert [found.sid for found in recommender.recommend([["NEW"]], allow=["NEW"])[0]] == ["".join(new)]


def test_nothing_but_the_catalogue_is_accepted(folder):
    edited(folder, item(title="Another title"))
    facts = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
    (folder / "prompts.json").write_text(json.dumps(facts | {"max_length": 32}), encoding="utf-8")
    with pytest.raises(UserError, match=r"prompts\.json: not as it was exported"):
        accept_catalogue(folder)
    refused(folder, "not as it was exported")


def test_a_catalogue_of_another_model_is_not_accepted(folder):
    edited(folder, item(sid=["<a_1>", "<b_1>", "<c_99>"]))
    with pytest.raises(UserError, match="its tokens are not those of its items"):
        accept_catalogue(folder)


def test_a_folder_that_may_not_be_read_is_said_to_be_that(folder, as_somebody_else):
    folder.chmod(0)
    with as_somebody_else():
        refused(folder, "Permission denied|no such folder")
    folder.chmod(0o755)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_may_not_be_read_is_said_to_be_that(folder, as_somebody_else, name):
    (folder / name).chmod(0)
    with as_somebody_else():
        refused(folder, rf"{name}: .*Permission denied")
