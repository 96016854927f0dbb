"""Scores of items, from anywhere, in the form in which the search adds them to its own: one number a prefix.

The search then looks for the SIDs of the largest log P(SID | history) + score(SID | history), a product of two experts
whose normaliser no ranking needs. Unlike a list that is sorted again afterwards, it finds items that the model alone
would not have listed.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from tsrec_jax.decoding.beam_search import Prior
from tsrec_jax.decoding.trie import WORD, Trie


class PriorNodes:
    """Which items lie below which prefixes of a trie, as it is now.

    Args:
      trie: the valid SIDs.
      codes_IC: integer codes of the items that will have scores; one whose SID is not in the trie counts for nothing.

    Raises:
      ValueError: a SID of the trie is none of an item's, so that it would have no score.
    """

    def __init__(self, trie: Trie, codes_IC: np.ndarray):
        codes_IC = np.asarray(codes_IC)
        items_J = np.flatnonzero(trie.contains(codes_IC))
        slots_JC = trie.slots(codes_IC[items_J])
        if len(np.unique(slots_JC[:, -1])) != trie.num_sids:
            raise ValueError("the trie has SIDs that no item with a score carries")
        number, self._order, self._starts = [], [], []
        for slot_J, level in zip(slots_JC.T, trie.arrays.levels, strict=True):
            order_J = np.argsort(slot_J, kind="stable")
            slots_N, starts_N = np.unique(slot_J[order_J], return_index=True)
            numbers = np.zeros(level.alive_RM.shape[1] * WORD, np.int32)
            numbers[slots_N] = np.arange(len(slots_N))
            number.append(jnp.asarray(numbers))
            self._order.append(items_J[order_J])
            self._starts.append(starts_N)
        self._number = tuple(number)

    def prior(self, scores_BI: np.ndarray) -> Prior:
        """The prior of a batch; colliding items have the best of their scores.

        Args:
          scores_BI: float32, in nats, of the items in the order of `codes_IC`.

        Raises:
          ValueError: a score is not finite. (What may not be recommended is a filter's matter.)
        """
        if not np.isfinite(scores_BI).all():
            raise ValueError("a score of the prior is not finite")
        scores_BI = np.asarray(scores_BI, np.float32)
        value = (
            np.maximum.reduceat(scores_BI[:, order_J], starts_N, axis=1)
            for order_J, starts_N in zip(self._order, self._starts, strict=True)
        )
        return Prior(self._number, tuple(map(jnp.asarray, value)))
