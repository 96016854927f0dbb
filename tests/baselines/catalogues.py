"""A small catalogue with texts, and rows."""

import numpy as np

from tsrec_jax.data.catalogue import Catalogue, Item
from tsrec_jax.data.dataset import Dataset
from tsrec_jax.data.interactions import Interactions


def catalogue_of(titles, codes=None):
    """Item n has the n-th title and the SID `<a_i>`, where i is its code (n unless codes are given)."""
    codes = range(len(titles)) if codes is None else codes
    return Catalogue(
        tuple(Item(str(n), title) for n, title in enumerate(titles)), tuple((f"<a_{code}>",) for code in codes)
    )


def rows_of(*pairs, user="u"):
    """Rows of one user from (history, target) pairs."""
    return Interactions(
        (user,) * len(pairs), tuple(tuple(h) for h, _ in pairs), np.array([t for _, t in pairs], np.int32)
    )


def dataset_of(catalogue, tmp_path):
    return Dataset("Toy", tmp_path, catalogue, {}, {}, "0" * 64)


def quiet(_line):
    """A report that nobody reads."""
