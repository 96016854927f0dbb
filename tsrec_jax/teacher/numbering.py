"""Words for a last level that only numbers the items of one code (the collision policy `extra_level`).

Its tokens say nothing of their items: a code's second item is second because it stands later in the item file. Words
found in them would be chance, so they get the same plain ones from every teacher, and no model is asked.
"""

from __future__ import annotations

from tsrec_jax.data.catalogue import Catalogue, TokenDescription


def numbering_clusters(catalogue: Catalogue) -> tuple[TokenDescription, ...]:
    """What there is to say of the last level's tokens, `<d_0>` being the first item's, in the order of their level."""
    clusters = []
    for token in catalogue.level_tokens[-1]:
        place = _ordinal(int(token.rpartition("_")[2].removesuffix(">")) + 1)
        clusters.append(
            TokenDescription(token, f"The {place} of the items that share every token before it.", (f"{place} item",))
        )
    return tuple(clusters)


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
