"""Exports with a fusion: the same scores after loading, exact answers, and a catalogue that changes meanwhile."""

import dataclasses

import numpy as np
import pytest

from tsrec_jax.baselines.tables import BELOW, ItemTables, Seen, Term
from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.decoding.beam_search import beam_search
from tsrec_jax.errors import UserError
from tsrec_jax.fusion.fusion import Fusion, Part, Scale
from tsrec_jax.models.dense_head import DenseScorer
from tsrec_jax.serving.answers import Request
from tsrec_jax.serving.export import accept_catalogue, export_fusion
from tsrec_jax.serving.recommender import Recommender

HISTORIES = [["B000", "B005", "B009"], ["B003"]]
CHANGING = ("NEW", "NEWER", "B003", "B007")
FREE = ("<a_4>", "<b_5>", "<c_6>")


@pytest.fixture(scope="module")
def fusion(trained):
    rng = np.random.default_rng(7)
    items = trained.catalogue.num_items
    table_II = rng.normal(size=(items, items)).astype(np.float32)
    sids_I = trained.catalogue.sid_numbers_I
    bias_I, seen = rng.normal(size=items).astype(np.float32), Seen(BELOW, 0.5, sids_I)
    tables = ItemTables(bias_I, (Term(0.5, table_II),), seen)
    weights_F3 = rng.normal(size=(2, 3)).astype(np.float32)
    held_3, common_I = np.array([-1, 0.5, 0.2], np.float32), rng.normal(size=items).astype(np.float32)
    parts = (Part("a part", tables, Scale(1.0, 1.0, 1.0)),)
    return Fusion(parts, weights_F3, held_3, None, common_I, sids_I, 0.7, {})


@pytest.fixture
def alone(fusion, trained, tmp_path):
    export_fusion(fusion, trained.catalogue, tmp_path / "alone", card_facts={"data": "a test"})
    return Recommender.load(tmp_path / "alone")


@pytest.fixture
def beside(fusion, trained, tmp_path):
    return Recommender.load(trained.export(tmp_path / "beside", fusion=fusion))


def indices(trained, histories=HISTORIES):
    return [[trained.catalogue.item_index(item) for item in history] for history in histories]


def sid_scores(catalogue: Catalogue, scores_I):
    return {sid: max(scores_I[item] for item in items) for sid, items in catalogue.items_of_sid.items()}


def model_scores(exported, histories=HISTORIES):
    """{SID: log-probability} of every SID, by the same export without a fusion."""
    found = Recommender.load(exported).recommend(histories, k=100, beams=512)
    return [{entry.sid: entry.score for entry in row} for row in found]


def check(found, wanted):
    best = sorted(wanted.values(), reverse=True)
    sids = list(dict.fromkeys(entry.sid for entry in found))
    np.testing.assert_allclose([wanted[sid] for sid in sids], best[: len(sids)], atol=1e-4)
    np.testing.assert_allclose([entry.score for entry in found], [wanted[entry.sid] for entry in found], atol=1e-4)


def test_a_fusion_alone_ranks_by_its_scores_bit_for_bit(alone, fusion, trained):
    scores_BI = fusion.scores(indices(trained))
    for found, scores_I in zip(alone.recommend(HISTORIES, k=8), scores_BI, strict=True):
        wanted = sid_scores(trained.catalogue, scores_I)
        check(found, wanted)
        assert all(np.float32(entry.score) == wanted[entry.sid] and entry.path == () for entry in found)


def test_beside_the_model_answers_are_those_of_all_sids_scored(beside, exported, fusion, trained):
    scores_BI = fusion.scores(indices(trained))
    rows = zip(beside.recommend(HISTORIES, k=8, exact=True), model_scores(exported), scores_BI, strict=True)
    for found, model, scores_I in rows:
        wanted = {sid: model[sid] + own for sid, own in sid_scores(trained.catalogue, scores_I).items()}
        check(found, wanted)
        for entry in found:
            np.testing.assert_allclose(sum(step.score for step in entry.path), model[entry.sid], atol=1e-4)


def test_filters_hold(alone, beside):
    for recommender in (alone, beside):
        (found,) = recommender.recommend([["B003"]], k=5, exclude=["B001"], exclude_history=True)
        (allowed,) = recommender.recommend([["B003"]], k=5, allow=["B001", "B002"])
        assert not {"B001", "B003"} & {entry.item_id for entry in found} and len(found) == 5
        assert {entry.item_id for entry in allowed} == {"B001", "B002"}
        request = Request(("B003",), 5, allow=("B001", "B002"))
        assert recommender.answer([request])[0].exact


