"""k-means: it finds what is there, moves empty centres, and is one program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsrec_jax.sid import kmeans as module
from tsrec_jax.sid.kmeans import cluster_means, kmeans, nearest


def blobs(rng, centres, rows_each, spread=0.01):
    centres_ED = rng.normal(size=(centres, 6)).astype(np.float32) * 5
    x_ID = np.repeat(centres_ED, rows_each, axis=0) + spread * rng.normal(size=(centres * rows_each, 6))
    return centres_ED, x_ID.astype(np.float32)


def inertia(x_ID, codebook_ED):
    return float(((x_ID[:, None] - np.asarray(codebook_ED)[None]) ** 2).sum(-1).min(1).mean())


def test_it_finds_separate_blobs():
    centres_ED, x_ID = blobs(np.random.default_rng(0), centres=12, rows_each=30)
    codebook_ED = np.asarray(kmeans(jnp.asarray(x_ID), 12, jax.random.key(0), iterations=20))
    distances = np.linalg.norm(centres_ED[:, None] - codebook_ED[None], axis=-1)
    assert (distances.min(axis=1) < 0.02).all()


def test_it_is_as_good_as_scikit_learns_on_data_without_blobs():
    from sklearn.cluster import KMeans

    x_ID = np.random.default_rng(1).normal(size=(600, 8)).astype(np.float32)
    theirs = KMeans(16, n_init=1, max_iter=50, random_state=0).fit(x_ID).inertia_ / len(x_ID)
    ours = inertia(x_ID, kmeans(jnp.asarray(x_ID), 16, jax.random.key(0), iterations=50))
    assert ours < 1.02 * theirs


def test_an_empty_centre_moves_to_the_farthest_row():
    x_ID = jnp.asarray([[0.0], [0.1], [0.2], [9.0]])
    means_ED, counts_E = cluster_means(x_ID, jnp.asarray([0, 0, 0, 0]), 2)
    repaired_ED = module._repaired(x_ID, means_ED, counts_E, jnp.asarray([1.0, 0.5, 0.2, 60.0]))
    assert np.asarray(repaired_ED).ravel().tolist() == pytest.approx([2.325, 9.0])


def test_every_code_is_used_even_from_a_bad_start(monkeypatch):
    _, x_ID = blobs(np.random.default_rng(2), centres=4, rows_each=50, spread=0.5)
    monkeypatch.setattr(module, "_plus_plus", lambda x_SD, num_codes, key: jnp.repeat(x_SD[:1], num_codes, axis=0))
    codebook_ED = kmeans.__wrapped__(jnp.asarray(x_ID), 24, jax.random.key(0), iterations=10)
    codes_I, _ = nearest(jnp.asarray(x_ID), codebook_ED)
    assert len(np.unique(np.asarray(codes_I))) == 24


@pytest.mark.parametrize("rows", [1, 7, 16, 17, 40])
def test_nearest_is_the_same_in_blocks(monkeypatch, rows):
    rng = np.random.default_rng(3)
    x_ID, codebook_ED = rng.normal(size=(rows, 5)).astype(np.float32), rng.normal(size=(9, 5)).astype(np.float32)
    monkeypatch.setattr(module, "BLOCK", 8)
    codes_I, distance_I = nearest(jnp.asarray(x_ID), jnp.asarray(codebook_ED))
    squared_IE = ((x_ID[:, None] - codebook_ED[None]) ** 2).sum(-1)
    assert np.array_equal(np.asarray(codes_I), squared_IE.argmin(axis=1))
    assert np.allclose(np.asarray(distance_I), squared_IE.min(axis=1), atol=1e-5)


def test_fewer_distinct_rows_than_codes_leave_no_broken_centre():
    x_ID = jnp.asarray(np.repeat([[1.0, 2.0], [3.0, 4.0]], 3, axis=0), jnp.float32)
    codebook_ED = np.asarray(kmeans(x_ID, 5, jax.random.key(0), iterations=4))
    assert np.isfinite(codebook_ED).all()
    assert inertia(np.asarray(x_ID), codebook_ED) == pytest.approx(0.0, abs=1e-10)


def test_equal_keys_give_equal_codebooks_and_equal_shapes_compile_once():
    x_ID = jnp.asarray(np.random.default_rng(4).normal(size=(100, 3)), jnp.float32)
    before = kmeans._cache_size()
    first, again = (np.asarray(kmeans(x_ID, 8, jax.random.key(7), iterations=5)) for _ in range(2))
    other = np.asarray(kmeans(x_ID, 8, jax.random.key(8), iterations=5))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert kmeans._cache_size() == before + 1
