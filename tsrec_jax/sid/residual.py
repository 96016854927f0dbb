"""Residual quantisation by k-means, free or with codes of even size: each level codes what the levels before left over.

Axis letters: I items, D features, C levels, E codes of a level.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from tsrec_jax.sid.assignment import balanced_assignment, transport_prices
from tsrec_jax.sid.kmeans import cluster_means, first_centres, improved, nearest, squared_distances
from tsrec_jax.sid.levels import LevelStore
from tsrec_jax.sid.progress import Progress

FREE_START = 5  # iterations of free k-means before sizes are constrained
PRICED_ROWS, PRICED_ROWS_PER_CODE = 16_384, 64  # rows that prices on the way are computed of: the larger number
NO_VARIANCE = "there is no variance to code: all embeddings are equal"
Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class RqSettings:
    """How residual k-means is fitted.

    Attributes:
      sizes: codes of each level.
      balanced: every code takes floor(I / E) or ceil(I / E) of the items.
      iterations: of k-means, a level.
      rows_per_code: items per code that k-means looks at, drawn with the seed where there are more; 0: all of them
        (a balanced level always takes all).
    """

    sizes: tuple[int, ...] = (256, 256, 256)
    balanced: bool = False
    iterations: int = 20
    rows_per_code: int = 0

    @property
    def steps(self) -> int:
        """Of a level's work, for estimates of time: iterations, and the last assignment of a balanced one."""
        return min(FREE_START, self.iterations) + self.iterations + 1 if self.balanced else self.iterations


