"""Nearest neighbours of the history's items among vectors of the items, which anything may have made.

Axis letters: I items, D features of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy import sparse

from tsrec_jax.baselines.item_to_item import ItemToItem, choose, strongest
from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.errors import UserError
from tsrec_jax.sid.whiten import fit_whitening

START = {"whiten": 64.0, "sharpness": 2.0}
GRIDS = {"whiten": (0.0, 16.0, 256.0), "sharpness": (1.0, 4.0, 8.0, 16.0)}


def fit_knn(
    catalogue: Catalogue,
    train: Interactions,
    select: Interactions,
    seed: int,
    report: Callable[[str], None],
    vectors: Callable[[], np.ndarray],
) -> ItemToItem:
    """Cosines of whitened vectors, raised to a power, between an item of the history and its nearest neighbours.

    `whiten` (principal components that are kept and scaled to one variance; 0: only the mean is taken away),
    `sharpness` (the power) and the history's settings are chosen on `select`; train gives the popularity that orders
    items without a neighbour in the history.

    Args:
      catalogue, train, select, seed, report: see `Fit`.
      vectors: makes float32 x_ID of the catalogue's items.

    Raises:
      UserError: `select` holds no rows, or the vectors are not one for each item.
    """
    x_ID = vectors()
    if x_ID.ndim != 2 or len(x_ID) != catalogue.num_items or not np.isfinite(x_ID).all():
        raise UserError(
            f"knn: vectors of shape {x_ID.shape}, finite or not, for a catalogue of {catalogue.num_items} items; it "
            "needs one finite vector for each item, in the catalogue's order"
        )

    def table(settings: Mapping[str, float]) -> sparse.csr_matrix:
        unit_IK = fit_whitening(x_ID, int(settings["whiten"]))(x_ID)

        def rows(start: int, end: int) -> np.ndarray:
            return np.maximum(unit_IK[start:end] @ unit_IK.T, 0) ** np.float32(settings["sharpness"])

        return strongest(rows, catalogue.num_items)

    return choose("knn", catalogue, train, select, START, GRIDS, table, report)
