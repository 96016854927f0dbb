"""Whether two methods ranked the same SIDs, wherever float32 can tell the neighbours apart."""

from __future__ import annotations

import dataclasses

import numpy as np

from benchmarks.decoding.problem import Lists

NEAR = 1e-4  # nats: neighbours nearer than this may swap in float32


@dataclasses.dataclass(frozen=True)
class Parity:
    """Outcome of a comparison.

    Attributes:
      lists: requests compared.
      identical: lists equal in every place.
      agreeing: lists equal in every place whose score is more than NEAR from its neighbours'.
      score_difference: largest difference of scores of equal rank, in nats; infinite where one list is shorter.
    """

    lists: int
    identical: int
    agreeing: int
    score_difference: float


def clear_places(scores_W: np.ndarray) -> np.ndarray:
    """True for each rank whose score is more than NEAR from its neighbours'; the last one has a neighbour unseen."""
    near = np.abs(np.diff(scores_W)) <= NEAR
    return ~(np.append(near, False) | np.append(False, near))


def compare(found: Lists, wanted: Lists) -> Parity:
    """Compares the live beams of every request; beams beyond either method's width must be dead in the other."""
    identical = agreeing = 0
    largest = 0.0
    for codes_WC, scores_W, wanted_WC, wanted_W in zip(
        found.codes_BWC, found.scores_BW, wanted.codes_BWC, wanted.scores_BW, strict=True
    ):
        alive, wanted_alive = np.isfinite(scores_W), np.isfinite(wanted_W)
        if alive.sum() != wanted_alive.sum():
            largest = np.inf
            continue
        same_W = (codes_WC[alive] == wanted_WC[wanted_alive]).all(axis=-1)
        identical += bool(same_W.all())
        agreeing += bool(same_W[clear_places(wanted_W[wanted_alive])].all())
        largest = max(largest, float(np.abs(scores_W[alive] - wanted_W[wanted_alive]).max(initial=0.0)))
    return Parity(len(found.codes_BWC), identical, agreeing, largest)
