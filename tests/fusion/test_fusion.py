"""A fusion against its formula in NumPy, and from its file."""

import dataclasses

import numpy as np
import pytest

from tsrec_jax.baselines.tables import ItemTables, Seen, Term
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.errors import UserError
from tsrec_jax.fusion import fusion as fusion_module
from tsrec_jax.fusion.fusion import Fusion, Part, Scale, alone, commonness

HISTORIES = [(0,), (1, 2, 2), (4, 3)]


@pytest.fixture
def fusion():
    rng = np.random.default_rng(1)
    tables = [
        ItemTables(rng.normal(size=5).astype(np.float32), (Term(0.5, rng.normal(size=(5, 5)).astype(np.float32)),))
        for _ in range(2)
    ]
    parts = tuple(Part(f"part {n}", own, Scale.of(own.scores(HISTORIES))) for n, own in enumerate(tables))
    weights_F3 = rng.normal(size=(4, 3)).astype(np.float32)
    held_3, dense_3 = np.array([[-2, 0.4, 0.3], [0.7, -0.2, 0.1]], np.float32)
    common_I = np.array([-1, -0.5, 0, 0.5, 1], np.float32)
    sids_I = np.array([0, 1, 2, 3, 0], np.int32)
    return Fusion(parts, weights_F3, held_3, dense_3, common_I, sids_I, 0.9, {"rows": 3})


def test_scores_follow_the_formula(fusion):
    total = np.zeros((3, 5))
    for row, history in enumerate(HISTORIES):
        length, common_I = np.log1p(len(history)) - 0.9, fusion.common_I
        for number, part in enumerate(fusion.parts):
            x_BI = np.float64(part.tables.scores(HISTORIES))
            log_BI = np.log(1 + 10 * np.maximum(x_BI, 0) / x_BI[x_BI > 0].mean())
            forms = x_BI / x_BI.std(), log_BI / log_BI.std()
            for (w, v, u), form_BI in zip(fusion.weights_F3[2 * number :], forms, strict=False):
                total[row] += (w + v * length + u * common_I) * form_BI[row]
        held_I = np.isin(fusion.sids_I, fusion.sids_I[list(history)])
        total[row] += (-2 + 0.4 * length + 0.3 * common_I) * held_I
    np.testing.assert_allclose(fusion.scores(HISTORIES), total, rtol=1e-4, atol=1e-5)
    lengths = np.log1p([1, 3, 2]) - 0.9
    wanted_BI = 0.7 - 0.2 * lengths[:, None] + 0.1 * fusion.common_I
    np.testing.assert_allclose(fusion.dense_weights(HISTORIES), wanted_BI, rtol=1e-5)


def test_how_common_an_item_is_counts_every_place_of_it_in_train():
    rows = Interactions(("a", "a", "b"), ((0,), (0, 1), (0,)), np.array([1, 2, 2], np.int32))
    log_I = np.log([4, 3, 3, 1])
    np.testing.assert_allclose(commonness(rows, 4), (log_I - log_I.mean()) / log_I.std(), rtol=1e-6)


def test_a_history_of_which_items_are_left_out_keeps_its_length(fusion):
    whole, short = fusion.scores([(2, 2, 1)]), fusion.scores([(1,)], [3])
    assert not np.allclose(fusion.scores([(1,)]), short)
    flat = dataclasses.replace(
        fusion,
        held_3=None,
        parts=tuple(dataclasses.replace(p, tables=ItemTables(p.tables.bias_I)) for p in fusion.parts),
    )
    assert np.array_equal(flat.scores([(2, 2, 1)]), flat.scores([(1,)], [3]))
    assert whole.shape == short.shape


def test_what_others_say_is_all_but_what_the_history_counts_for_itself(fusion):
    part = fusion.parts[1]
    counting = dataclasses.replace(part, tables=dataclasses.replace(part.tables, seen=Seen(-2.0, 0.5, fusion.sids_I)))
    full = dataclasses.replace(fusion, parts=(fusion.parts[0], counting))
    others = dataclasses.replace(fusion, held_3=None)
    scores_BI, others_BI = full.scores_and_others(HISTORIES, [2, 3, 4])
    assert np.array_equal(scores_BI, full.scores(HISTORIES, [2, 3, 4]))
    assert np.array_equal(others_BI, others.scores(HISTORIES, [2, 3, 4]))
    assert not np.array_equal(full.scores(HISTORIES), dataclasses.replace(full, held_3=None).scores(HISTORIES))
    assert not np.array_equal(full.scores(HISTORIES), fusion.scores(HISTORIES))


def test_a_file_gives_the_same_scores_bit_for_bit(fusion, tmp_path):
    fusion.save(tmp_path / "fusion.npz")
    again = Fusion.load(tmp_path / "fusion.npz", 5)
    assert np.array_equal(again.scores(HISTORIES), fusion.scores(HISTORIES))
    assert np.array_equal(again.dense_weights(HISTORIES), fusion.dense_weights(HISTORIES))
    assert again.facts == {"rows": 3}


def test_a_file_that_is_no_fusion_or_of_another_catalogue_is_refused(fusion, tmp_path):
    path = tmp_path / "fusion.npz"
    with pytest.raises(UserError, match="not there; delete the export"):
        Fusion.load(path, 5)
    fusion.save(path)
    with pytest.raises(UserError, match="not of a catalogue of 6 items"):
        Fusion.load(path, 6)
    for changed in ({"sids_I": fusion.sids_I[:4]}, {"held_3": np.zeros(2)}, {"dense_3": np.zeros((3, 1))}):
        dataclasses.replace(fusion, **changed).save(path)
        with pytest.raises(UserError, match=r"not a fusion.*(catalogue of 5 items|not three)"):
            Fusion.load(path, 5)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="not a fusion"):
        Fusion.load(path, 5)


def test_a_file_of_another_version_is_refused(fusion, tmp_path, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr(fusion_module, "VERSION", 1)
        fusion.save(tmp_path / "fusion.npz")
    with pytest.raises(UserError, match="one of version 1, where 2 is read"):
        Fusion.load(tmp_path / "fusion.npz", 5)


def test_one_part_alone_keeps_its_scores(fusion):
    part = fusion.parts[0]
    np.testing.assert_array_equal(alone(part, fusion.sids_I, {}).scores(HISTORIES), part.tables.scores(HISTORIES))


def test_scores_without_spread_or_without_any_above_zero_have_constants():
    for value in (0.0, -1.0, -0.1):
        assert Scale.of(np.full((7, 300), value, np.float32)) == Scale(1.0, 1.0, 1.0)
    scale = Scale.of(np.full((7, 300), 0.1, np.float32))
    assert (scale.linear, scale.logarithm) == (1.0, 1.0), "rounding is no spread"


def test_of_a_dense_head_alone_every_item_scores_0_beside_it(fusion, tmp_path):
    alone = dataclasses.replace(fusion, parts=(), weights_F3=np.zeros((0, 3), np.float32), held_3=None)
    alone.save(tmp_path / "fusion.npz")
    for own in (alone, Fusion.load(tmp_path / "fusion.npz", 5)):
        np.testing.assert_array_equal(own.scores(HISTORIES), np.zeros((3, 5)))
        np.testing.assert_array_equal(own.dense_weights(HISTORIES), fusion.dense_weights(HISTORIES))
