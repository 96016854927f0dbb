"""The prefixes of a catalogue's SIDs, numbered level by level; the loss and the search build their tries from them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np


def prefix_levels(codes_NC: np.ndarray, above_N: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The distinct prefixes of each level in rising order; the next level refers to them by their position.

    Args:
      codes_NC: distinct rows in rising order, as from `sorted_unique`; for long SIDs perhaps only the last codes.
      above_N: int32, never falling, the number of the prefix before each row; zeros if there is none.

    Yields:
      parent_M, int32 number of the prefix without its last code, and code_M, the last code, of M prefixes.
    """
    for code_N in codes_NC.T:
        new_N = np.ones(len(codes_NC), bool)
        new_N[1:] = (above_N[1:] != above_N[:-1]) | (code_N[1:] != code_N[:-1])
        yield above_N[new_N], code_N[new_N]
        above_N = np.cumsum(new_N, dtype=np.int32) - 1


def sorted_unique(codes_IC: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """The distinct rows in rising order, with each column contiguous; codes of level c are below sizes[c]."""
    if math.prod(sizes) >= 1 << 63:
        return np.asfortranarray(np.unique(codes_IC, axis=0))
    key_I = codes_IC[:, 0].astype(np.int64)
    for number in range(1, len(sizes)):
        key_I *= sizes[number]
        key_I += codes_IC[:, number]
    key_I.sort()
    key_N = key_I[np.append(True, key_I[1:] != key_I[:-1])]
    columns = np.empty((len(key_N), len(sizes)), np.int32, order="F")
    for number in reversed(range(1, len(sizes))):
        key_N, columns[:, number] = np.divmod(key_N, sizes[number])
    columns[:, 0] = key_N
    return columns
