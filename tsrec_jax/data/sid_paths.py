"""Where the tokens of a catalogue's SIDs stand in an example, and which tokens could stand there instead."""

from __future__ import annotations

import dataclasses

import numpy as np

from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.sid_prefixes import prefix_levels, sorted_unique


@dataclasses.dataclass(frozen=True, eq=False)
class SidPaths:
    """The trie of a catalogue in the form the loss needs: small, dense and the same for all levels.

    A node is a prefix of a SID; node 0 is the empty one. n is the number of SID tokens, C the number of levels, N the
    number of nodes that have children.

    Attributes:
      first_id: token id of the first SID token.
      levels_n: int32, level of each SID token.
      allowed_Nn: bool, whether a token is a child of a node.
      edges: for each level but the last, the sorted keys node x n + token of its edges, and the nodes they lead to.
    """

    first_id: int
    levels_n: np.ndarray
    allowed_Nn: np.ndarray
    edges: tuple[tuple[np.ndarray, np.ndarray], ...]

    @property
    def num_levels(self) -> int:
        """Tokens of a SID (C)."""
        return len(self.edges) + 1

    @classmethod
    def of_catalogue(cls, catalogue: Catalogue, first_id: int) -> SidPaths:
        """The paths of all SIDs, whose tokens are numbered from `first_id` in the order of `catalogue.tokens`."""
        levels_n = catalogue.token_levels
        size = len(levels_n)
        tokens_NC = sorted_unique(catalogue.tokens_IC, (size,) * catalogue.num_levels)
        first, count, edges = 0, 1, []  # the level's first node, the number of nodes so far
        for parent_M, token_M in prefix_levels(tokens_NC, np.zeros(len(tokens_NC), np.int32)):
            edges.append(((first + parent_M.astype(np.int64)) * size + token_M, count + np.arange(len(parent_M))))
            first, count = count, count + len(parent_M)
        allowed_Nn = np.zeros((first, size), bool)  # the nodes from `first` on are whole SIDs
        allowed_Nn.reshape(-1)[np.concatenate([keys for keys, _ in edges])] = True
        return cls(first_id, levels_n, allowed_Nn, tuple(edges[:-1]))

    def nodes(self, tokens_T: np.ndarray) -> np.ndarray:
        """For each token the node it is a child of, when it and the tokens before it begin a SID of the catalogue.

        Args:
          tokens_T: int32 ids of one example.

        Returns:
          int32 of the same length; -1 for every other token.
        """
        size = len(self.levels_n)
        sid_T = np.asarray(tokens_T, np.int64) - self.first_id
        inside_T = (sid_T >= 0) & (sid_T < size)
        sid_T = np.where(inside_T, sid_T, 0)
        level_T = np.where(inside_T, self.levels_n[sid_T], -1)
        node_T = np.where(level_T == 0, 0, -1)
        for level, (keys, children) in enumerate(self.edges, 1):
            before_T, token_T = np.roll(node_T, 1), np.roll(sid_T, 1)
            follows_T = (level_T == level) & (np.roll(level_T, 1) == level - 1) & (before_T >= 0)
            follows_T[:1] = False
            key_T = before_T * size + token_T
            place_T = np.minimum(np.searchsorted(keys, key_T), len(keys) - 1)
            reached_T = follows_T & (keys[place_T] == key_T)
            node_T = np.where(reached_T, children[place_T], node_T)
        known_T = (node_T >= 0) & self.allowed_Nn[np.maximum(node_T, 0), sid_T]
        return np.where(known_T, node_T, -1).astype(np.int32)
