"""Constraints that a search can take in and out: none, and Google's STATIC written from its description.

STATIC (arXiv 2602.22647) stores the trie as a sparse transition matrix. The first two levels are dense tables; every
deeper node is a row of (code, next node) pairs in CSR form, of which a step reads a slice of fixed length, the largest
branching of the level, and masks what lies beyond the row. Log-probabilities are gathered at the codes of the slice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

DENSE_LEVELS = 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Candidates:
    """What may follow each beam.

    Attributes:
      log_probs_BWM: float32; -inf where the constraint forbids it.
      codes_BWM: int32 code of each candidate; None: candidate m is code m.
      next_BWM: int32 state behind each candidate; None: there is no state.
    """

    log_probs_BWM: jax.Array
    codes_BWM: jax.Array | None
    next_BWM: jax.Array | None


class Constraint(Protocol):
    """A jit-able constraint; beams begin in state 0."""

    def candidates(self, level: int, log_probs_BWE: jax.Array, states_BW: jax.Array) -> Candidates:
        """The candidates of one level from the log-probabilities of all its codes."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Unconstrained:
    """Every code may follow every other: no mask is applied and no state kept."""

    def candidates(self, level: int, log_probs_BWE: jax.Array, states_BW: jax.Array) -> Candidates:
        """All codes as they are."""
        return Candidates(log_probs_BWE, None, None)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SparseTransitions:
    """The trie as STATIC's transition matrix.

    States: 0 is the root and, on deeper levels, the dead state; after the first code a state is the code itself, after
    the second and later ones the number of a CSR row.

    Attributes:
      first_E: bool, first codes that exist.
      second_EE: int32 (first code, second code) -> row number + 1, 0 where nothing is.
      starts: for each deeper level int32 (rows + 1,), where each row's pairs begin.
      pairs: for each deeper level int32 (pairs, 2), code and next row + 1, each row's codes in order.
      branching: for each deeper level the longest row.
    """

    first_E: jax.Array
    second_EE: jax.Array | None
    starts: tuple[jax.Array, ...]
    pairs: tuple[jax.Array, ...]
    branching: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in jax.tree.leaves(self))

    @classmethod
    def build(cls, codes_NC: np.ndarray, level_sizes: Sequence[int]) -> SparseTransitions:
        """From the items' codes; the whole is two sorts' worth of work, vectorised."""
        keys_N = np.zeros(len(codes_NC), np.int64)
        for level, size in enumerate(level_sizes):
            keys_N *= size
            keys_N += codes_NC[:, level]
        keys_N.sort()
        keys = [keys_N[np.append(True, keys_N[1:] != keys_N[:-1])]]  # distinct prefixes, longest first
        for size in reversed(level_sizes[1:]):
            parents = keys[-1] // size
            keys.append(parents[np.append(True, parents[1:] != parents[:-1])])
        prefixes = keys[::-1]  # of 1, 2, ... codes, sorted
        first_E = np.zeros(level_sizes[0], bool)
        first_E[prefixes[0]] = True
        second_EE = None
        if len(level_sizes) > 1:
            second = np.zeros(level_sizes[0] * level_sizes[1], np.int32)
            second[prefixes[1]] = np.arange(1, len(prefixes[1]) + 1, dtype=np.int32)
            second_EE = jnp.asarray(second.reshape(level_sizes[:2]))
        starts, pairs, branching = [], [], []
        for level in range(DENSE_LEVELS, len(level_sizes)):
            parents, own = prefixes[level - 1], prefixes[level]
            edges = np.searchsorted(own // level_sizes[level], np.append(parents, parents[-1] + 1)).astype(np.int32)
            longest = int(np.diff(edges).max())
            table = np.zeros((len(own) + longest, 2), np.int32)  # a slice at the end may read beyond the last row
            table[: len(own), 0] = own % level_sizes[level]
            table[: len(own), 1] = np.arange(1, len(own) + 1)
            starts.append(jnp.asarray(edges))
            pairs.append(jnp.asarray(table))
            branching.append(longest)
        return cls(jnp.asarray(first_E), second_EE, tuple(starts), tuple(pairs), tuple(branching))

    def candidates(self, level: int, log_probs_BWE: jax.Array, states_BW: jax.Array) -> Candidates:
        """Dense lookups on the first two levels, slices of rows beyond."""
        if level == 0:
            codes_BWE = jnp.broadcast_to(jnp.arange(log_probs_BWE.shape[-1]), log_probs_BWE.shape)
            return Candidates(jnp.where(self.first_E, log_probs_BWE, -jnp.inf), None, codes_BWE)
        if level == 1:
            next_BWE = self.second_EE[states_BW]
            return Candidates(jnp.where(next_BWE > 0, log_probs_BWE, -jnp.inf), None, next_BWE)
        deep = level - DENSE_LEVELS
        row_BW = jnp.maximum(states_BW - 1, 0)
        starts_BW, ends_BW = self.starts[deep][row_BW], self.starts[deep][row_BW + 1]
        slots_BWM = starts_BW[..., None] + jnp.arange(self.branching[deep])
        pairs_BWM2 = self.pairs[deep][slots_BWM]
        codes_BWM = pairs_BWM2[..., 0]
        alive_BWM = (slots_BWM < ends_BW[..., None]) & (states_BW > 0)[..., None]
        log_probs_BWM = jnp.take_along_axis(log_probs_BWE, codes_BWM, axis=-1)
        return Candidates(jnp.where(alive_BWM, log_probs_BWM, -jnp.inf), codes_BWM, pairs_BWM2[..., 1])
