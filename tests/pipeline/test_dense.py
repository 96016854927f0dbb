"""What the dense head of a run starts from."""

import jax
import numpy as np
import pytest
from flax import nnx

from tsrec_jax.data.catalogue import Catalogue, Item
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.errors import UserError
from tsrec_jax.pipeline import dense
from tsrec_jax.pipeline.dense import dense_shape, kept_text_vectors, known_items, make_head, text_vectors
from tsrec_jax.pipeline.workdir import Workdir
from tsrec_jax.settings import default_config, settings_of

TITLES = ("red steel pan", "blue steel pan", "red wool hat", "blue wool hat", "?")
CATALOGUE = Catalogue(
    tuple(Item(str(number), title) for number, title in enumerate(TITLES)),
    tuple((f"<a_{number % 2}>", f"<b_{number}>") for number in range(5)),
)


def test_items_are_as_alike_as_their_texts_and_one_without_words_is_like_none():
    texts_IF = text_vectors(CATALOGUE, "", 3)
    likeness_II = texts_IF @ texts_IF.T
    np.testing.assert_allclose(np.diag(likeness_II)[:4], 1.0, rtol=1e-5)
    assert likeness_II[0, 1] > likeness_II[0, 3] and likeness_II[2, 3] > likeness_II[2, 1]
    np.testing.assert_allclose(likeness_II[4], 0.0, atol=1e-4)


def test_vectors_of_a_file_are_taken_less_their_mean(tmp_path):
    given = np.random.default_rng(0).normal(3.0, 1.0, (5, 7))
    np.save(tmp_path / "vectors.npy", given)
    wanted = given - given.mean(axis=0)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(text_vectors(CATALOGUE, str(tmp_path / "vectors.npy"), 3), wanted, atol=1e-5)
    np.save(tmp_path / "vectors.npy", given[:4])
    with pytest.raises(UserError, match=r"config\.dense\.embeddings.*\(5, features\)"):
        text_vectors(CATALOGUE, str(tmp_path / "vectors.npy"), 3)


def test_singular_vectors_are_computed_once_for_a_workdir_and_anew_for_other_texts_or_sizes(tmp_path, monkeypatch):
    calls, compute = [], dense.svd_features
    monkeypatch.setattr(dense, "svd_features", lambda *given: calls.append(given) or compute(*given))
    other = Catalogue((Item("0", "green steel pot"), *CATALOGUE.items[1:]), CATALOGUE.sids)
    for catalogue, features, computed in ((CATALOGUE, 3, 1), (CATALOGUE, 3, 1), (CATALOGUE, 2, 2), (other, 2, 3)):
        kept_IF = kept_text_vectors(Workdir(tmp_path), catalogue, "", features)
        assert len(calls) == computed
        np.testing.assert_array_equal(kept_IF, text_vectors(catalogue, "", features))
        del calls[computed:]


def test_items_are_known_that_share_their_sid_with_one_of_a_history_or_a_target_of_train():
    sids = (("<a>", "<b>"), ("<a>", "<c>"), ("<a>", "<b>"), ("<d>", "<b>"), ("<d>", "<c>"))
    train = Interactions(("u", "v"), ((2,), (2, 2)), np.array([3, 3], np.int32))
    assert known_items(Catalogue(CATALOGUE.items, sids), train).tolist() == [True, False, True, True, False]


def test_the_shape_that_a_plan_knows_is_that_of_the_head(tmp_path):
    config = settings_of(default_config())
    assert dense_shape(config, CATALOGUE, 3) is None
    config = config.changed({"dense": {"weight": 1.0}})
    head, shape = make_head(config, CATALOGUE, 3, 40, None, text_vectors), dense_shape(config, CATALOGUE, 3)
    assert shape.parameters(3) == sum(leaf.size for leaf in jax.tree.leaves(nnx.state(head, nnx.Param)))
    assert (shape.items, shape.slots) == (5, config.train.sequence_length // 2)
    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).normal(size=(5, 7)))
    config = config.changed({"dense": {"embeddings": str(tmp_path / "vectors.npy")}})
    assert dense_shape(config, CATALOGUE, 3).parameters(3) - shape.parameters(3) == 2 * (7 - shape.features) * 3
    with pytest.raises(UserError, match=r"config\.tasks\.next_sid\.weight"):
        config.changed({"tasks": {"next_sid": {"weight": 0.0}}})
