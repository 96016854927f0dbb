"""Decides which examples share a row, from their lengths alone, before anything is read.

A plan makes a training batch a pure function of its number. So a resumed run needs to know only its step, and every
process of a run knows the rows of all others.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import numpy as np

WINDOW = 1024  # examples that compete for the next place; larger fills rows better and takes longer
REST_WEIGHT = 0.1  # weight of the leftover tokens relative to the imbalance; chosen on the Industrial task mix


def pack(
    lengths_n2: np.ndarray, capacity: tuple[int, int], group: int = 1, window: int = WINDOW
) -> list[list[np.ndarray]]:
    """Fills rows with examples, and groups with rows. Every example is placed exactly once.

    A row begins with the oldest remaining example. Until none fits, it then takes from the first `window` remaining
    ones the example that leaves the best rest. If a row has loss slots of its own, the best rest is the one that is
    smallest and most even in tokens and slots, since a row that ran out of slots first would waste tokens. If rows
    share their slots, it is the smallest rest of tokens, and the rows are then dealt out so that groups need about the
    same number of slots.

    Args:
      lengths_n2: int, tokens and loss tokens of each example, in the order in which they are to come.
      capacity: tokens per row and loss slots per group.
      group: rows per group.
      window: how many examples compete, as above.

    Returns:
      The rows of each group, at most `group` of them; each row is the numbers of its examples.

    Raises:
      ValueError: an example fits in no row.
    """
    limit_2 = np.asarray(capacity, np.int64)
    if len(lengths_n2) and (lengths_n2 > limit_2).any():
        raise ValueError(f"an example of {lengths_n2.max(axis=0)} does not fit in a row of {capacity}")
    rows = _rows(lengths_n2, limit_2, window, evenness=1.0 if group == 1 else 0.0)
    if group == 1:
        return [[row] for row in rows]
    slots_r = np.array([lengths_n2[row, 1].sum() for row in rows])
    groups = math.ceil(len(rows) / group)
    dealt = _deal(slots_r, groups, group, capacity[1])
    while dealt is None:
        groups += 1
        dealt = _deal(slots_r, groups, group, capacity[1])
    return [[rows[number] for number in members] for members in dealt if members]


def _rows(lengths_n2: np.ndarray, limit_2: np.ndarray, window: int, evenness: float) -> list[np.ndarray]:
    waiting_w = np.arange(min(window, len(lengths_n2)))
    following, rows = len(waiting_w), []
    while len(waiting_w):
        row, free_2 = [], limit_2.copy()
        lengths_w2 = lengths_n2[waiting_w]
        open_w = np.ones(len(waiting_w), bool)
        place = 0  # the oldest, so that no example waits for ever
        while place >= 0:
            row.append(waiting_w[place])
            open_w[place] = False
            free_2 = free_2 - lengths_w2[place]
            place = _best(lengths_w2, open_w, free_2, limit_2, evenness)
        rows.append(np.array(row))
        fresh = np.arange(following, min(following + len(row), len(lengths_n2)))
        following += len(fresh)
        waiting_w = np.concatenate([waiting_w[open_w], fresh])
    return rows


def _best(lengths_w2: np.ndarray, open_w: np.ndarray, free_2: np.ndarray, limit_2: np.ndarray, evenness: float) -> int:
    """The position of the example that leaves the best rest of a row; -1 if none fits."""
    rest_w2 = free_2 - lengths_w2
    fits_w = open_w & (rest_w2 >= 0).all(axis=1)
    if not fits_w.any():
        return -1
    shares_w2 = rest_w2 / limit_2
    cost_w = evenness * (shares_w2[:, 0] - shares_w2[:, 1]) ** 2 + REST_WEIGHT * shares_w2[:, 0]
    return int(np.argmin(np.where(fits_w, cost_w, np.inf)))


def _deal(slots_r: np.ndarray, groups: int, group: int, limit: int) -> list[list[int]] | None:
    """Row numbers of each group: fullest row first, to the emptiest group; None if a group's slots run out."""
    dealt: list[list[int]] = [[] for _ in range(groups)]
    heap = [(0, number) for number in range(groups)]
    for row in np.argsort(-slots_r, kind="stable"):
        used, number = heapq.heappop(heap)
        used += int(slots_r[row])
        if used > limit:
            return None
        dealt[number].append(int(row))
        if len(dealt[number]) < group:
            heapq.heappush(heap, (used, number))
    return dealt


def epoch_of_task(rows: int, rate: float, epoch: int, seed: Sequence[int]) -> np.ndarray:
    """The rows of one task that belong to an epoch: `rate` x rows of an endless stream of fresh permutations.

    With a rate of 1 an epoch is one permutation; with 0.25 four epochs make one, and no row is left out.

    Args:
      rows: number of rows of the task.
      rate: above 0.
      epoch: number of the epoch, from 0.
      seed: numbers that name the run and the task.

    Returns:
      int row numbers, in stream order.
    """
    first, last = (int(np.floor(number * rate * rows + 1e-9)) for number in (epoch, epoch + 1))
    parts = []
    for turn in range(first // rows, -(-last // rows)):
        order = np.random.default_rng([*seed, turn]).permutation(rows)
        parts.append(order[max(first - turn * rows, 0) : last - turn * rows])
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)
