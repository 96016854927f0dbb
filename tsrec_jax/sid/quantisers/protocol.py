"""What a quantiser offers. Axis letters: I items, K features of an embedding, C levels, E codes of the last level."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Protocol, Self

import numpy as np

from tsrec_jax.sid.settings import IndexSettings


class Quantiser(Protocol):
    """What turns vectors into codes."""

    @classmethod
    def fit(
        cls,
        x_IK: np.ndarray,
        settings: IndexSettings,
        seed: int,
        kept: pathlib.Path | None = None,
    ) -> tuple[Self, np.ndarray]:
        """A quantiser of `settings.sizes` for float32 embeddings, and int32 codes_IC of their items.

        The same arguments give the same codes.

        Args:
          x_IK: the embeddings.
          settings: sizes, and the settings of the method.
          seed: seed of everything random.
          kept: a file for the finished parts of a long fit, from which the same fit continues; the caller removes it.
            None: nothing is kept.
        """
        ...

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """The quantiser that `arrays()` described."""
        ...

    def arrays(self) -> dict[str, np.ndarray]:
        """The quantiser as arrays, for an .npz file."""
        ...

    def only(self, codes: Sequence[Sequence[int]]) -> Self:
        """The quantiser with only these codes on each level, renumbered in the listed order."""
        ...

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of codes on each level."""
        ...

    def encode(self, x_IK: np.ndarray) -> np.ndarray:
        """int32 codes_IC of any float32 embeddings."""
        ...

    def decode(self, codes_IC: np.ndarray) -> np.ndarray:
        """float32 x_IK that the codes stand for; codes of the first levels only give coarser vectors."""
        ...

    def last_level_costs(self, x_IK: np.ndarray, codes_IC: np.ndarray) -> np.ndarray:
        """float32 cost_IE: squared distance from the residual of the earlier levels to each code of the last level."""
        ...
