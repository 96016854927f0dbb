"""A fusion over a catalogue that changes: items that joined later have the scores of their SID's siblings."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.decoding.filters import SidFilter
from tsrec_jax.decoding.generate import SearchResult
from tsrec_jax.decoding.prior import DenseScores, Prior, PriorNodes, padded_length
from tsrec_jax.models.dense_head import DenseScorer
from tsrec_jax.serving.live_catalogue import LiveCatalogue

if TYPE_CHECKING:
    from tsrec_jax.fusion.fusion import Fusion


class LiveFusion:
    """A fusion and the items that it scores as they are now; used while the catalogue is held.

    Scores depend on the export and on the items as they are now, not on what they were in between: a service that
    restarts with the same changes gives the same answers.

    An item of the export keeps its scores even if its SID changes. An item that joined later has the mean score of the
    items whose SIDs share the longest beginning with its own, and stands for the first of these in histories. If no
    item has its first code, it has the mean score of items all over the catalogue and is left out of histories. The
    scores that a history gives to its own items are not part of the means. They go to the items in the history,
    including those that joined later, and to others that now share a SID with one of these.

    Args:
      fusion: the fusion as exported.
      scorer: the model's dense head, if it takes part.
      catalogue: the catalogue as exported.
      live: the same catalogue as it is now.
    """

    def __init__(self, fusion: Fusion, scorer: DenseScorer | None, catalogue: Catalogue, live: LiveCatalogue):
        self.fusion, self._scorer, self._live = fusion, scorer, live
        self._joined: dict[str, int] = {}
        self._entries = ChainMap(self._joined, {item.id: number for number, item in enumerate(catalogue.items)})
        self._nodes = PriorNodes(live.trie, catalogue.codes_IC, joining=True)

    def prior(self, histories: Sequence[Sequence[str]]) -> Callable[[Sequence[int]], Prior]:
        """A function from the numbers of some requests to what the search adds to the model's scores.

        Args:
          histories: item ids of every request, oldest first.
        """
        self._follow()
        return self._prior([self._held(history) for history in histories])

    def prior_of_length(self, items: int) -> Callable[[Sequence[int]], Prior]:
        """As `prior` for one request whose history has this many items, no matter which; needed for warming up."""
        self._follow()
        return self._prior([[0] * items])

    def padded_length(self, items: int) -> int:
        """The padded length for which the search compiles a history of this many items; 0 if it reads no history."""
        return 0 if self._scorer is None else padded_length(items)

    def _prior(self, held: Sequence[Sequence[int]]) -> Callable[[Sequence[int]], Prior]:
        def of(numbers: Sequence[int]) -> Prior:
            own, dense = [held[number] for number in numbers], None
            if self._scorer is not None:
                known, lengths = self._known(own)
                dense = DenseScores.of(self._scorer, known, self.fusion.dense_weights(known, lengths))
            return self._nodes.prior(self._scores(own), dense)

        return of

    def rank(self, histories: Sequence[Sequence[str]], filters: Sequence[SidFilter], length: int) -> list[SearchResult]:
        """The best SIDs by the fusion alone; as it scores all SIDs, the list is exact.

        Args:
          histories: as in `prior`.
          filters: for each request, what it leaves out.
          length: number of SIDs in a list.
        """
        self._follow()
        codes_UC, best_BU = self._nodes.best_of_sids(self._scores([self._held(history) for history in histories]))
        results = []
        for best_U, wanted in zip(best_BU, filters, strict=True):
            numbers = np.flatnonzero(_passes(wanted, codes_UC))
            order = numbers[np.argsort(-best_U[numbers], kind="stable")]
            dropped = float(best_U[order[length]]) if len(order) > length else -np.inf
            order = order[:length]
            totals_WC = np.zeros((len(order), 0), np.float32)
            results.append(SearchResult(codes_UC[order], best_U[order], totals_WC, dropped))
        return results

    def _follow(self) -> None:
        for item_id, item in self._live.take_changed().items():
            entry = self._entries.get(item_id)
            if item is not None:
                codes, alive = self._live.codes([item_id])[0], not item.blocked
                if entry is None:
                    self._joined[item_id] = self._nodes.join(codes, alive=alive)
                else:
                    self._nodes.set(entry, codes, alive=alive)
            elif entry is not None:
                self._nodes.remove(entry)
                self._joined.pop(item_id, None)

    def _held(self, history: Sequence[str]) -> list[int]:
        return [self._entries[str(item)] for item in history]

    def _known(self, held: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[int]]:
        """Histories of entries as items that have their own scores, and how long the histories were."""
        known = [[item for entry in row if (item := self._nodes.known(entry)) is not None] for row in held]
        return known, list(map(len, held))

    def _scores(self, held: Sequence[Sequence[int]]) -> np.ndarray:
        """float32 scores_BE for histories of entries."""
        histories = self._known(held)
        if self._nodes.as_begun:
            return self._nodes.scores(self.fusion.scores(*histories))
        scores_BI, others_BI = self.fusion.scores_and_others(*histories)
        scores_BE, own_BI = self._nodes.scores(others_BI), scores_BI - others_BI
        for row, entries in enumerate(held):
            for entry in self._nodes.of_same_sids(entries):
                item = self._nodes.known(entry)
                scores_BE[row, entry] += 0 if item is None else own_BI[row, item]
        return scores_BE


def _passes(wanted: SidFilter, codes_UC: np.ndarray) -> np.ndarray:
    """bool (U,): which SIDs pass a filter."""
    passes_U = np.ones(len(codes_UC), bool)
    if wanted.allowed_NC is None and wanted.excluded_NC is None:
        return passes_U
    codes = list(map(tuple, codes_UC.tolist()))
    if wanted.allowed_NC is not None:
        allowed = set(map(tuple, np.asarray(wanted.allowed_NC).tolist()))
        passes_U &= np.array([own in allowed for own in codes], bool)
    if wanted.excluded_NC is not None:
        excluded = set(map(tuple, np.asarray(wanted.excluded_NC).tolist()))
        passes_U &= np.array([own not in excluded for own in codes], bool)
    return passes_U
