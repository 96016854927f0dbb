"""How many codes a level has: the rule for a catalogue's size, and the refusal of sizes that are too small for it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tsrec_jax.errors import UserError

LEAST_CODES, MOST_CODES = 8, 256  # limits of the rule for a level
LEVELS = 3
MOST_SIZES = (MOST_CODES,) * LEVELS
SIDS_AN_ITEM = 4  # possible SIDs that the rule wants per item, since items do not spread evenly over them


def fitting_sizes(items: int) -> tuple[int, ...]:
    """Sizes for a catalogue: three levels, each with about as many codes as a code of the first level has items.

    That is the power of two nearest to the square root of the number of items, from LEAST_CODES to MOST_CODES. So the
    first level names kinds with some tens of items each, the second splits them into a few, and the third still has
    nodes of more than one item to distinguish. If this makes too few SIDs (above four million items), levels are added.
    """
    size = 2 ** round(math.log2(math.sqrt(max(items, 1))))
    sizes = (min(max(size, LEAST_CODES), MOST_CODES),) * LEVELS
    while math.prod(sizes) < SIDS_AN_ITEM * items:
        sizes = (*sizes, sizes[-1])
    return sizes


def refuse_too_few(sizes: Sequence[int], items: int, collisions: str) -> None:
    """Refuses sizes with fewer SIDs than items, unless an extra level numbers the items with the same codes.

    Raises:
      UserError: with any codes, some items would share their SID.
    """
    possible = math.prod(sizes)
    if possible >= items or collisions == "extra_level":
        return
    text = "x".join(map(str, sizes))
    raise UserError(
        f"config.index.sizes={tuple(sizes)} makes {text} = {possible} SIDs for {items} items, so some would share "
        f"theirs; config.index.sizes={fitting_sizes(items)} would do, or config.index.collisions=extra_level"
    )
