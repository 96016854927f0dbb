"""EASE (Steck, 2019, "Embarrassingly Shallow Autoencoders for Sparse Data", arXiv 1905.03375), for the next item.

The rows of X are the users of train; an entry is 1 where the user had the item. The weights B with an empty diagonal
that minimise |X - XB|^2 + L |B|^2 are B_ij = -P_ij / P_jj, where P is the inverse of X'X + L. They ignore order; in
use, the newer items of a history count more.

Axis letters: U users of train, I items.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np
from scipy import linalg, sparse

from tsrec_jax.baselines.item_to_item import ItemToItem, choose, strongest, table_of
from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.errors import UserError

MOST_BYTES = 8 * 2**30  # largest size of the float32 matrix that is inverted in place
START = {"regularisation": 100.0}
GRIDS = {"regularisation": (20.0, 500.0, 2500.0)}


def fit_ease(
    catalogue: Catalogue, train: Interactions, select: Interactions, seed: int, report: Callable[[str], None]
) -> ItemToItem:
    """Inverts a matrix of items x items for each regularisation that is tried; all settings are chosen on `select`.

    Raises:
      UserError: the matrix would be larger than MOST_BYTES, or `select` holds no rows.
    """
    needed = 4 * catalogue.num_items**2
    if needed > MOST_BYTES:
        raise UserError(
            f"ease: {catalogue.num_items} items need a matrix of {needed / 2**30:.1f} GiB, more than the "
            f"{MOST_BYTES / 2**30:g} GiB it may have; leave this baseline out, transitions has no such matrix"
        )
    report(f"ease: {catalogue.num_items} items, a matrix of {needed / 2**30:.2f} GiB for each regularisation tried")
    had_UI = users_had(train, catalogue.num_items)
    together_II = (had_UI.T @ had_UI).tocsr()

    def table(settings: Mapping[str, float]) -> sparse.csr_matrix:
        inverse_II = _inverse(together_II, settings["regularisation"])
        scale_I = -1 / np.diag(inverse_II)
        return table_of(*strongest(lambda start, end: inverse_II[start:end] * scale_I, catalogue.num_items))

    return choose("ease", catalogue, train, select, START, GRIDS, table, report)


def users_had(rows: Interactions, num_items: int) -> sparse.csr_matrix:
    """float32 had_UI, sparse: 1 where a user had an item, as history or target of any row."""
    numbers: dict[str, int] = {}
    users_B = np.array([numbers.setdefault(user, len(numbers)) for user in rows.users])
    lengths_B = np.array([len(history) for history in rows.histories])
    items = np.fromiter(itertools.chain.from_iterable(rows.histories), np.int64, lengths_B.sum())
    users = np.concatenate([np.repeat(users_B, lengths_B), users_B])
    items = np.concatenate([items, rows.targets])
    had_UI = sparse.csr_matrix((np.ones(len(items), np.float32), (users, items)), shape=(len(numbers), num_items))
    had_UI.data[:] = 1  # the constructor adds up items that a user had several times
    return had_UI


def _inverse(together_II: sparse.csr_matrix, regularisation: float) -> np.ndarray:
    """float32 (I, I), the inverse of together_II with the regularisation on its diagonal; one matrix in memory.

    That matrix is positive definite, and well-conditioned in float32: its smallest eigenvalue is the regularisation.
    """
    matrix_II = np.zeros(together_II.shape, np.float32, order="F")
    together_II.toarray(out=matrix_II)
    items = len(matrix_II)
    matrix_II[np.arange(items), np.arange(items)] += np.float32(regularisation)
    matrix_II, _ = linalg.lapack.spotrf(matrix_II, lower=1, overwrite_a=1)
    matrix_II, _ = linalg.lapack.spotri(matrix_II, lower=1, overwrite_c=1)
    for column in range(items):  # LAPACK leaves the upper half as it was
        matrix_II[column, column + 1 :] = matrix_II[column + 1 :, column]
    return matrix_II
