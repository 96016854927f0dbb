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
from tsrec_jax.sid.kmeans import cluster_means, kmeans, nearest, squared_distances

FREE_START = 5  # iterations of free k-means before sizes are constrained


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
    x_ID: np.ndarray, settings: RqSettings, seed: int, report: Callable[[str], None]
) -> tuple[ResidualQuantiser, np.ndarray]:
    """Fits the codebooks level by level.

    Args:
      x_ID: float32 item embeddings.
      settings: sizes and how to fit.
      seed: of the starts.
      report: receives a line a level.

    Returns:
      The quantiser, and int32 codes_IC of the items: the nearest codes, or the balanced ones.
    """
    residual_ID = jnp.asarray(x_ID, jnp.float32)
    total = float(jnp.square(residual_ID - residual_ID.mean(axis=0)).sum())
    keys = jax.random.split(jax.random.key(seed), len(settings.sizes))
    codebooks, codes = [], []
    for level, (size, key) in enumerate(zip(settings.sizes, keys, strict=True)):
        if settings.balanced:
            codebook_ED, codes_I = _balanced_level(residual_ID, size, key, settings.iterations)
            residual_ID = residual_ID - codebook_ED[codes_I]
        else:
            sample_key, key = jax.random.split(key)
            sample_SD = _sample(residual_ID, settings.rows_per_code * size, sample_key)
            codebook_ED = kmeans(sample_SD, size, key, iterations=settings.iterations)
            codes_I, residual_ID = _quantise(residual_ID, codebook_ED)
        codebooks.append(np.asarray(codebook_ED))
        codes.append(np.asarray(codes_I))
        left = float(jnp.square(residual_ID).sum()) / total if total else 0.0
        report(f"level {level + 1} of {len(settings.sizes)}: {size} codes, {left:.1%} of the variance is left")
    return ResidualQuantiser(tuple(codebooks)), np.stack(codes, axis=1)


def _sample(x_ID: jax.Array, count: int, key: jax.Array) -> jax.Array:
    if not 0 < count < len(x_ID):
        return x_ID
    return x_ID[jax.random.choice(key, len(x_ID), (count,), replace=False)]


@jax.jit
def _quantise(x_ID: jax.Array, codebook_ED: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Nearest codes, and what they leave over."""
    codes_I, _ = nearest(x_ID, codebook_ED)
    return codes_I, x_ID - codebook_ED[codes_I]


@functools.partial(jax.jit, static_argnames=("num_codes", "iterations"))
def _balanced_level(x_ID: jax.Array, num_codes: int, key: jax.Array, iterations: int) -> tuple[jax.Array, jax.Array]:
    """Centres and codes of k-means with even sizes (to one row).

    On the way prices alone keep the sizes even; only the last assignment is exact, and the centres are its means.
    """
    codebook_ED = kmeans(x_ID, num_codes, key, iterations=min(FREE_START, iterations))

    def iteration(carry: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], None]:
        codebook_ED, prices_E = carry
        cost_IE = squared_distances(x_ID, codebook_ED)
        prices_E = transport_prices(cost_IE, prices_E)
        means_ED, counts_E = cluster_means(x_ID, jnp.argmin(cost_IE + prices_E, axis=1), num_codes)
        return (jnp.where((counts_E > 0)[:, None], means_ED, codebook_ED), prices_E), None

    prices_E = transport_prices(squared_distances(x_ID, codebook_ED))
    (codebook_ED, prices_E), _ = jax.lax.scan(iteration, (codebook_ED, prices_E), None, length=iterations)
    cost_IE = squared_distances(x_ID, codebook_ED)
    codes_I = balanced_assignment(cost_IE, transport_prices(cost_IE, prices_E))
    means_ED, counts_E = cluster_means(x_ID, codes_I, num_codes)
    return jnp.where((counts_E > 0)[:, None], means_ED, codebook_ED), codes_I
