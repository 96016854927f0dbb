"""Nearest neighbours of the history's items, by vectors of the items from any source.

Axis letters: I items, D features of a vector.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np
from scipy import sparse

from tsrec_jax.baselines.item_to_item import ItemToItem, choose, strongest, table_of
from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.errors import UserError
from tsrec_jax.sid.whiten import fit_whitening

MOST_PAIRS = 10**11  # of items, for each whitening: a quarter of an hour of one core (1.2 s for 12,000 items)
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
      vectors: returns float32 x_ID of the catalogue's items.

    Raises:
      UserError: `select` holds no rows, there are more than MOST_PAIRS pairs of items, or the vectors are not one for
        each item.
    """
    pairs = catalogue.num_items**2
    if pairs > MOST_PAIRS:
        raise UserError(
            f"knn: {catalogue.num_items} items are {pairs:.1e} pairs to compare, more than the {MOST_PAIRS:.0e} it may "
            "have; leave this baseline out, tfidf compares no pairs"
        )
    x_ID = vectors()
    if x_ID.ndim != 2 or len(x_ID) != catalogue.num_items:
        raise UserError(
            f"knn: vectors of shape {x_ID.shape} for a catalogue of {catalogue.num_items} items; it needs one for each "
            "item, in the catalogue's order"
        )
    if len(bad := np.flatnonzero(~np.isfinite(x_ID).all(axis=1))):
        raise UserError(f"knn: the vector of item {bad[0]} (of {len(bad)}) is not finite")
    report(f"knn: {catalogue.num_items} items, {pairs:.1e} cosines for each whitening tried")

    @functools.cache
    def nearest(whiten: float) -> tuple[np.ndarray, np.ndarray]:
        unit_IK = fit_whitening(x_ID, int(whiten))(x_ID)
        return strongest(lambda start, end: np.maximum(unit_IK[start:end] @ unit_IK.T, 0), catalogue.num_items)

    def table(settings: Mapping[str, float]) -> sparse.csr_matrix:
        columns_IN, cosines_IN = nearest(settings["whiten"])  # the power leaves their order as it is
        return table_of(columns_IN, cosines_IN ** np.float32(settings["sharpness"]))

    return choose("knn", catalogue, train, select, START, GRIDS, table, report)
