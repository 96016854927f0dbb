import copy as copy_module
import dataclasses
import json
import pickle
import re
import shutil
import types

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects

import tsrec_jax
from tests.serving.conftest import words_of
from tsrec_jax.decoding import generate
from tsrec_jax.decoding.beam_search import beam_search
from tsrec_jax.decoding.generate import search_all
from tsrec_jax.errors import UserError
from tsrec_jax.models.inference import InferenceModel
from tsrec_jax.serving.recommender import Recommender, Request

HISTORIES = [["B000", "B005", "B009"], ["B003"]]


@pytest.fixture(scope="module")
def recommender(exported):
    return Recommender.load(exported)


def searched(trained, weights="full", **settings):
    catalogue = trained.catalogue
    sids = [[catalogue.sid(catalogue.item_index(item)) for item in history] for history in HISTORIES]
    prompts = trained.builder.prompts_next_sid(sids, 3)
    model = InferenceModel.of(trained.model, weights)
    return search_all(model, trained.trie, catalogue, prompts, beams=20, batch_size=2, **settings)


@pytest.mark.parametrize(("before", "now"), [("vocab", "vocabulary"), ("catalogue", "constrained"), ("level", "level")])
def test_an_export_with_the_former_name_of_its_normaliser_is_read(trained, tmp_path, before, now):
    folder = trained.export(tmp_path / "export")
    prompts = json.loads((folder / "prompts.json").read_text())
    (folder / "prompts.json").write_text(json.dumps(prompts | {"normaliser": before}))
    (folder / "checksums.json").unlink()
    assert Recommender.load(folder).finder.normaliser == now


@pytest.mark.parametrize(("normaliser", "weights"), [("vocabulary", "full"), ("constrained", "int8")])
def test_a_loaded_export_recommends_what_the_trained_model_finds(trained, normaliser, weights, tmp_path):
    catalogue = trained.catalogue
    recommender = Recommender.load(trained.export(tmp_path / "export", normaliser=normaliser), weights=weights)
    wanted = searched(trained, weights, normaliser=normaliser)
    for found, row in zip(recommender.recommend(HISTORIES, k=10), wanted, strict=True):
        items = [(catalogue.items[i], sid, score) for sid, score in row for i in catalogue.items_of_sid[sid]][:10]
        assert [(r.item_id, r.title, r.sid) for r in found] == [(item.id, item.title, sid) for item, sid, _ in items]
        np.testing.assert_allclose([r.score for r in found], [score for _, _, score in items], atol=1e-5)


def test_the_next_recommender_takes_the_searches_that_one_has_compiled(exported, recommender, tmp_path):
    found = [Recommender.load(exported, programs=tmp_path).recommend(HISTORIES) for _ in range(2)]
    assert found == [recommender.recommend(HISTORIES)] * 2
    traced = beam_search._cache_size()
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}  # a program that is compiled writes its file
    assert Recommender.load(exported, programs=tmp_path).recommend(HISTORIES) == found[0]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    assert {path.name.partition("-")[0] for path in files} == {"_prefix", "_unstacked", "beam_search"}
    assert beam_search._cache_size() == traced


