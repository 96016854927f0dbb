"""Checks of a recommender's arguments: a user's mistake is reported before work begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tsrec_jax.errors import UserError


def whole(name: str, value: Any) -> int:
    """A whole number of any kind, as an int.

    Raises:
      UserError: it is not.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise UserError(f"{name}={value!r}: must be a whole number")
    return int(value)


def listed(name: str, value: Any, wanted: str) -> Sequence[Any]:
    """A list, tuple or array of one axis; neither a text nor an iterator that can be read only once.

    Raises:
      UserError: it is not; the message says what is `wanted`.
    """
    if isinstance(value, str | bytes):
        raise UserError(f"{name} is the text {value!r}: give a list of {wanted}")
    if not isinstance(value, Sequence) and getattr(value, "ndim", None) != 1:
        raise UserError(
            f"{name} is {'None' if value is None else f'a {type(value).__name__}'}: give a list of {wanted}"
        )
    return value


def item_ids(name: str, value: Any) -> tuple[str, ...]:
    """A list of item ids.

    Raises:
      UserError: as `listed`.
    """
    return tuple(listed(name, value, "item ids"))
