"""The vectors of the items: made once for SIDs, neighbours and a study, and part of what tells runs apart."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from tsrec_jax.baselines.names import BASELINES
from tsrec_jax.data.dataset import read_dataset, write_dataset
from tsrec_jax.data.text_folder import read_texts
from tsrec_jax.errors import UserError
from tsrec_jax.pipeline import index, pretrain, vectors
from tsrec_jax.pipeline.fuse import fused, fusion_inputs
from tsrec_jax.pipeline.index import make_index
from tsrec_jax.pipeline.job import Job, open_job, training_identity
from tsrec_jax.pipeline.study_cell import wanted_cells
from tsrec_jax.pipeline.study_measure import with_inputs
from tsrec_jax.pipeline.vectors import ItemVectors
from tsrec_jax.pipeline.workdir import Workdir
from tsrec_jax.settings import default_config, settings_of
from tsrec_jax.shop.shop import make_shop

SHOP = make_shop(0, num_items=80, num_users=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "shop"
    write_dataset("shop", SHOP.catalogue, SHOP.splits, SHOP.token_descriptions, path)
    return path


@pytest.fixture
def embedded(monkeypatch):
    """The models that texts were embedded by, one for each time; no model is made or loaded."""
    calls = []

    def embed(settings, words, model, mesh):
        calls.append(model)
        seed = settings.index.max_tokens
        return np.random.default_rng(seed).normal(size=(len(words), 12)).astype(np.float32)

    def made(settings, workdir, texts):
        own = workdir / "pretrained"
        own.mkdir(parents=True, exist_ok=True)
        (own / pretrain.IDENTITY).write_text(json.dumps(pretrain.pretraining_identity(settings, texts)))
        return own

    monkeypatch.setattr(vectors, "_llm_embeddings", embed)
    monkeypatch.setattr(pretrain, "pretrain", made)
    return calls


def settings_with(**changes):
    return settings_of(default_config()).changed(changes)


def learning_from(folder, teacher, **changes):
    """Settings of a training with this teacher on the folder, which names no model."""
    data = {"dataset": {"path": str(folder)}, "tasks": {"distilled_sid": {"teacher": teacher}}}
    return settings_with(**data, **changes)


def test_neighbours_are_found_among_the_vectors_that_sids_are_made_of(folder, embedded, tmp_path, monkeypatch):
    """By the model that the run itself pretrained, which the settings do not name."""
    coded = []

    def code(settings, item_ids, x_ID, *_):
        coded.append(x_ID)
        raise KeyboardInterrupt

    monkeypatch.setattr(index, "_coded", code)
    settings, own = settings_with(), str(tmp_path / "pretrained")
    with pytest.raises(KeyboardInterrupt):
        make_index(settings, tmp_path, read_texts(folder))
    found = ItemVectors.of_model(settings, tmp_path, SHOP.catalogue.items, own)()
    np.testing.assert_array_equal(found, coded[0])
    assert embedded == [own]


def test_a_run_on_given_sids_makes_vectors_before_training_where_its_teacher_needs_them(folder, embedded, tmp_path):
    open_job(learning_from(folder, "hybrid"), tmp_path / "none")
    assert not embedded
    for _ in range(2):
        job = open_job(learning_from(folder, "knn"), tmp_path / "knn")
    assert embedded == [str(tmp_path / "knn" / "pretrained")], "once, and kept"
    assert job.vectors().shape == (80, 12)
    assert len(embedded) == 1


def test_what_vectors_come_from_tells_trainings_and_evaluations_apart(folder, embedded, tmp_path):
    np.save(tmp_path / "x.npy", np.ones((80, 3), np.float32))
    dataset = read_dataset(folder)
    others = [{"max_tokens": 7}, {"model": "another"}, {"embeddings": str(tmp_path / "x.npy")}]

    def job(teacher, **index):
        return Job(learning_from(folder, teacher, index=index), Workdir(tmp_path), dataset, "base")

    for other in others:
        assert job("knn", **other).identity != job("knn").identity, other
        assert job("hybrid", **other).identity == job("hybrid").identity, other
        assert job("hybrid", **other).vectors_identity(["knn"]) != job("hybrid").vectors_identity(["knn"]), other
        assert job("hybrid", **other).vectors_identity(["ease"]) == {}
    shutil.copy(tmp_path / "x.npy", tmp_path / "moved.npy")
    moved = job("knn", embeddings=str(tmp_path / "moved.npy")).identity
    assert moved == job("knn", **others[-1]).identity
    np.save(tmp_path / "moved.npy", np.zeros((80, 3), np.float32))
    assert moved != job("knn", embeddings=str(tmp_path / "moved.npy")).identity


def test_without_a_model_there_are_no_vectors(embedded, tmp_path):
    with pytest.raises(UserError, match=r"no model to make them with; give config\.index\.embeddings"):
        ItemVectors.of_model(settings_with(), tmp_path, SHOP.catalogue.items, "").file()


def test_other_texts_or_another_encoder_are_embedded_anew(embedded, tmp_path):
    items = SHOP.catalogue.items
    for changed, given, calls in (({}, items, 1), ({}, items[:70], 2), ({"max_tokens": 7}, items[:70], 3)):
        found = ItemVectors.of_model(settings_with(index=changed), tmp_path, given, "base")()
        assert (len(found), len(embedded)) == (len(given), calls)


def study_of(folder, **changes):
    arms = {"plain": {}, "taught": {"tasks": {"distilled_sid": {"teacher": "knn"}}}}
    study = {"arms": arms, "baselines": ("popularity", "knn"), "seeds": (1, 2)}
    return settings_with(dataset={"path": str(folder)}, model={"path": "base"}, study=study, **changes)


def test_the_cells_of_a_study_share_one_set_of_vectors(folder, embedded, tmp_path):
    found = {}
    for wanted in wanted_cells(study_of(folder), tmp_path):
        found[wanted.name, wanted.seed] = with_inputs(wanted, tmp_path).index.embeddings
    assert embedded == ["base"]
    needing = [found["knn", 1], found["taught", 1], found["taught", 2]]
    assert len(set(needing)) == 1
    assert np.load(needing[0]).shape == (80, 12)
    assert not any(path for key, path in found.items() if key[0] in ("plain", "popularity"))


def test_a_fusion_without_the_model_has_neighbours_and_leaves_the_model_to_the_arms_that_need_it(
    folder, embedded, tmp_path, monkeypatch
):
    arms = {name: {"fusion": {"parts": (name,), "model": False}} for name in ("ease", "knn")} | {"trained": {}}
    settings = settings_with(dataset={"path": str(folder)}, study={"arms": arms, "seeds": (1,)})
    ease, knn, trained = (with_inputs(wanted, tmp_path) for wanted in wanted_cells(settings, tmp_path))
    assert not ease.model.path
    assert knn.model.path == trained.model.path
    assert embedded == [knn.model.path]
    job = open_job(knn, tmp_path / "cell")
    assert job.vectors().shape == (80, 12)
    inputs = fusion_inputs(job)
    assert inputs["SHA-256 of index.embeddings"]
    job.workdir.finish("fuse", inputs, {})
    (job.workdir.path / "fusion.npz").write_bytes(b"cut off")
    with pytest.raises(UserError, match=r"fusion\.npz: not a fusion .*; delete it, and it is fitted again"):
        fused(job, None)
    monkeypatch.setitem(BASELINES, "knn", dataclasses.replace(BASELINES["knn"], version=99))
    assert fusion_inputs(job) == inputs | {"version of knn": 99}, "one with other tables is fitted again"
    other = open_job(learning_from(folder, "hybrid", fusion=arms["knn"]["fusion"]), tmp_path / "own")
    assert fusion_inputs(other)["encoder's model"].startswith("pretrained ("), "made for the neighbours alone"


@pytest.mark.parametrize("section", ["index", "dense"])
def test_vectors_from_a_file_count_by_what_it_holds(folder, tmp_path, section):
    place, moved = tmp_path / "x.npy", tmp_path / "moved.npy"
    np.save(place, np.ones((80, 3), np.float32))
    shutil.copy(place, moved)
    dataset = read_dataset(folder)

    def known(path):
        settings = study_of(folder, **{section: {"embeddings": str(path)}})
        return {wanted.data for wanted in wanted_cells(settings, tmp_path)}, training_identity(settings, dataset)

    before = known(place)
    assert known(moved) == before
    np.save(moved, np.zeros((80, 3), np.float32))
    cells, training = known(moved)
    assert not cells & before[0]
    assert (training == before[1]) == (section == "index"), "SIDs are given, so that nothing is made of the index's"
    with pytest.raises(UserError, match=rf"config\.{section}\.embeddings=.*no such file"):
        known(tmp_path / "gone.npy")