def test_an_export_that_names_no_normaliser_is_searched_over_the_vocabulary(exported, trained, tmp_path):
    folder = older(exported, tmp_path)
    facts = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
    del facts["normaliser"]
    (folder / "prompts.json").write_text(json.dumps(facts), encoding="utf-8")
    found = Recommender.load(folder).recommend(HISTORIES, k=1)
    wanted = [row[0][1] for row in searched(trained)]
    np.testing.assert_allclose([first.score for (first,) in found], wanted, atol=1e-5)
    facts["normaliser"] = "items"
    (folder / "prompts.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(UserError, match="'items' is not one of vocabulary, level, constrained"):
        Recommender.load(folder)


def test_prompts_are_those_of_training(recommender, trained):
    assert recommender.finder.builder.max_length == trained.builder.max_length
    sids = [["<a_1><b_2><c_3>"] * 30]
    assert recommender.finder.builder.prompts_next_sid(sids, 3) == trained.builder.prompts_next_sid(sids, 3)


def test_all_items_come_when_asked_for_and_those_of_one_sid_stand_together(recommender):
    (found,) = recommender.recommend([["B000"]], k=100)
    assert sorted(r.item_id for r in found) == sorted(item.id for item in recommender.catalogue.find("", 100))
    place = [r.item_id for r in found].index("B003")
    assert found[place + 1].item_id == "B007"
    assert found[place].score == found[place + 1].score and found[place].sid == found[place + 1].sid
    scores = [r.score for r in found]
    assert scores == sorted(scores, reverse=True)


def test_no_histories_give_no_recommendations(recommender):
    assert recommender.recommend([]) == []


def test_a_history_alone_or_among_others_gives_the_same(recommender):
    (alone,) = recommender.recommend([HISTORIES[0]])
    among = recommender.recommend([HISTORIES[1], HISTORIES[1], HISTORIES[0]])[2]
    assert [r.item_id for r in alone] == [r.item_id for r in among]


@pytest.mark.parametrize(
    ("histories", "options", "message"),
    [
        ([["B000"], []], {}, "history 2 is empty"),
        ([["B0O0"]], {}, "'B0O0' is not in the catalogue.*nearest ids: B0"),
        (["B000"], {}, "history 1 is the text 'B000'"),
        ([["B000"]], {"k": 0}, "k=0"),
        ([["B000"]], {"k": 10, "beams": 5}, "beams=5: must be at least k=10"),
        ([["B000"]], {"k": 513}, "beams=513: must be at least k=513 and at most 512"),
        ([["B000"]], {"k": 1.5}, "k=1.5: must be a whole number"),
        ([["B000"]], {"k": "3"}, "k='3': must be a whole number"),
        ([["B000"]], {"k": None}, "k=None: must be a whole number"),
        ([["B000"]], {"k": True}, "k=True: must be a whole number"),
        ([["B000"]], {"beams": 20.0}, "beams=20.0: must be a whole number"),
        (None, {}, "histories is None: give a list of histories, each a list of item ids"),
        ("B000", {}, "histories is the text 'B000': give a list of histories"),
        ((["B000"] for _ in range(1)), {}, "histories is a generator: give a list"),
        ({"B000": 1}, {}, "histories is a dict"),
        ([["B000"], None], {}, "history 2 is None: give a list of item ids"),
        ([(item for item in ["B000"])], {}, "history 1 is a generator: give a list of item ids"),
        ([{"B000"}], {}, "history 1 is a set"),
        ([[None]], {}, "item 'None' is not in the catalogue"),
        ([["B000"]], {"exclude": "B001"}, "exclude is the text 'B001': give a list of item ids"),
        ([["B000"]], {"exclude": None}, "exclude is None: give a list"),
        ([["B000"]], {"allow": b"B001"}, "allow is the text b'B001'"),
        ([["B000"]], {"allow": 3}, "allow is a int"),
    ],
)
def test_bad_requests_are_explained_before_anything_is_searched(recommender, histories, options, message, monkeypatch):
    monkeypatch.setattr(recommender.finder, "find", lambda *_: pytest.fail("searched"))
    with pytest.raises(UserError, match=message):
        recommender.recommend(histories, **options)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("B000"), "history is the text 'B000'"),
        (Request(None), "history is None"),
        (Request(("B000",), exclude="B001"), "exclude is the text"),
        (Request(("B000",), allow="B001"), "allow is the text"),
        (Request(("B000",), k="3"), "k='3'"),
    ],
)
def test_requests_of_other_kinds_are_explained_too(recommender, request_, message):
    with pytest.raises(UserError, match=message):
        recommender.answer([request_])


def test_ids_and_numbers_may_come_as_arrays(recommender):
    wanted = recommender.recommend(HISTORIES, k=3, exclude=["B001"])
    found = recommender.recommend([np.array(row) for row in HISTORIES], k=np.int64(3), exclude=np.array(["B001"]))
    assert found == wanted


