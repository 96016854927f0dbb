import json
import shutil

import numpy as np
import pytest

from tsrec_jax.decoding.generate import search_all
from tsrec_jax.errors import UserError
from tsrec_jax.serving.recommender import Recommender

HISTORIES = [["B000", "B005", "B009"], ["B003"]]


@pytest.fixture(scope="module")
def recommender(exported):
    return Recommender.load(exported)


def test_a_loaded_export_recommends_what_the_trained_model_finds(recommender, trained):
    catalogue = trained.catalogue
    sids = [[catalogue.sid(catalogue.item_index(item)) for item in history] for history in HISTORIES]
    prompts = trained.builder.prompts_next_sid(sids, 3)
    wanted = search_all(trained.model, trained.trie, catalogue, prompts, beams=20, batch_size=2)
    for found, row in zip(recommender.recommend(HISTORIES, k=10), wanted, strict=True):
        items = [(catalogue.items[i], sid, score) for sid, score in row for i in catalogue.items_of_sid[sid]][:10]
        assert [(r.item_id, r.title, r.sid) for r in found] == [(item.id, item.title, sid) for item, sid, _ in items]
        np.testing.assert_allclose([r.score for r in found], [score for _, _, score in items], atol=1e-5)


def test_prompts_are_those_of_training(recommender, trained):
    assert recommender.builder.max_length == trained.builder.max_length
    sids = [["<a_1><b_2><c_3>"] * 30]
    assert recommender.builder.prompts_next_sid(sids, 3) == trained.builder.prompts_next_sid(sids, 3)


def test_all_items_come_when_asked_for_and_those_of_one_sid_stand_together(recommender):
    (found,) = recommender.recommend([["B000"]], k=100)
    assert sorted(r.item_id for r in found) == sorted(item.id for item in recommender.catalogue.items)
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
    ],
)
def test_bad_requests_are_explained(recommender, histories, options, message):
    with pytest.raises(UserError, match=message):
        recommender.recommend(histories, **options)


def copy(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        Recommender.load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["sid_catalogue.json", "prompts.json", "config.json", "model.safetensors"])
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
    with pytest.raises(UserError, match="export it again"):
        Recommender.load(folder)


def test_a_catalogue_of_another_model_is_refused(exported, tmp_path):
    folder = copy(exported, tmp_path)
    text = (folder / "sid_catalogue.json").read_text(encoding="utf-8")
    (folder / "sid_catalogue.json").write_text(text.replace("<a_1>", "<a_99>"), encoding="utf-8")
    with pytest.raises(UserError, match="export it again"):
        Recommender.load(folder)


def test_weights_of_another_vocabulary_are_refused(exported, make_trained, tmp_path):
    folder = copy(exported, tmp_path)
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(facts | {"vocab_size": facts["vocab_size"] - 1}))
    with pytest.raises(UserError, match="has shape"):
        Recommender.load(folder)
