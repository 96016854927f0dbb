"""What a system recommends, whether or not it is right: coverage, popularity bias, novelty and diversity of its lists.

All metrics look at the first CUT items of each list. Lists rank SIDs; the items of a colliding SID share its places in
unknown order, so each of them is shown with the chance that a uniform tie gives it, as in the item-level HR and NDCG.
With e_ni the chance that item i is shown in row n, c_i how often it is a target in train, and I items:

  coverage    share of the items with e_ni > 0 in some row (Ge, Delgado-Battenfeld and Jannach, RecSys 2010)
  Gini        of the exposures x_i = sum_n e_ni, sorted to rise: sum_i (2 i - I - 1) x_i / (I sum_i x_i), i from 1; 0 is
              even exposure, 1 nearly all on one item (Fleder and Hosanagar, Management Science 2009)
  popularity  mean c_i of the shown items, divided by the mean c_i of train's targets, sum_i c_i^2 / sum_i c_i: 1 is as
              popular as what users take; this minus 1 is the popularity lift (Abdollahpouri et al., RecSys 2020)
  novelty     mean self-information -log2 p_i in bits, p_i = (c_i + 1) / sum_j (c_j + 1), which is finite even for an
              item that train never had (Zhou et al., PNAS 2010; Vargas and Castells, RecSys 2011)
  diversity   1 - mean cosine of the TF-IDF vectors of two items of a list (Smyth and McClave, ICCBR 2001; Ziegler et
              al., WWW 2005); an item that shares no words with others is like no other
  repeats     share of the shown items that are in the row's history; wasted places if users take nothing twice

Means are over rows, each row counting its mean over the items shown. Letters: N rows, I items, K words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy import sparse

from tsrec_jax.baselines.tables import history_weights
from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.errors import UserError
from tsrec_jax.text.likeness import text_features

CUT = 10  # number of items of a list that are looked at
BEYOND = tuple(f"{name}@{CUT}" for name in ("coverage", "Gini", "popularity", "novelty", "diversity", "repeats"))
Beyond = Mapping[str, float | None]  # {entry of BEYOND: value, None if it is not known}
_AT_ONCE = 4096  # number of rows whose sums of text vectors exist at one time


@dataclasses.dataclass(frozen=True, eq=False)
class Background:
    """The data that lists are measured against.

    Attributes:
      catalogue: the items.
      count_I: float64, how often an item is a target in train.
      features_IK: float64, sparse, TF-IDF rows of length 1; None if the texts share too few words.
    """

    catalogue: Catalogue
    count_I: np.ndarray
    features_IK: sparse.csr_matrix | None

    @classmethod
    def of(cls, catalogue: Catalogue, train: Interactions) -> Background:
        """Counts the targets of train and computes TF-IDF weights for the words of the items."""
        try:
            features_IK = text_features(catalogue.items).astype(np.float64)
        except UserError:  # the texts do not distinguish any two items, so diversity is unknown
            features_IK = None
        return cls(catalogue, np.bincount(train.targets, minlength=catalogue.num_items).astype(float), features_IK)

    def measure(self, lists: Sequence[Sequence[str]], histories: Sequence[Sequence[int]]) -> Beyond:
        """The metrics of BEYOND.

        Args:
          lists: the ranked SIDs of each row, best first; a row without any is left out.
          histories: catalogue indices of the items that each row's user had.

        Raises:
          ValueError: no row has a SID, or the numbers of lists and histories differ.
        """
        listed = [(ranked, history) for ranked, history in zip(lists, histories, strict=True) if ranked]
        if not listed:
            raise ValueError("no row has a list")
        lists, histories = zip(*listed, strict=True)
        shown_NI = exposures(lists, self.catalogue)
        places_N = shown_NI.sum(axis=1).A1
        taken = (self.count_I**2).sum() / self.count_I.sum()
        information_I = np.log2((self.count_I + 1).sum()) - np.log2(self.count_I + 1)
        exposure_I = shown_NI.sum(axis=0).A1
        had_NI = history_weights(histories, self.catalogue.num_items, 1.0) > 0
        values = (
            float((exposure_I > 0).mean()),
            gini(exposure_I),
            float((shown_NI @ self.count_I / places_N).mean() / taken),
            float((shown_NI @ information_I / places_N).mean()),
            self._diversity(lists, shown_NI, places_N),
            float((shown_NI.multiply(had_NI).sum(axis=1).A1 / places_N).mean()),
        )
        return dict(zip(BEYOND, values, strict=True))

    def _diversity(
        self, lists: Sequence[Sequence[str]], shown_NI: sparse.csr_matrix, places_N: np.ndarray
    ) -> float | None:
        """The mean over the rows that show two items or more; None without such rows or without texts."""
        if self.features_IK is None or not (places_N > 1).any():
            return None
        norm_I = self.features_IK.multiply(self.features_IK).sum(axis=1).A1
        alike_N = -(shown_NI.multiply(shown_NI) @ norm_I)
        for start in range(0, len(lists), _AT_ONCE):
            sums_NK = shown_NI[start : start + _AT_ONCE] @ self.features_IK
            alike_N[start : start + _AT_ONCE] += sums_NK.multiply(sums_NK).sum(axis=1).A1
        within: dict[str, float] = {}
        for row, ranked in enumerate(lists):
            *_, (sid, inside, size) = _shown(ranked, self.catalogue)
            if inside < size:  # the cut divides a SID: m of its g items show, a pair of them by m (m-1) / (g (g-1))
                if sid not in within:
                    within[sid] = _alike(self.features_IK[list(self.catalogue.items_of_sid[sid])])
                pair = inside * (inside - 1) / (size * (size - 1))
                alike_N[row] += (pair - (inside / size) ** 2) * within[sid]
        several_N = places_N > 1
        pairs_N = (places_N * (places_N - 1))[several_N]
        return float(1 - (alike_N[several_N] / pairs_N).mean())


def _alike(features_MK: sparse.csr_matrix) -> float:
    """The sum of the cosines over all ordered pairs of different items."""
    sum_K = features_MK.sum(axis=0).A1
    return float(sum_K @ sum_K - features_MK.multiply(features_MK).sum())


def exposures(lists: Sequence[Sequence[str]], catalogue: Catalogue) -> sparse.csr_matrix:
    """float64 shown_NI, sparse: the chance that an item is among the first CUT items of a row's list."""
    rows: list[int] = []
    items: list[int] = []
    chances: list[float] = []
    for row, ranked in enumerate(lists):
        for sid, inside, size in _shown(ranked, catalogue):
            rows.extend([row] * size)
            items.extend(catalogue.items_of_sid[sid])
            chances.extend([inside / size] * size)
    return sparse.csr_matrix((chances, (rows, items)), shape=(len(lists), catalogue.num_items))


def _shown(ranked: Sequence[str], catalogue: Catalogue) -> Iterator[tuple[str, int, int]]:
    """(SID, number of its items among the first CUT, number of all its items) of each SID that has any there."""
    left = CUT
    for sid in ranked:
        size = len(catalogue.items_of_sid[sid])
        yield sid, min(left, size), size
        left -= size
        if left <= 0:
            return


def gini(exposure_I: np.ndarray) -> float:
    """The Gini coefficient of exposures that are not negative and not all 0."""
    sorted_I, count = np.sort(exposure_I), len(exposure_I)
    return float(((2 * np.arange(1, count + 1) - count - 1) * sorted_I).sum() / (count * sorted_I.sum()))