def test_a_history_beyond_the_prompt_is_read_from_its_newest_end_and_said_to_be(recommender):
    """64 tokens: of the prompt's room, 4 a SID with its separator."""
    long = [f"B{number % 30:03d}" for number in range(400)]
    short, cut = recommender.answer([Request(("B000", "B005")), Request(tuple(long))])
    assert short.used == 2
    assert 5 < cut.used < 20
    (newest,) = recommender.answer([Request(tuple(long[-cut.used :]))])
    assert newest.used == cut.used
    with pytest.warns(UserWarning, match="1 of 2 histories, number 2 first, are longer than a prompt has room for"):
        _, found = recommender.recommend([["B000"], long])
    assert tuple(found) == cut.items


def test_widths_above_that_of_loading_share_their_programs(exported):
    recommender = Recommender.load(exported, beams=3, max_batch=2)
    recommender.recommend([["B000"]], k=17)
    size = beam_search._cache_size()
    for k in (18, 20, 25, 31, 32):
        assert len(recommender.recommend([["B000"]], k=k)[0]) == min(k, 30)
    assert beam_search._cache_size() == size
    assert recommender.recommend([["B000"]], k=3) == [recommender.recommend([["B000"]], k=3, beams=3)[0]]


def test_a_recommender_says_that_it_is_loaded_in_each_process(recommender):
    for copied in (pickle.dumps, copy_module.copy, copy_module.deepcopy):
        with pytest.raises(UserError, match=r"load it in each process with Recommender\.load"):
            copied(recommender)


def test_the_error_is_part_of_the_package():
    assert tsrec_jax.UserError is UserError
    assert {"Recommender", "UserError"} <= set(tsrec_jax.__all__)


def copy(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


def older(exported, tmp_path):
    """A copy as exports were before they carried checksums: nothing tells that a file was changed."""
    folder = copy(exported, tmp_path)
    (folder / "checksums.json").unlink()
    return folder


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        Recommender.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "name", ["sid_catalogue.json", "prompts.json", "sid_trie.npz", "config.json", "model.safetensors"]
)
def test_a_missing_file_is_refused(exported, tmp_path, name):
    folder = copy(exported, tmp_path)
    (folder / name).unlink()
    with pytest.raises(UserError, match="copy"):
        Recommender.load(folder)


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
@pytest.mark.parametrize("name", ["sid_catalogue.json", "prompts.json"])
def test_a_damaged_file_is_refused(exported, tmp_path, name, text):
    folder = copy(exported, tmp_path)
    (folder / name).write_text(text)
    with pytest.raises(UserError, match="delete the export's folder and run the verb `export`"):
        Recommender.load(folder)


def test_a_catalogue_of_another_model_is_refused(exported, tmp_path):
    folder = copy(exported, tmp_path)
    text = (folder / "sid_catalogue.json").read_text(encoding="utf-8")
    (folder / "sid_catalogue.json").write_text(text.replace("<a_1>", "<a_99>"), encoding="utf-8")
    with pytest.raises(UserError, match="delete the export's folder and run the verb `export`"):
        Recommender.load(folder)


def test_weights_of_another_vocabulary_are_refused(exported, make_trained, tmp_path):
    folder = older(exported, tmp_path)
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(facts | {"vocab_size": facts["vocab_size"] - 1}))
    with pytest.raises(UserError, match="has shape"):
        Recommender.load(folder)


def codes_facts(found):
    return [(r.item_id, round(r.score, 4)) for r in found]


def test_filters_are_by_item_even_where_sids_collide(recommender):
    (every,) = recommender.recommend([["B000"]], k=100)
    for out in (["B003"], ["B003", "B007"], [r.item_id for r in every[:12]]):
        (found,) = recommender.recommend([["B000"]], k=100, exclude=out)
        assert codes_facts(found) == codes_facts([r for r in every if r.item_id not in out])
    (found,) = recommender.recommend([["B000", "B007", "B001"]], k=100, exclude_history=True)
    assert {r.item_id for r in found} == {r.item_id for r in every} - {"B000", "B007", "B001"}
    (found,) = recommender.recommend([["B000"]], k=100, allow=["B007", "B001", "B002"], exclude=["B002"])
    assert codes_facts(found) == codes_facts([r for r in every if r.item_id in ("B007", "B001")])
    assert recommender.recommend([["B000"]], allow=[]) == [[]]
    with pytest.raises(UserError, match="'B9' is not in the catalogue"):
        recommender.recommend([["B000"]], exclude=["B9"])


