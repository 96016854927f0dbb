"""Interactions: what a user had, and what came next."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Interactions:
    """Rows of one split, in file order.

    Attributes:
      users: user id of each row.
      histories: catalogue indices of the items before, oldest first, at least one.
      targets: int32, catalogue index of the item that came next.
    """

    users: tuple[str, ...]
    histories: tuple[tuple[int, ...], ...]
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.users)
