"""What individual requests leave out, in the form that the search takes: a short list of slots, or a row of bits."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np

from tsrec_jax.decoding.beam_search import Filters
from tsrec_jax.decoding.trie import Trie, TrieArrays
from tsrec_jax.programs import Programs

LISTED = 64  # slots per level that a request can list; one that leaves out more gets a row of bits


@dataclasses.dataclass(frozen=True)
class SidFilter:
    """What one request may be answered with.

    Attributes:
      excluded_NC: integer codes of SIDs that it leaves out.
      allowed_NC: codes of the only SIDs that it allows; None: all of the catalogue.
    """

    excluded_NC: np.ndarray | None = None
    allowed_NC: np.ndarray | None = None


class FilterRows:
    """A trie's bits on the device, followed by a row for every request of a batch.

    The rows are there from the start, so that a request with a filter compiles nothing; only rows that are used are
    written. Not safe for several threads.

    Args:
      trie: the catalogue; its changes are followed.
      batch_size: requests per batch.
      programs: keeps the compiled program that writes a row; None: it is not kept.
    """

    def __init__(self, trie: Trie, batch_size: int, programs: Programs | None = None):
        self._trie, self._batch_size, self._programs = trie, batch_size, programs or Programs()
        self._base: TrieArrays | None = None
        self._arrays = TrieArrays(())

    def prepare(self, filters: Sequence[SidFilter]) -> tuple[TrieArrays, Filters]:
        """The arrays and filters with which to search a batch.

        Args:
          filters: one for each request of the batch.
        """
        self._follow()
        row_B = np.zeros(self._batch_size, np.int32)
        excluded = [np.full((self._batch_size, LISTED), -1, np.int32) for _ in range(self._trie.num_levels)]
        for place, wanted in enumerate(filters):
            leaves_out = 0 if wanted.excluded_NC is None else len(wanted.excluded_NC)
            if wanted.allowed_NC is not None or leaves_out > LISTED:
                row_B[place] = place + 1
                self._write(place + 1, self._trie.row(_left(self._trie, wanted)))
            elif wanted.excluded_NC is not None and leaves_out:
                for listed, slots in zip(excluded, self._trie.dead_without(wanted.excluded_NC), strict=True):
                    listed[place, : len(slots)] = slots
        return self._arrays, Filters(row_B, tuple(excluded))

    def _follow(self) -> None:
        """Takes over the changes of the catalogue."""
        if self._base is self._trie.arrays:
            return
        self._base = self._trie.arrays
        rows = 1 + self._batch_size
        tiled = (jax.device_put(np.tile(level.alive_RM, (rows, 1))) for level in self._base.levels)  # compiles nothing
        levels = zip(self._base.levels, tiled, strict=True)
        self._arrays = TrieArrays(tuple(dataclasses.replace(level, alive_RM=alive) for level, alive in levels))

    def _write(self, row: int, words: tuple[np.ndarray, ...]) -> None:
        alive = tuple(level.alive_RM for level in self._arrays.levels)
        alive = self._programs.call(_set_rows, alive, np.int32(row), words)
        levels = zip(self._arrays.levels, alive, strict=True)
        self._arrays = TrieArrays(tuple(dataclasses.replace(level, alive_RM=rows) for level, rows in levels))


@functools.partial(jax.jit, donate_argnums=0)
def _set_rows(alive: tuple[jax.Array, ...], row: jax.Array, words: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    return tuple(rows.at[row].set(new) for rows, new in zip(alive, words, strict=True))


def _left(trie: Trie, wanted: SidFilter) -> np.ndarray:
    """Codes of the SIDs that a filter leaves."""
    allowed_NC = trie.sid_codes() if wanted.allowed_NC is None else np.asarray(wanted.allowed_NC)
    if wanted.excluded_NC is None or not len(wanted.excluded_NC) or not len(allowed_NC):
        return allowed_NC
    excluded = set(map(tuple, np.asarray(wanted.excluded_NC).tolist()))
    return allowed_NC[[tuple(codes) not in excluded for codes in allowed_NC.tolist()]]