@pytest.mark.parametrize("which", ["alone", "beside"])
def test_a_changing_catalogue_is_followed_exactly_and_compiles_nothing(which, request, exported, fusion, trained):
    recommender = request.getfixturevalue(which)
    recommender.recommend(HISTORIES, k=8, beams=64)
    catalogue = trained.catalogue
    gone, blocked = (entry.item_id for entry in recommender.recommend([["B003"]], k=2)[0])
    compiled = beam_search._cache_size()
    recommender.catalogue.remove(gone)
    recommender.catalogue.put("NEW", "A new thing", FREE)
    recommender.catalogue.block([blocked])
    (found,) = recommender.recommend([["NEW", "B003"]], k=30, beams=64)
    assert beam_search._cache_size() == compiled

    shared = [sum(np.cumprod([a == b for a, b in zip(sid, FREE, strict=True)])) for sid in catalogue.sids]
    siblings = [item for item, count in enumerate(shared) if count == max(shared)]
    assert max(shared) > 0 and len(siblings) <= 8
    held = catalogue.item_index("B003")
    known = [[siblings[0], held]]
    full_I, others_I = (scores_BI[0] for scores_BI in fusion.scores_and_others(known))
    scores_I = np.where(fusion.sids_I == fusion.sids_I[held], full_I, others_I)
    assert not np.allclose(full_I, scores_I), "what stands for another is not held"
    scored = {
        catalogue.items[item].id: ("".join(catalogue.sids[item]), scores_I[item]) for item in range(len(scores_I))
    }
    scored["NEW"] = ("".join(FREE), others_I[siblings].mean() + full_I[siblings[0]] - others_I[siblings[0]])
    wanted = {}
    for item, (sid, score) in scored.items():
        if item not in (gone, blocked):
            wanted[sid] = max(score, wanted.get(sid, -np.inf))
    if which == "beside":
        plain = Recommender.load(exported)
        plain.catalogue.put("NEW", "A new thing", FREE)
        model = {e.sid: e.score for e in plain.recommend([["NEW", "B003"]], k=100, beams=512)[0]}
        wanted = {sid: score + model[sid] for sid, score in wanted.items()}
    assert {entry.item_id for entry in found} == scored.keys() - {gone, blocked}
    check(found, wanted)
    recommender.catalogue.block([blocked], False)
    assert blocked in {e.item_id for e in recommender.recommend([["B003"]], k=30, beams=64)[0]}


def answers(recommender):
    """All items and their scores, for histories of the items that `CHANGING` names and of another one."""
    there = [item for item in CHANGING if recommender.catalogue.get(item)]
    histories = [["B005"], *([item] for item in there), *([item, "B005"] for item in there), [*there, "B005"]]
    found = recommender.recommend(histories, k=40, beams=64)
    return [[entry.item_id for entry in row] for row in found], np.array([[e.score for e in row] for row in found])


def change(catalogue, rng, sids):
    """Puts an item of `CHANGING` somewhere, blocked or not, or removes it."""
    item = rng.choice(CHANGING)
    if catalogue.get(item) and rng.random() < 0.3:
        catalogue.remove(item)
    else:
        catalogue.put(item, "A thing", sids[rng.integers(len(sids))], blocked=bool(rng.random() < 0.3))


@pytest.mark.parametrize(("which", "seed", "steps"), [("alone", 0, 40), ("alone", 1, 40), ("beside", 2, 12)])
def test_answers_are_those_of_a_restart_whatever_changed_before(which, seed, steps, request, trained, tmp_path):
    """Two services take turns at changing one journal; the second one searches seldom, so it takes over many at once.

    B003 and B007, which share a SID, may both be gone from it when an item joins there.
    """
    folder, path = request.getfixturevalue(which).folder, tmp_path / "changes.sqlite"
    sids, rng = [FREE, *(trained.catalogue.sids[item] for item in (3, 9, 20))], np.random.default_rng(seed)
    first, second = (Recommender.load(folder, changes=path) for _ in range(2))
    for step in range(steps):
        change((first, second)[step % 2].catalogue, rng, sids)
        restarted = Recommender.load(folder, changes=path)
        items, scores = answers(restarted)
        restarted.catalogue.changes.close()
        for running in (first, second)[: 1 + (step % 5 == 4)]:
            running.catalogue.catch_up()
            found, found_scores = answers(running)
            assert found == items
            np.testing.assert_allclose(found_scores, scores, rtol=1e-5, atol=1e-5)
    for running in (first, second):
        running.catalogue.changes.close()


def test_a_dense_head_is_exported_with_its_weight(fusion, trained, exported, tmp_path):
    rng = np.random.default_rng(3)
    items, width = trained.catalogue.num_items, trained.model.config.d_model
    item_ID = rng.normal(size=(items, width)).astype(np.float32)
    zeros = np.zeros((width, width), np.float32)  # the user is the history alone
    scorer = DenseScorer(item_ID, item_ID, zeros, np.zeros(32, np.float32), np.float32(1), temperature=2.0)
    dense = dataclasses.replace(fusion, dense_3=np.array([3.0, 0.0, 0.5], np.float32))
    recommender = Recommender.load(trained.export(tmp_path / "export", fusion=dense, dense=scorer))
    (found,) = recommender.recommend([["B003"]], k=8, exact=True)
    item = trained.catalogue.item_index("B003")
    logits_I = item_ID @ (item_ID[item] / np.linalg.norm(item_ID[item])) / 2.0
    scores_I = fusion.scores([[item]])[0] + (3.0 + 0.5 * fusion.common_I) * (logits_I - np.log(np.exp(logits_I).sum()))
    model = model_scores(exported, [["B003"]])[0]
    check(found, {sid: model[sid] + own for sid, own in sid_scores(trained.catalogue, scores_I).items()})
    recommender.warm_up(lambda line: None, max_history=33)
    compiled = beam_search._cache_size()
    for length in (1, 32, 33):
        recommender.answer([Request(("B003",) * length, 2)])
    assert beam_search._cache_size() == compiled
    (tmp_path / "export" / "dense_head.npz").unlink()
    with pytest.raises(UserError, match=r"dense_head\.npz"):
        Recommender.load(tmp_path / "export")


def test_a_changed_file_is_refused_and_the_catalogue_of_a_fusion_is_not_edited(fusion, trained, tmp_path):
    folder = tmp_path / "alone"
    export_fusion(fusion, trained.catalogue, folder, card_facts={})
    with pytest.raises(UserError, match="as they were exported"):
        accept_catalogue(folder)
    other = dataclasses.replace(fusion, weights_F3=fusion.weights_F3 + 1)
    other.save(folder / "fusion.npz")
    with pytest.raises(UserError, match="not as it was exported"):
        Recommender.load(folder)
