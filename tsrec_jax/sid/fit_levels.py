"""The levels of a residual quantiser, fitted by one process on one device, or by all processes of a run on a mesh.

On a mesh, k-means iterations over many rows are divided among its devices. Work that is small, or must look at all rows
in turn, is done on one device, and every process takes the first one's result. So the levels are the same either way.

Axis letters: I items, D features, E codes of a level, S items of a sample.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tsrec_jax.models.sharding import host_copy, one_device
from tsrec_jax.processes import agree, first, first_makes, share
from tsrec_jax.progress import Progress, report
from tsrec_jax.sid.assignment import balanced_assignment, transport_prices
from tsrec_jax.sid.kmeans import (
    GROUP,
    assigned,
    cluster_means,
    first_centres,
    improved,
    on_mesh,
    squared_distances,
)
from tsrec_jax.sid.levels import Level, LevelStore
from tsrec_jax.sid.settings import IndexSettings

FREE_START = 5  # number of iterations of unconstrained k-means before sizes are constrained
PRICED_ROWS, PRICED_ROWS_PER_CODE = 16_384, 64  # size of the sample for intermediate prices: the larger of the two
NO_VARIANCE = "there is no variance to code: all embeddings are equal"


def fit_levels(
    x_ID: np.ndarray,
    settings: IndexSettings,
    seed: int,
    store: LevelStore | None,
    *,
    balanced: bool,
    mesh: Mesh | None = None,
) -> list[Level]:
    """Codebook and codes of every level: the nearest codes, or with `balanced` codes of even size.

    Args:
      x_ID: float32 embeddings.
      settings: sizes, iterations and rows_per_code are read.
      seed: seed of everything random.
      store: holds the levels that are finished, and receives each new one; None: nothing is kept.
      balanced: whether every code takes floor(I / E) or ceil(I / E) of the items.
      mesh: mesh over which the rows are divided. If it has several processes, all of them call this with the same
        arguments, and the first one reads and writes the store. None: one process does it alone.
    """
    sizes = settings.sizes
    fit = _Fit(settings, mesh)
    left_ID = np.asarray(x_ID, np.float32)
    total = float(np.square(left_ID - left_ID.mean(axis=0)).sum())
    levels = fit.kept(store, left_ID.shape)
    if levels:
        report(f"{len(levels)} of {len(sizes)} levels are kept from before")
    for kept_ED, kept_I in levels:
        left_ID = left_ID - kept_ED[kept_I]
    fit_level, steps = _free_level, settings.iterations
    if balanced:  # a level begins freely and ends in an assignment
        fit_level, steps = _balanced_level, min(FREE_START, settings.iterations) + settings.iterations + 1
    progress = Progress(steps * (len(sizes) - len(levels)))
    for level in range(len(levels), len(sizes)):
        name = f"level {level + 1} of {len(sizes)}"
        with fit.alone():
            key = jax.random.split(jax.random.key(seed), len(sizes))[level]
        codebook_ED, codes_I = fit_level(left_ID, sizes[level], key, fit, functools.partial(progress.tick, name))
        left_ID = left_ID - codebook_ED[codes_I]
        levels.append((codebook_ED, codes_I))
        if store is not None and first():
            store.write(levels)
        error = float(np.square(left_ID).sum())
        left = f"{error / total:.1%} of the variance is left" if total else NO_VARIANCE
        report(f"{name}: {sizes[level]} codes, {left}{progress.estimate}")
    return levels


@dataclasses.dataclass(frozen=True)
class _Fit:
    """Which process and device does which part of a fit.

    Attributes:
      settings, mesh: as in `fit_levels`.
    """

    settings: IndexSettings
    mesh: Mesh | None

    @property
    def shared(self) -> bool:
        """Whether several processes take part."""
        return self.mesh is not None and self.mesh.is_multi_process

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """A context for what runs on one device of each process."""
        return contextlib.nullcontext() if self.mesh is None else one_device()

    def over(self, x_ID: np.ndarray) -> contextlib.AbstractContextManager[None]:
        """A context for what runs over all rows, which are laid out by `on_mesh`."""
        return self.alone() if self.mesh is None or len(x_ID) <= GROUP else jax.set_mesh(self.mesh)

    def agreed(self, found: np.ndarray | jax.Array) -> np.ndarray:
        """What the first process found."""
        array = np.asarray(found)
        return agree(array) if self.shared else array

    def found_by_first(self, find: Callable[[], np.ndarray], like: np.ndarray) -> np.ndarray:
        """What `find` returns in the first process alone, however long it takes: an array of `like`'s shape and type.

        The others wait for it at a barrier, since a collective gives up after half an hour.
        """
        if not self.shared:
            return find()
        return agree(first_makes(lambda: find() if first() else like))

    def kept(self, store: LevelStore | None, shape: tuple[int, int]) -> list[Level]:
        """The finished levels of the store, for rows of this shape."""
        levels = store.read() if store is not None and first() else []
        if not self.shared:
            return levels
        rows, width = shape
        sizes = self.settings.sizes[: share(len(levels))]
        empty = [(np.zeros((size, width), np.float32), np.zeros(rows, np.int32)) for size in sizes]
        return [(self.agreed(codebook), self.agreed(codes)) for codebook, codes in (levels or empty)]


def _free_level(
    x_ID: np.ndarray, num_codes: int, key: jax.Array, fit: _Fit, tick: Callable[[], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Centres of k-means, and the nearest one of every row."""
    with fit.alone():
        sample_key, key = jax.random.split(key)
    sample_SD = _sample(x_ID, fit.settings.rows_per_code * num_codes, sample_key, fit)
    codebook_ED = _free_centres(sample_SD, num_codes, key, fit.settings.iterations, fit, tick)
    with fit.over(x_ID):
        codes_I = host_copy(_nearest_codes(on_mesh(x_ID, fit.mesh), codebook_ED))[: len(x_ID)]
    return codebook_ED, fit.agreed(codes_I)


