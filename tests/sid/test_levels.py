"""Levels on disk: of the same fit they come back bit for bit, of another one or from a broken file none does."""

import numpy as np

from tests.said import said
from tsrec_jax.sid.index import build_index
from tsrec_jax.sid.levels import LevelStore
from tsrec_jax.sid.settings import IndexSettings

LEVELS = [(np.full((3, 2), 0.1, np.float32), np.array([0, 2, 1, 1], np.int32))] * 2


def test_levels_of_the_same_fit_come_back(tmp_path):
    store = LevelStore(tmp_path / "levels.npz", "a fit")
    assert store.read() == []
    store.write(LEVELS)
    for (codebook_ED, codes_I), (there_ED, there_I) in zip(LEVELS, store.read(), strict=True):
        assert np.array_equal(codebook_ED, there_ED) and codebook_ED.dtype == there_ED.dtype
        assert np.array_equal(codes_I, there_I) and codes_I.dtype == there_I.dtype
    assert LevelStore(store.path, "another fit").read() == []
    store.path.write_bytes(store.path.read_bytes()[:-40])
    assert store.read() == []


def test_levels_of_other_embeddings_settings_or_seeds_are_not_taken(tmp_path):
    x_ID = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    settings = IndexSettings(method="rq_kmeans", sizes=(4, 4), collisions="none", whiten=0, iterations=2)
    ids, kept = tuple(map(str, range(60))), tmp_path / "levels.npz"

    def build(x_ID, settings, seed):
        with said() as lines:
            build_index(ids, x_ID, settings, seed, kept)
        return any("are kept" in line for line in lines)

    assert not build(x_ID, settings, 0)
    assert build(x_ID, settings, 0)
    assert not build(-x_ID, settings, 0)
    assert not build(x_ID, settings, 0)
    assert not build(x_ID, settings, 1)
    assert not build(
        x_ID, IndexSettings(method="rq_kmeans", sizes=(4, 5), collisions="none", whiten=0, iterations=2), 1
    )