@dataclasses.dataclass(frozen=True)
class ResidualQuantiser:
    """Codebooks of all levels.

    Attributes:
      codebooks: float32 (E, D) for each level.
    """

    codebooks: tuple[np.ndarray, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes of each level."""
        return tuple(len(codebook_ED) for codebook_ED in self.codebooks)

    def encode(self, x_ID: np.ndarray) -> np.ndarray:
        """int32 codes_IC: at each level the nearest code to what is left, whatever its size."""
        residual_ID = jnp.asarray(x_ID, jnp.float32)
        codes = []
        for codebook_ED in self.codebooks:
            codes_I, residual_ID = _quantise(residual_ID, jnp.asarray(codebook_ED))
            codes.append(np.asarray(codes_I))
        return np.stack(codes, axis=1)

    def residual(self, x_ID: np.ndarray, codes_IC: np.ndarray) -> np.ndarray:
        """float32 (I, D): what is left of the embeddings before the last level."""
        return np.asarray(x_ID, np.float32) - self.decode(codes_IC[:, : len(self.codebooks) - 1])

    def decode(self, codes_IC: np.ndarray) -> np.ndarray:
        """float32 x_ID: the sum of the codes' vectors; fewer levels than there are give a coarser sum."""
        total_ID = np.zeros((len(codes_IC), self.codebooks[0].shape[1]), np.float32)
        for codes_I, codebook_ED in zip(codes_IC.T, self.codebooks, strict=False):
            total_ID += codebook_ED[codes_I]
        return total_ID

    def last_level_costs(self, x_ID: np.ndarray, codes_IC: np.ndarray) -> np.ndarray:
        """float32 (I, E): squared distance of what is left before the last level to each of its codes."""
        return np.asarray(squared_distances(jnp.asarray(self.residual(x_ID, codes_IC)), self.codebooks[-1]))

    def arrays(self) -> dict[str, np.ndarray]:
        """What an .npz keeps of it."""
        return {f"codebook_{level}": codebook_ED for level, codebook_ED in enumerate(self.codebooks)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ResidualQuantiser:
        """The quantiser that `arrays` described."""
        return cls(tuple(arrays[f"codebook_{level}"] for level in range(len(arrays))))


def fit_residual(
    x_ID: np.ndarray, settings: RqSettings, seed: int, report: Report, kept: LevelStore | None = None
) -> tuple[ResidualQuantiser, np.ndarray]:
    """Fits the codebooks level by level.

    Args:
      x_ID: float32 item embeddings.
      settings: sizes and how to fit.
      seed: of the starts.
      report: receives a line a level, and now and then how far a level is.
      kept: holds the levels that an earlier run finished, and takes those of this one; None: nothing is kept.

    Returns:
      The quantiser, and int32 codes_IC of the items: the nearest codes, or the balanced ones.
    """
    residual_ID = jnp.asarray(x_ID, jnp.float32)
    total = float(jnp.square(residual_ID - residual_ID.mean(axis=0)).sum())
    keys = jax.random.split(jax.random.key(seed), len(settings.sizes))
    levels = [] if kept is None else kept.read()
    if levels:
        report(f"{len(levels)} of {len(settings.sizes)} levels are kept of a run that ended before its time")
    for codebook_ED, codes_I in levels:
        residual_ID = residual_ID - jnp.asarray(codebook_ED)[codes_I]
    progress = Progress(settings.steps * (len(settings.sizes) - len(levels)), report)
    for level in range(len(levels), len(settings.sizes)):
        size, key = settings.sizes[level], keys[level]
        name = f"level {level + 1} of {len(settings.sizes)}"
        tick = functools.partial(progress.tick, name)
        if settings.balanced:
            codebook_ED, codes_I = _balanced_level(residual_ID, size, key, settings, tick)
        else:
            codebook_ED, codes_I = _free_level(residual_ID, size, key, settings, tick)
        residual_ID = residual_ID - codebook_ED[codes_I]
        levels.append((np.asarray(codebook_ED), np.asarray(codes_I)))
        if kept is not None:
            kept.write(levels)
        left = f"{float(jnp.square(residual_ID).sum()) / total:.1%} of the variance is left" if total else NO_VARIANCE
        report(f"{name}: {size} codes, {left}{progress.estimate}")
    codebooks, codes = zip(*levels, strict=True)
    return ResidualQuantiser(codebooks), np.stack(codes, axis=1)


def _free_level(
    x_ID: jax.Array, num_codes: int, key: jax.Array, settings: RqSettings, tick: Callable[[], None]
) -> tuple[jax.Array, jax.Array]:
    """Centres of k-means, and the nearest one of every row."""
    sample_key, key = jax.random.split(key)
    sample_SD = _sample(x_ID, settings.rows_per_code * num_codes, sample_key)
    codebook_ED = _free_centres(sample_SD, num_codes, key, settings.iterations, tick)
    return codebook_ED, _nearest_codes(x_ID, codebook_ED)


def _free_centres(
    x_ID: jax.Array, num_codes: int, key: jax.Array, iterations: int, tick: Callable[[], None]
) -> jax.Array:
    """As `kmeans`, with a tick after every iteration."""
    codebook_ED = _first_centres(x_ID, num_codes, key)
    for _ in range(iterations):
        codebook_ED = jax.block_until_ready(_iteration(x_ID, codebook_ED))
        tick()
    return codebook_ED


def _sample(x_ID: jax.Array, count: int, key: jax.Array) -> jax.Array:
    if not 0 < count < len(x_ID):
        return x_ID
    return x_ID[jax.random.choice(key, len(x_ID), (count,), replace=False)]


_first_centres = jax.jit(first_centres, static_argnames="num_codes")
_iteration = jax.jit(functools.partial(improved, iterations=1))
_prices = jax.jit(transport_prices)
_distances = jax.jit(squared_distances)


@jax.jit
def _nearest_codes(x_ID: jax.Array, codebook_ED: jax.Array) -> jax.Array:
    return nearest(x_ID, codebook_ED)[0]


@jax.jit
def _quantise(x_ID: jax.Array, codebook_ED: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Nearest codes, and what they leave over."""
    codes_I, _ = nearest(x_ID, codebook_ED)
    return codes_I, x_ID - codebook_ED[codes_I]


def _balanced_level(
    x_ID: jax.Array, num_codes: int, key: jax.Array, settings: RqSettings, tick: Callable[[], None]
) -> tuple[jax.Array, jax.Array]:
    """Centres and codes of k-means with even sizes (to one row).

    On the way prices alone keep the sizes even; only the last assignment is exact, and the centres are its means. The
    prices on the way are those of a sample where there are more rows than it holds (PRICED_ROWS): they are as many as
    there are codes, and few rows a code tell them.
    """
    codebook_ED = _free_centres(x_ID, num_codes, key, min(FREE_START, settings.iterations), tick)
    priced_SD = _sample(x_ID, max(PRICED_ROWS, PRICED_ROWS_PER_CODE * num_codes), jax.random.fold_in(key, 1))
    prices_E = _prices(_distances(priced_SD, codebook_ED))
    for _ in range(settings.iterations):
        codebook_ED, prices_E = jax.block_until_ready(_priced_iteration(x_ID, priced_SD, codebook_ED, prices_E))
        tick()
    cost_IE = _distances(x_ID, codebook_ED)
    codes_I = balanced_assignment(cost_IE, _prices(cost_IE, prices_E))
    tick()
    return _means(x_ID, codes_I, codebook_ED), codes_I


@jax.jit
def _priced_iteration(
    x_ID: jax.Array, priced_SD: jax.Array, codebook_ED: jax.Array, prices_E: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Prices of the sample's costs, then the means of the rows that take each code at these prices."""
    prices_E = transport_prices(squared_distances(priced_SD, codebook_ED), prices_E)
    return _means(x_ID, nearest(x_ID, codebook_ED, prices_E)[0], codebook_ED), prices_E


@jax.jit
def _means(x_ID: jax.Array, codes_I: jax.Array, codebook_ED: jax.Array) -> jax.Array:
    """The means of every code's rows; a code without any keeps its centre."""
    means_ED, counts_E = cluster_means(x_ID, codes_I, len(codebook_ED))
    return jnp.where((counts_E > 0)[:, None], means_ED, codebook_ED)
