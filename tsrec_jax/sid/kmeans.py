"""k-means in one jitted program: k-means++ start, Lloyd iterations, repair of empty clusters.

The rows may lie on a mesh. They are taken in groups of a fixed size, each summed on one device, and the sums are added
in the order of the groups, so the centres do not depend on the number of devices or processes.

Axis letters: I rows, D features, E codes, G groups, R rows of a group.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

SEEDING_ROWS_PER_CODE = 8  # k-means++ looks at this many rows per code; Lloyd iterations correct the rest
CANDIDATES = 8  # number of rows that greedy k-means++ draws for each centre
BLOCK = 4096  # number of rows whose distances to all codes are held at once
GROUP = 16 * BLOCK  # number of rows that are summed at once


@functools.partial(jax.jit, static_argnames=("num_codes", "iterations"))
def kmeans(x_ID: jax.Array, num_codes: int, key: jax.Array, *, iterations: int = 25) -> jax.Array:
    """Centres that locally minimise the squared distance of the rows to their nearest centre.

    Lloyd's algorithm from a k-means++ start (Arthur and Vassilvitskii, 2007). A centre without rows moves to the
    row farthest from its own centre; the last iteration ends with such a repair too.

    Args:
      x_ID: float32 rows; with fewer distinct rows than codes, some centres coincide.
      num_codes: E.
      key: random key of the start.
      iterations: number of iterations of Lloyd's algorithm.

    Returns:
      float32 codebook_ED.
    """
    return improved(x_ID, first_centres(x_ID, num_codes, key), iterations)


def first_centres(x_ID: jax.Array, num_codes: int, key: jax.Array) -> jax.Array:
    """float32 codebook_ED that k-means starts from, drawn from a sample of the rows."""
    start_key, sample_key = jax.random.split(key)
    count = min(len(x_ID), SEEDING_ROWS_PER_CODE * num_codes)
    sample = jax.random.choice(sample_key, len(x_ID), (count,), replace=False)
    return _plus_plus(x_ID[sample], num_codes, start_key)


def on_mesh(x_ID: np.ndarray, mesh: Mesh | None) -> jax.Array:
    """The rows, with some groups on each device of a mesh; rows of zeros fill the last groups.

    Every process passes all rows. A single group lies on one device.
    """
    if mesh is None or len(x_ID) <= GROUP:
        return jnp.asarray(x_ID)
    whole_ID = np.zeros((len(x_ID) + -len(x_ID) % (GROUP * mesh.size), x_ID.shape[1]), np.float32)
    whole_ID[: len(x_ID)] = x_ID
    sharding = NamedSharding(mesh, jax.P(mesh.axis_names))
    return jax.make_array_from_callback(whole_ID.shape, sharding, whole_ID.__getitem__)


def improved(x_ID: jax.Array, codebook_ED: jax.Array, iterations: int, rows: int | None = None) -> jax.Array:
    """float32 codebook_ED after some of Lloyd's iterations, each with a repair of empty centres.

    Args:
      x_ID: float32 rows, of which the first `rows` count (None: all).
      codebook_ED: the centres.
      iterations: number of iterations.
      rows: see x_ID.
    """

    def iteration(codebook_ED: jax.Array, _: None) -> tuple[jax.Array, None]:
        distance_I, means_ED, counts_E = assigned(x_ID, codebook_ED, rows=rows)[1:]
        return _repaired(x_ID, means_ED, counts_E, distance_I), None

    return jax.lax.scan(iteration, codebook_ED, None, length=iterations)[0]


def assigned(
    x_ID: jax.Array, codebook_ED: jax.Array, prices_E: jax.Array | float = 0.0, rows: int | None = None
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """What `nearest` gives, and the means and counts of the rows of every code.

    Args:
      x_ID: float32 rows, of which the first `rows` count (None: all); the others get the code E and the distance -1.
      codebook_ED, prices_E: as in `nearest`.
      rows: see x_ID.

    Returns:
      codes_I, distance_I, means_ED (zero where a code has no rows) and counts_E.
    """
    num_codes = len(codebook_ED)
    if len(x_ID) <= GROUP:
        codes_I, distance_I = nearest(x_ID, codebook_ED, prices_E)
        return codes_I, distance_I, *cluster_means(x_ID, codes_I, num_codes)

    def group(
        x_RD: jax.Array, counts_R: jax.Array, codebook_ED: jax.Array, prices_E: jax.Array
    ) -> tuple[jax.Array, ...]:
        codes_R, distance_R = nearest(x_RD, codebook_ED, prices_E)
        codes_R, distance_R = jnp.where(counts_R, codes_R, num_codes), jnp.where(counts_R, distance_R, -1.0)
        return codes_R, distance_R, *_sums(x_RD, codes_R, num_codes)

    def groups(x_GRD: jax.Array, counts_GR: jax.Array, *shared: jax.Array) -> tuple[jax.Array, ...]:
        return jax.lax.map(lambda own: group(*own, *shared), (x_GRD, counts_GR))

    mesh = jax.sharding.get_abstract_mesh()
    split = not mesh.empty and mesh.size > 1
    if split:
        over = jax.P(mesh.axis_names)
        groups = jax.shard_map(groups, in_specs=(over, over, jax.P(), jax.P()), out_specs=over)
    short = -len(x_ID) % GROUP
    x_GRD = jnp.pad(x_ID, ((0, short), (0, 0))).reshape(-1, GROUP, x_ID.shape[1])
    counts_GR = (jnp.arange(len(x_ID) + short) < (rows or len(x_ID))).reshape(-1, GROUP)
    codes_GR, distance_GR, sums_GED, counts_GE = groups(
        x_GRD, counts_GR, codebook_ED, jnp.broadcast_to(jnp.asarray(prices_E, jnp.float32), num_codes)
    )
    if split:
        sums_GED, counts_GE = jax.lax.with_sharding_constraint((sums_GED, counts_GE), jax.P())
    # One after the other: the order of a reduction over G is the compiler's choice.
    sums_ED, _ = jax.lax.scan(lambda total, own: (total + own, None), jnp.zeros_like(sums_GED[0]), sums_GED)
    counts_E = counts_GE.sum(axis=0)
    means_ED = sums_ED / jnp.maximum(counts_E, 1)[:, None]
    return codes_GR.reshape(-1)[: len(x_ID)], distance_GR.reshape(-1)[: len(x_ID)], means_ED, counts_E


def nearest(x_ID: jax.Array, codebook_ED: jax.Array, prices_E: jax.Array | float = 0.0) -> tuple[jax.Array, jax.Array]:
    """The nearest centre of every row (the first one of equals), in blocks of rows.

    Args:
      x_ID: float32 rows.
      codebook_ED: the centres.
      prices_E: added to the squared distances.

    Returns:
      codes_I int32, and distance_I float32, the squared distance to that centre plus its price.
    """

    def block(x_BD: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores_BE = squared_distances(x_BD, codebook_ED) + prices_E
        return jnp.argmin(scores_BE, axis=1).astype(jnp.int32), jnp.maximum(scores_BE.min(axis=1), 0.0)

    return over_blocks(block, x_ID)


def squared_distances(x_BD: jax.Array, codebook_ED: jax.Array) -> jax.Array:
    """float32 (B, E); may be negative by a rounding error."""
    product_BE = jnp.einsum("bd,ed->be", x_BD, codebook_ED, precision="highest")
    return jnp.square(x_BD).sum(axis=1)[:, None] - 2.0 * product_BE + jnp.square(codebook_ED).sum(axis=1)


def over_blocks(function: Callable, x_ID: jax.Array):
    """`function` applied to blocks of rows one after the other, its results joined; the last block may be shorter."""
    whole = len(x_ID) // BLOCK * BLOCK
    results = []
    if whole:
        blocks = jax.lax.map(function, x_ID[:whole].reshape(-1, BLOCK, x_ID.shape[1]))
        results.append(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), blocks))
    if whole < len(x_ID):
        results.append(function(x_ID[whole:]))
    return results[0] if len(results) == 1 else jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *results)


def cluster_means(x_ID: jax.Array, codes_I: jax.Array, num_codes: int) -> tuple[jax.Array, jax.Array]:
    """Mean of the rows of every code (zero if it has none), and counts_E int32."""
    sums_ED, counts_E = _sums(x_ID, codes_I, num_codes)
    return sums_ED / jnp.maximum(counts_E, 1)[:, None], counts_E


def _sums(x_ID: jax.Array, codes_I: jax.Array, num_codes: int) -> tuple[jax.Array, jax.Array]:
    """Sum and number of the rows of every code; rows with a code beyond the last are not counted."""
    counts_E = jnp.zeros(num_codes, jnp.int32).at[codes_I].add(1, mode="drop")
    return jax.ops.segment_sum(x_ID, codes_I, num_codes), counts_E


def _plus_plus(x_SD: jax.Array, num_codes: int, key: jax.Array) -> jax.Array:
    """Greedy k-means++: draws a few rows in proportion to their squared distance to the centres so far, and takes the
    one that lowers the sum of those distances most."""
    first_key, rest_key = jax.random.split(key)
    first = x_SD[jax.random.randint(first_key, (), 0, len(x_SD))]

    def draw(closest_S: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Rows equal to a centre have distance 0; if all are, it does not matter which is drawn.
        candidates_K = jax.random.categorical(key, jnp.log(jnp.maximum(closest_S, 1e-30)), shape=(CANDIDATES,))
        closest_KS = jnp.minimum(closest_S, squared_distances(x_SD[candidates_K], x_SD))
        best = jnp.argmin(closest_KS.sum(axis=1))
        return jnp.maximum(closest_KS[best], 0.0), x_SD[candidates_K[best]]

    start_S = jnp.square(x_SD - first).sum(axis=1)
    _, rest = jax.lax.scan(draw, start_S, jax.random.split(rest_key, num_codes - 1))
    return jnp.concatenate([first[None], rest])


def _repaired(x_ID: jax.Array, means_ED: jax.Array, counts_E: jax.Array, distance_I: jax.Array) -> jax.Array:
    """The means, with the n-th empty one replaced by the row that is n-th farthest from its own centre."""
    empty_E = counts_E == 0
    farthest = jax.lax.top_k(distance_I, min(len(counts_E), len(distance_I)))[1]
    order_E = jnp.minimum(jnp.cumsum(empty_E) - 1, len(farthest) - 1)
    return jnp.where(empty_E[:, None], x_ID[farthest[order_E]], means_ED)
