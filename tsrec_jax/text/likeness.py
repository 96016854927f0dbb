"""Which items are alike by their texts: TF-IDF vectors and the nearest ones by cosine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from tsrec_jax.data.catalogue import Item
from tsrec_jax.errors import UserError
from tsrec_jax.text.terms import item_terms

BLOCK = 1024  # items whose cosines with all others exist at one time


def text_features(items: Sequence[Item]) -> sparse.csr_matrix:
    """float32 features_IK, sparse: TF-IDF of the words of title, brand, categories and description, rows of length 1.

    The words and their weights are the offline teacher's (`item_terms`), without its phrases; idf is
    ln((1 + I) / (1 + items with the word)) + 1. An item that shares no word with another has a row of zeros.

    Raises:
      UserError: fewer than two words are shared by items.
    """
    terms = item_terms(items)
    words = [column for column, parts in enumerate(terms.words) if len(parts) == 1]
    if len(words) < 2:
        raise UserError(
            "the items' texts share fewer than two words, so nothing can go by them; give the items titles, brands, "
            "categories or descriptions, or leave out what reads them (baselines tfidf, hybrid and sasrec+text, "
            "task distilled_sid)"
        )
    held_K = np.asarray(terms.held_IT.tocsc()[:, words].sum(axis=0)).reshape(-1)
    idf_K = np.log((1 + len(items)) / (1 + held_K)) + 1
    features_IK = sparse.csr_matrix(terms.weight_IT.tocsc()[:, words] @ sparse.diags_array(idf_K))
    lengths_I = np.sqrt(np.asarray(features_IK.multiply(features_IK).sum(axis=1)).reshape(-1))
    scale_I = 1 / np.where(lengths_I > 0, lengths_I, 1)
    return sparse.csr_matrix(sparse.diags_array(scale_I) @ features_IK, dtype=np.float32)


def nearest_items(items: Sequence[Item], count: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """The items nearest to each item by the cosine of their texts, itself left out, and chances to choose them.

    Args:
      items: the catalogue's.
      count: N, neighbours of an item; fewer where the catalogue is smaller.
      sharpness: chances are in proportion to cosine ** sharpness.

    Returns:
      int32 nearest_IN, most alike first, and float32 chances_IN, whose rows sum to 1, or to 0 where no other item
      shares a word.

    Raises:
      UserError: as `text_features`.
    """
    features_IK = text_features(items)
    count = min(count, len(items) - 1)
    nearest_IN = np.zeros((len(items), count), np.int32)
    cosine_IN = np.zeros((len(items), count), np.float32)
    for start in range(0, len(items), BLOCK):
        cosines_BI = (features_IK[start : start + BLOCK] @ features_IK.T).toarray()
        block = np.arange(len(cosines_BI))
        cosines_BI[block, start + block] = -1.0
        order_BN = np.argsort(-cosines_BI, axis=1, kind="stable")[:, :count]
        nearest_IN[start + block] = order_BN
        cosine_IN[start + block] = np.take_along_axis(cosines_BI, order_BN, axis=1)
    weight_IN = np.maximum(cosine_IN, 0.0) ** sharpness
    total_I1 = weight_IN.sum(axis=1, keepdims=True)
    return nearest_IN, weight_IN / np.where(total_I1 > 0, total_I1, 1.0)