def test_the_path_says_what_each_token_added_to_the_score(recommender):
    (found,) = recommender.recommend([["B000"]], k=3)
    for one in found:
        assert "".join(step.token for step in one.path) == one.sid
        assert sum(step.score for step in one.path) == pytest.approx(one.score, abs=1e-4)
        assert all(step.score < 0 for step in one.path)


def test_every_token_of_a_path_comes_with_the_words_of_the_teacher(recommender, trained, tmp_path):
    first, second, third = trained.catalogue.sids[0]
    by_token = {words.name: (words.keywords, words.description) for words in words_of(trained.catalogue)}
    found = recommender.recommend([["B000"]], k=30)[0]
    of_sid = {one.sid: [(step.keywords, step.description) for step in one.path] for one in found}
    wanted = [by_token[first], (("both",), "Things of two kinds."), by_token[third]]
    assert of_sid["".join((first, second, third))] == wanted, "what is said of a path goes before what is of its token"
    for sid, said in of_sid.items():
        if not sid.startswith(first + second):
            assert said == [by_token[token] for token in re.findall("<.*?>", sid)]
    plain = Recommender.load(trained.export(tmp_path / "plain", words=()))
    assert not (tmp_path / "plain" / "sid_words.json").exists()
    assert {(step.keywords, step.description) for step in plain.recommend([["B000"]], k=1)[0][0].path} == {((), "")}


def test_items_come_with_brand_categories_and_image_where_the_catalogue_has_them(recommender, trained):
    found = {one.item_id: one for one in recommender.recommend([["B000"]], k=30)[0]}
    for item in trained.catalogue.items:
        one = found[item.id]
        assert (one.brand, one.categories, one.image) == (item.brand, item.categories, item.image)
    assert found["B005"].image == "https://shop.example/5.jpg"


def test_exact_answers_are_those_of_a_search_of_everything(recommender, monkeypatch):
    monkeypatch.setattr(generate, "WIDENING", 16)  # no width between the first and the last
    (every,) = recommender.recommend([["B000"]], k=100)
    requests = [Request(("B000",), k=2)]
    (narrow,), (sure,) = recommender.answer(requests, beams=2), recommender.answer(requests, beams=2, exact=True)
    assert sure.exact and not narrow.exact
    assert codes_facts(sure.items) == codes_facts(every[:2])


