"""Residual quantisation by k-means, free or with codes of even size: each level codes the residual of earlier levels.

Axis letters: I items, D features, C levels, E codes of a level.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tsrec_jax.sid.fit_levels import fit_levels
from tsrec_jax.sid.kmeans import nearest, squared_distances
from tsrec_jax.sid.levels import LevelStore
from tsrec_jax.sid.settings import IndexSettings


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
        cls,
        x_ID: np.ndarray,
        settings: IndexSettings,
        seed: int,
        kept: pathlib.Path | None = None,
        mesh: Mesh | None = None,
    ) -> tuple[Self, np.ndarray]:
        """Fits the codebooks level by level; `kept` holds the finished levels.

        The codes are the nearest ones, or the balanced ones. With a mesh, an argument that `Quantiser.fit` does not
        have, all of its processes fit together.
        """
        facts = [cls.__name__, settings.sizes, settings.iterations, settings.rows_per_code, seed]
        store = None if kept is None else LevelStore.of(kept, facts, x_ID)
        levels = fit_levels(x_ID, settings, seed, store, balanced=cls.balanced, mesh=mesh)
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
        """Number of codes on each level."""
        return tuple(len(codebook_ED) for codebook_ED in self.codebooks)

    def encode(self, x_ID: np.ndarray) -> np.ndarray:
        """int32 codes_IC: at each level the code nearest to the residual, however many items it has."""
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
    """As `ResidualQuantiser`, but every code takes floor(I / E) or ceil(I / E) of the items: `rq_kmeans_balanced`."""

    balanced = True


@jax.jit
def _quantise(x_ID: jax.Array, codebook_ED: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Nearest codes, and the residuals that they leave."""
    codes_I, _ = nearest(x_ID, codebook_ED)
    return codes_I, x_ID - codebook_ED[codes_I]
