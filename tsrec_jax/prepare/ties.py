"""Interactions of one user and one second, of which no clock says which came first.

Days without a time, as shops export them and as all of Amazon Reviews 2018 has them, tie whole baskets. The order of
the file is the best guess at theirs, unless the file was sorted by item: then the next item of a basket would always
have a larger id than the one before, a rule that any model learns and no shop has.
"""

from __future__ import annotations

import dataclasses
import math
import re
import zlib
from collections.abc import Collection, Iterable

import numpy as np

from tsrec_jax.prepare.splitting import Log

FILE, SHUFFLED, ITEM, AUTO = "file", "shuffled", "item", "auto"
TIES = (AUTO, FILE, SHUFFLED, ITEM)
MANY = 0.2  # share of tied interactions from which the summary warns

# The ids of neighbours in the order of a shop's clock ascend about as often as they descend: .54 to .56 on Industrial
# as published. At two thirds, a third of the baskets or more was sorted.
_CLEAR_SHARE = 2 / 3
_DEVIATIONS = 5  # so many standard deviations from one half are no accident in a small file
_SEED = 0x9E3779B97F4A7C15
_DIGITS = re.compile(r"[0-9]+")
_LONGEST_NUMBER = 32  # digits


@dataclasses.dataclass(frozen=True)
class Ties:
    """The ties of a log and what was done about them.

    Attributes:
      interactions: that share user and second with another.
      share: of all interactions.
      pairs: neighbours in the file that share user and second.
      ascending: share of the pairs whose item ids ascend, as text or as numbers, whichever is farther from one half;
        None without pairs.
      order: of tied interactions: "file", "shuffled" (by a hash of user and item) or "item" (by id).
      backwards: whether the files run from new to old, so that "file" means from the last line to the first.
    """

    interactions: int
    share: float
    pairs: int
    ascending: float | None
    order: str
    backwards: bool


def settle(
    log: Log, user_ids: Collection[str], item_ids: Collection[str], wanted: str, backwards: bool = False
) -> tuple[Log, Ties]:
    """Puts tied interactions into an order.

    Args:
      log: its ties in the order of the file, no item twice in one.
      user_ids, item_ids: what the numbers of the log stand for.
      wanted: one of TIES; "auto": the order of the file, or shuffled where that follows the item ids.
      backwards: as in `Ties`.

    Returns:
      The log, and what was done.
    """
    tied_N = is_tied(log)
    positions = np.flatnonzero(tied_N)
    pairs, ascending = _ascending(log, item_ids)
    order = wanted
    if wanted == AUTO:
        order = SHUFFLED if _is_sorted(pairs, ascending) else FILE
    ties = Ties(len(positions), float(tied_N.mean()) if len(log) else 0.0, pairs, ascending, order, backwards)
    if order == FILE or not len(positions):
        return log, ties
    users, items = log.users[positions], log.items[positions]
    keys = items if order == ITEM else _hashes(users, items, user_ids, item_ids)
    arranged = log.items.copy()
    arranged[positions] = items[np.lexsort((keys, log.times[positions], users))]
    return dataclasses.replace(log, items=arranged), ties


def is_newest_first(users: np.ndarray, times: np.ndarray) -> bool:
    """Whether the files run from new to old: by the neighbours of each user, else by those of all lines.

    A file may hold one user after the other, each from new to old; and users of a single day say nothing themselves.
    """
    order = np.argsort(users, kind="stable")
    own = np.diff(times[order])[users[order][1:] == users[order][:-1]]
    return falls_beyond_chance(
        (int(np.sum(steps < 0)), int(np.count_nonzero(steps))) for steps in (own, np.diff(times))
    )


def falls_beyond_chance(counts: Iterable[tuple[int, int]]) -> bool:
    """Whether times fall, by the first of several counts that says more than chance would.

    Args:
      counts: of neighbours, those of which the second has the earlier time, and all with different times.
    """
    for falling, pairs in counts:
        if pairs and _exceeds_chance(pairs, max(falling, pairs - falling) / pairs):
            return 2 * falling > pairs
    return False


def is_tied(log: Log) -> np.ndarray:
    """bool (N,): whether an interaction shares user and second with another."""
    same = _shares_with_next(log)
    tied_N = np.zeros(len(log), bool)
    tied_N[1:] = same
    tied_N[:-1] |= same
    return tied_N


def _shares_with_next(log: Log) -> np.ndarray:
    """bool (N - 1,): whether an interaction shares user and second with the one behind it."""
    return (log.users[1:] == log.users[:-1]) & (log.times[1:] == log.times[:-1])


def _ascending(log: Log, item_ids: Collection[str]) -> tuple[int, float | None]:
    """The number of tied neighbours, and the share of them whose ids ascend."""
    firsts = np.flatnonzero(_shares_with_next(log))
    if not len(firsts):
        return 0, None
    first, second = log.items[firsts], log.items[firsts + 1]
    # Numbers stand in the order of ids as texts; a database may have sorted "9" before "10".
    by_number = _places_by_number(item_ids)
    shares = [float(np.mean(a < b)) for a, b in ((first, second), (by_number[first], by_number[second]))]
    return len(firsts), max(shares, key=lambda share: abs(share - 0.5))


def _is_sorted(pairs: int, ascending: float | None) -> bool:
    """Whether the order of the file follows the item ids, up or down, too far for chance."""
    return ascending is not None and _exceeds_chance(pairs, max(ascending, 1 - ascending))


def _exceeds_chance(pairs: int, share: float) -> bool:
    """Whether a share of the pairs is far above one half."""
    return share >= _CLEAR_SHARE and (2 * share - 1) * pairs >= _DEVIATIONS * math.sqrt(pairs)


def _places_by_number(ids: Collection[str]) -> np.ndarray:
    """int64: the place of each id where runs of digits count as numbers."""
    keys = [_DIGITS.sub(lambda digits: digits[0].zfill(_LONGEST_NUMBER), text) for text in ids]
    places = np.empty(len(keys), np.int64)
    places[sorted(range(len(keys)), key=keys.__getitem__)] = np.arange(len(keys))
    return places


def _hashes(users: np.ndarray, items: np.ndarray, user_ids: Collection[str], item_ids: Collection[str]) -> np.ndarray:
    """uint64, a hash of each pair of a user's and an item's id: the same whatever else the files hold."""
    mixed = (_checksums(user_ids)[users] << np.uint64(32)) | _checksums(item_ids)[items]
    mixed ^= np.uint64(_SEED)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def _checksums(ids: Collection[str]) -> np.ndarray:
    return np.fromiter((zlib.crc32(text.encode()) for text in ids), np.uint64, len(ids))