def test_items_come_go_and_are_blocked_while_it_serves_and_nothing_compiles(exported):
    recommender = Recommender.load(exported)
    catalogue = recommender.catalogue
    (every,) = recommender.recommend([["B000"]], k=20)
    size = beam_search._cache_size()

    def ids(k=20, **options):
        return [r.item_id for r in recommender.recommend([["B000"]], k=k, **options)[0]]

    best = every[0]
    catalogue.block([best.item_id])
    assert best.item_id not in ids()
    assert recommender.recommend([[best.item_id]], k=1), "a blocked item may stand in a history"
    catalogue.block([best.item_id], blocked=False)
    assert ids()[0] == best.item_id

    tokens = tuple(step.token for step in best.path)
    assert catalogue.put("NEW", "A new thing", tokens)
    assert ids()[:2] == [best.item_id, "NEW"]
    catalogue.remove(best.item_id)
    assert ids()[0] == "NEW"
    assert [item.id for item in catalogue.titled("A new thing")] == ["NEW"]
    assert catalogue.titled(best.title) == []
    with pytest.raises(UserError, match="not in the catalogue"):
        recommender.recommend([[best.item_id]])

    others = {item.sid for item in catalogue.find("", 100)}
    cold = next(
        sid
        for sid in ((a, b, c) for a in catalogue.level_tokens[0] for b in catalogue.level_tokens[1]
                    for c in catalogue.level_tokens[2])
        if sid not in others
    )  # fmt: skip
    assert not catalogue.put("NEW", "A new thing", cold), "an item that is there moves to another SID"
    assert "NEW" in ids(allow=["NEW", "B001"])
    assert {r.sid for r in recommender.recommend([["B001"]], k=20, allow=["NEW"])[0]} == {"".join(cold)}
    assert beam_search._cache_size() == size


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (("X", "title", ("<a_1>", "<b_1>")), "has 2 tokens, the catalogue's have 3"),
        (("X", "title", ("<a_1>", "<b_1>", "<c_99>")), "'<c_99>' is not one of the"),
        (("X", "title", ("<b_1>", "<a_1>", "<c_1>")), "'<b_1>' is not one of the"),
        (("", "title", ("<a_1>", "<b_1>", "<c_1>")), "needs an id and a title"),
        (("X", " ", ("<a_1>", "<b_1>", "<c_1>")), "needs an id and a title"),
    ],
)
def test_an_item_that_the_model_cannot_write_is_refused(recommender, item, message):
    with pytest.raises(UserError, match=message):
        recommender.catalogue.put(*item)
    with pytest.raises(UserError, match="not in the catalogue"):
        recommender.catalogue.item("X")


def test_items_are_found_by_the_words_of_title_and_id(recommender):
    find = recommender.catalogue.find
    assert [item.id for item in find("thing 1", 30)][:3] == ["B001", "B010", "B011"]
    assert [item.id for item in find("b0 THING 29", 30)] == ["B029"]
    assert len(find("", 4)) == 4
    assert find("nothing of the kind", 4) == []


def test_warming_up_compiles_every_length_that_a_history_can_have(exported):
    recommender = Recommender.load(exported, beams=3, max_batch=2)
    lines = []
    recommender.warm_up(lines.append, max_history=30)  # of which the prompt has room for fewer
    assert lines
    size = beam_search._cache_size()
    for length in range(1, 31):
        recommender.answer([Request(("B001",) * length, k=2, exclude_history=True), Request(("B002",), k=2)])
    assert beam_search._cache_size() == size


def test_warming_up_needs_no_item(exported):
    recommender = Recommender.load(exported, beams=3, max_batch=2)
    items = recommender.catalogue.find("", 100)
    for item in items:
        recommender.catalogue.remove(item.id)
    recommender.warm_up(lambda line: None, max_history=2)
    size = beam_search._cache_size()
    recommender.catalogue.put("NEW", "A new thing", items[0].sid)
    assert [found.item_id for found in recommender.recommend([["NEW"]], k=3)[0]] == ["NEW"]
    assert beam_search._cache_size() == size


@pytest.mark.parametrize(
    "options", [{"beams": 0}, {"beams": 513}, {"max_batch": 0}, {"dtype": "x"}, {"weights": "int4"}, {"beams": "3"}]
)
def test_widths_that_cannot_be_are_refused(exported, options):
    with pytest.raises(UserError, match=next(iter(options))):
        Recommender.load(exported, **options)


class Hub:
    """Stands in for the hub: repositories are folders."""

    def __init__(self, folder):
        self.folder, self.made = folder, []

    def create_repo(self, repo_id, *, private, exist_ok):
        assert exist_ok
        self.made.append((repo_id, private))
        (self.folder / repo_id).mkdir(parents=True, exist_ok=True)

    def upload_folder(self, *, folder_path, repo_id, allow_patterns, delete_patterns, commit_message):
        names = [path.relative_to(folder_path).as_posix() for path in folder_path.rglob("*") if path.is_file()]
        uploaded = list(filter_repo_objects(names, allow_patterns=allow_patterns))
        there = self.list_repo_files(repo_id)
        for name in filter_repo_objects(there, allow_patterns=delete_patterns) if delete_patterns else ():
            if name not in uploaded:
                (self.folder / repo_id / name).unlink()
        for name in uploaded:
            place = self.folder / repo_id / name
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(folder_path / name, place)
        return types.SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")

    def list_repo_files(self, repo_id):
        place = self.folder / repo_id
        return [path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()]

    def hf_hub_download(self, repo_id, name):
        return str(self.folder / repo_id / name)

    def snapshot_download(self, repo_id, *, revision, allow_patterns):
        if revision not in (None, "v1") or not (self.folder / repo_id).is_dir():
            raise LocalEntryNotFoundError("no such repository\nor revision")
        return str(self.folder / repo_id)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    return hub