def _free_centres(
    x_ID: np.ndarray, num_codes: int, key: jax.Array, iterations: int, fit: _Fit, tick: Callable[[], None]
) -> np.ndarray:
    """As `kmeans`, with a tick after every iteration."""
    with fit.alone():
        start_ED = fit.agreed(_first_centres(jnp.asarray(x_ID), num_codes, key))
    with fit.over(x_ID):
        rows_ID, codebook_ED = on_mesh(x_ID, fit.mesh), jnp.asarray(start_ED)
        for _ in range(iterations):
            codebook_ED = jax.block_until_ready(_iteration(rows_ID, codebook_ED, rows=len(x_ID)))
            tick()
        return fit.agreed(host_copy(codebook_ED))


def _balanced_level(
    x_ID: np.ndarray, num_codes: int, key: jax.Array, fit: _Fit, tick: Callable[[], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Centres and codes of k-means with even sizes (to one row).

    During the iterations, prices alone keep the sizes even; only the last assignment is exact, and the centres are its
    means. If there are more rows than a sample holds (PRICED_ROWS), the sample gives the prices of the iterations:
    there is only one price per code, so a few rows per code are enough.
    """
    iterations = fit.settings.iterations
    codebook_ED = _free_centres(x_ID, num_codes, key, min(FREE_START, iterations), fit, tick)
    with fit.alone():
        sample_key = jax.random.fold_in(key, 1)
    priced_SD = _sample(x_ID, max(PRICED_ROWS, PRICED_ROWS_PER_CODE * num_codes), sample_key, fit)
    with fit.alone():
        prices_E = fit.agreed(_prices(_distances(priced_SD, codebook_ED)))
    with fit.over(x_ID):
        rows_ID = on_mesh(x_ID, fit.mesh)
    for _ in range(iterations):
        with fit.alone():
            prices_E = fit.agreed(_prices(_distances(priced_SD, codebook_ED), prices_E))
        with fit.over(x_ID):
            codebook_ED = fit.agreed(host_copy(_priced_means(rows_ID, codebook_ED, prices_E, rows=len(x_ID))))
        tick()

    def assigned_exactly() -> np.ndarray:  # needs the costs of all rows together
        cost_IE = _distances(x_ID, codebook_ED)
        return balanced_assignment(cost_IE, _prices(cost_IE, prices_E))

    with fit.alone():
        codes_I = fit.found_by_first(assigned_exactly, np.zeros(len(x_ID), np.int32))
        codebook_ED = fit.agreed(_means(x_ID, codes_I, codebook_ED))
    tick()
    return codebook_ED, codes_I


def _sample(x_ID: np.ndarray, count: int, key: jax.Array, fit: _Fit) -> np.ndarray:
    """`count` of the rows, or all of them if there are no more or the count is 0."""
    if not 0 < count < len(x_ID):
        return x_ID
    with fit.alone():
        return x_ID[fit.agreed(jax.random.choice(key, len(x_ID), (count,), replace=False))]


_first_centres = jax.jit(first_centres, static_argnames="num_codes")
_iteration = jax.jit(functools.partial(improved, iterations=1), static_argnames="rows")
_prices = jax.jit(transport_prices)
_distances = jax.jit(squared_distances)


@jax.jit
def _nearest_codes(x_ID: jax.Array, codebook_ED: jax.Array) -> jax.Array:
    return assigned(x_ID, codebook_ED)[0]


@functools.partial(jax.jit, static_argnames="rows")
def _priced_means(x_ID: jax.Array, codebook_ED: jax.Array, prices_E: jax.Array, *, rows: int) -> jax.Array:
    """The means of the rows that take each code at these prices; a code without any keeps its centre."""
    _, _, means_ED, counts_E = assigned(x_ID, codebook_ED, prices_E, rows)
    return jnp.where((counts_E > 0)[:, None], means_ED, codebook_ED)


@jax.jit
def _means(x_ID: jax.Array, codes_I: jax.Array, codebook_ED: jax.Array) -> jax.Array:
    """The means of every code's rows; a code without any keeps its centre."""
    means_ED, counts_E = cluster_means(x_ID, codes_I, len(codebook_ED))
    return jnp.where((counts_E > 0)[:, None], means_ED, codebook_ED)
