"""The trie of a catalogue's SIDs as one child table a level."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tsrec_jax.data.catalogue import Catalogue


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trie:
    """All valid SIDs. Nodes of level c are the distinct prefixes of c codes; level 0 has the root alone.

    Attributes:
      children: for each level c an int32 table (nodes of level c, codes of level c): the child's node number on level
        c + 1, or -1 where no SID continues so. On the last level the child is the number of a SID.
      token_ids: for each level int32 vocabulary ids of its codes.
      sid_codes_NC: int32 codes of every distinct SID, in the order of their numbers (sorted by code).
    """

    children: tuple[jax.Array, ...]
    token_ids: tuple[jax.Array, ...]
    sid_codes_NC: jax.Array

    @property
    def num_levels(self) -> int:
        """Codes of a SID (C)."""
        return len(self.children)

    @property
    def num_sids(self) -> int:
        """Distinct SIDs."""
        return self.sid_codes_NC.shape[0]

    @classmethod
    def from_codes(cls, codes_IC: np.ndarray, level_sizes: Sequence[int], token_ids: Sequence[np.ndarray]) -> Trie:
        """Builds the trie.

        Args:
          codes_IC: integer codes of each item; repeated rows (colliding SIDs) are one SID.
          level_sizes: number of codes of each level.
          token_ids: vocabulary ids of each level's codes.

        Raises:
          ValueError: no items, a code outside its level, or token ids of another number than the level's codes.
        """
        codes_IC = np.asarray(codes_IC, np.int64)
        if codes_IC.ndim != 2 or not len(codes_IC):
            raise ValueError("a trie needs at least one SID")
        if (codes_IC < 0).any() or (codes_IC >= np.asarray(level_sizes)).any():
            raise ValueError("a code lies outside its level")
        if [len(ids) for ids in token_ids] != list(level_sizes):
            raise ValueError("token ids and level sizes disagree")
        sids_NC = np.unique(codes_IC, axis=0)
        children = []
        parents_N = np.zeros(len(sids_NC), np.int64)
        nodes = 1
        for level, size in enumerate(level_sizes):
            keys_N = parents_N * size + sids_NC[:, level]
            unique_keys, child_N = np.unique(keys_N, return_inverse=True)
            table = np.full(nodes * size, -1, np.int32)
            table[unique_keys] = np.arange(len(unique_keys), dtype=np.int32)
            children.append(jnp.asarray(table.reshape(nodes, size)))
            parents_N, nodes = child_N, len(unique_keys)
        ids = tuple(jnp.asarray(np.asarray(level_ids, np.int32)) for level_ids in token_ids)
        return cls(tuple(children), ids, jnp.asarray(sids_NC.astype(np.int32)))

    @classmethod
    def of_catalogue(cls, catalogue: Catalogue, first_id: int) -> Trie:
        """The trie of a catalogue whose tokens have the ids first_id, first_id + 1, ... in the order of `tokens`."""
        sizes = [len(tokens) for tokens in catalogue.level_tokens]
        ends = first_id + np.cumsum(sizes)
        ids = [np.arange(end - size, end, dtype=np.int32) for end, size in zip(ends, sizes, strict=True)]
        return cls.from_codes(catalogue.codes_IC, sizes, ids)