def test_an_export_goes_to_the_hub_and_comes_back_without_what_lies_beside_it(hub, exported, tmp_path):
    folder = copy(exported, tmp_path)
    (folder / "catalogue.sqlite").write_text("changes")
    (folder / "notes.txt").write_text("mine")
    loaded = Recommender.load(folder)
    loaded.catalogue.remove("B001")
    assert loaded.push_to_hub("shop/mugs") == "https://hub/shop/mugs/commit/1"
    assert hub.made == [("shop/mugs", True)]
    assert {path.name for path in (hub.folder / "shop" / "mugs").iterdir()} == {p.name for p in exported.iterdir()}
    for again in (Recommender.load("shop/mugs"), Recommender.load("shop/mugs", revision="v1")):
        assert again.catalogue.num_items == 30


def test_an_export_takes_from_the_hub_what_one_before_it_brought_and_nothing_else(hub, exported):
    place = hub.folder / "shop" / "mugs"
    place.mkdir(parents=True)
    (place / "model.safetensors").write_text("another model")
    (place / "notes.md").write_text("mine")
    loaded = Recommender.load(exported)
    with pytest.raises(UserError, match="shop/mugs: holds something else than an export"):
        loaded.push_to_hub("shop/mugs")
    assert (place / "model.safetensors").read_text() == "another model"
    shutil.copyfile(exported / "sid_catalogue.json", place / "sid_catalogue.json")
    (place / "checksums.json").write_text(json.dumps({"old[1].npz": "0" * 64, "model.safetensors": "0" * 64}))
    (place / "old[1].npz").write_text("of the export before")
    loaded.push_to_hub("shop/mugs")
    assert {path.name for path in place.iterdir()} == {path.name for path in exported.iterdir()} | {"notes.md"}


def test_what_the_hub_does_not_have_is_said_in_one_line(hub, exported, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"^shop/none: no such folder, and the hub gave no copy \(no such repository\)$"
    ):
        Recommender.load("shop/none")
    (tmp_path / "runs").mkdir()
    for path in ("runs/none", "none", "a/b/c", "../x", tmp_path / "x"):  # of a folder, by its looks
        with pytest.raises(UserError, match="no such folder; give one that the verb `export` wrote, or OWNER/NAME"):
            Recommender.load(path)
    with pytest.raises(UserError, match="a folder has no revision='v1'"):
        Recommender.load(exported, revision="v1")
    with pytest.raises(UserError, match="'mugs': not the id of a repository"):
        Recommender.load(exported).push_to_hub("mugs")
    monkeypatch.setattr(hub, "create_repo", lambda *args, **options: (_ for _ in ()).throw(OSError("no token\nx")))
    with pytest.raises(UserError, match=r"shop/mugs: not uploaded \(no token\); `hf auth login` logs in"):
        Recommender.load(exported).push_to_hub("shop/mugs")


def test_unknown_items_are_left_out_and_named_where_that_is_wanted(exported):
    recommender = Recommender.load(exported, beams=3, max_batch=2)
    known, skipping = (
        Request(history, 2, exclude=out, skip_unknown=skip)
        for history, out, skip in ((("B001",), (), False), (("GONE", "B001"), ("LOST",), True))
    )
    plain, skipped = recommender.answer([known, skipping])
    assert skipped.items == plain.items and skipped.used == 1
    assert (plain.skipped, skipped.skipped) == ((), ("GONE", "LOST"))
    with pytest.raises(UserError, match="no item of the history"):
        recommender.answer([dataclasses.replace(skipping, history=("GONE",))])
