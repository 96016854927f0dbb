"""Residual quantisation by k-means, free or with codes of even size: each level codes what the levels before left over.

Axis letters: I items, D features, C levels, E codes of a level.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from tsrec_jax.progress import Progress, report
from tsrec_jax.sid.assignment import balanced_assignment, transport_prices
from tsrec_jax.sid.kmeans import cluster_means, first_centres, improved, nearest, squared_distances
from tsrec_jax.sid.levels import LevelStore
from tsrec_jax.sid.settings import IndexSettings

FREE_START = 5  # iterations of free k-means before sizes are constrained
PRICED_ROWS, PRICED_ROWS_PER_CODE = 16_384, 64  # rows that prices on the way are computed of: the larger number
NO_VARIANCE = "there is no variance to code: all embeddings are equal"


@dataclasses.dataclass(frozen=True)
class ResidualQuantiser:
    """Codebooks of all levels; the `protocol.Quantiser` of `rq_kmeans`.

    Attributes:
      codebooks: float32 (E, D) for each level.
    """

    balanced: ClassVar[bool] = False

    codebooks: tuple[np.ndarray, ...]

    @classmethod
    def fit(
        cls, x_ID: np.ndarray, settings: IndexSettings, seed: int, kept: pathlib.Path | None = None
    ) -> tuple[Self, np.ndarray]:
        """Fits the codebooks level by level; finished levels are what `kept` holds.

        The codes are the nearest ones, or the balanced ones.
        """
        sizes = settings.sizes
        residual_ID = jnp.asarray(x_ID, jnp.float32)
        total = float(jnp.square(residual_ID - residual_ID.mean(axis=0)).sum())
        keys = jax.random.split(jax.random.key(seed), len(sizes))
        facts = [cls.__name__, sizes, settings.iterations, settings.rows_per_code, seed]
        store = None if kept is None else LevelStore.of(kept, facts, x_ID)
        levels = [] if store is None else store.read()
        if levels:
            report(f"{len(levels)} of {len(sizes)} levels are kept of a run that ended before its time")
        for kept_ED, kept_I in levels:
            residual_ID = residual_ID - jnp.asarray(kept_ED)[kept_I]
        fit_level, steps = _free_level, settings.iterations
        if cls.balanced:  # a level begins freely and ends in an assignment
            fit_level, steps = _balanced_level, min(FREE_START, settings.iterations) + settings.iterations + 1
        progress = Progress(steps * (len(sizes) - len(levels)))
        for level in range(len(levels), len(sizes)):
            name = f"level {level + 1} of {len(sizes)}"
            tick = functools.partial(progress.tick, name)
            codebook_ED, codes_I = fit_level(residual_ID, sizes[level], keys[level], settings, tick)
            residual_ID = residual_ID - codebook_ED[codes_I]
            levels.append((np.asarray(codebook_ED), np.asarray(codes_I)))
            if store is not None:
                store.write(levels)
            error = float(jnp.square(residual_ID).sum())
            left = f"{error / total:.1%} of the variance is left" if total else NO_VARIANCE
            report(f"{name}: {sizes[level]} codes, {left}{progress.estimate}")
        codebooks, codes = zip(*levels, strict=True)
        return cls(codebooks), np.stack(codes, axis=1)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """See `Quantiser`."""
        return cls(tuple(arrays[f"codebook_{level}"] for level in range(len(arrays))))

    def arrays(self) -> dict[str, np.ndarray]:
        """See `Quantiser`."""
        return {f"codebook_{level}": codebook_ED for level, codebook_ED in enumerate(self.codebooks)}

    def only(self, codes: Sequence[Sequence[int]]) -> Self:
        """See `Quantiser`."""
        pairs = zip(self.codebooks, codes, strict=True)
        return dataclasses.replace(self, codebooks=tuple(codebook_ED[list(own)] for codebook_ED, own in pairs))

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

    def decode(self, codes_IC: np.ndarray) -> np.ndarray:
        """See `Quantiser`: the sum of the codes' vectors."""
        total_ID = np.zeros((len(codes_IC), self.codebooks[0].shape[1]), np.float32)
        for codes_I, codebook_ED in zip(codes_IC.T, self.codebooks, strict=False):
            total_ID += codebook_ED[codes_I]
        return total_ID

    def last_level_costs(self, x_ID: np.ndarray, codes_IC: np.ndarray) -> np.ndarray:
        """See `Quantiser`."""
        left_ID = np.asarray(x_ID, np.float32) - self.decode(codes_IC[:, : len(self.codebooks) - 1])
        return np.asarray(squared_distances(jnp.asarray(left_ID), jnp.asarray(self.codebooks[-1])))


class BalancedQuantiser(ResidualQuantiser):
    """The same, fitted so that every code takes floor(I / E) or ceil(I / E) of the items; of `rq_kmeans_balanced`."""

    balanced = True


def _free_level(
    x_ID: jax.Array, num_codes: int, key: jax.Array, settings: IndexSettings, tick: Callable[[], None]
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
    x_ID: jax.Array, num_codes: int, key: jax.Array, settings: IndexSettings, tick: Callable[[], None]
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
    codes_I = jnp.asarray(balanced_assignment(cost_IE, _prices(cost_IE, prices_E)))
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
