"""Catalogues of bare codes."""

from tsrec_jax.data.catalogue import Catalogue, Item


def catalogue_of(codes):
    """Item n is called `item n` and has the SID `<a_i><b_j>` of the n-th pair (i, j)."""
    return Catalogue(
        tuple(Item(str(n), f"item {n}") for n in range(len(codes))),
        tuple((f"<a_{a}>", f"<b_{b}>") for a, b in codes),
    )
