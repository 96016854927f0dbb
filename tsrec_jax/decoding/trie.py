"""The constraint: which codes may follow which, in a form whose cost does not depend on the number of items.

Nodes of level c are prefixes of c codes. A node is named by its *slot* on its level, and one bit per slot says whether
an item lies below it. Two forms of a level:

- dense: every code has a slot under every parent slot, so the children of slot s are s x stride, s x stride + 1, ...
  and the bits of a node are a few whole words. Three levels of 256 codes take 2 MiB, whatever the number of items.
- sparse, where a dense level would have more than DENSE_SLOTS slots: the children of slot s are the slots
  starts[s] .. starts[s + 1] - 1, and `codes` says which codes they are (compressed sparse rows).

Either way a beam reads one row of bits or one window of codes, of a size known in advance: the same for ten items and
for ten million.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np

from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.sid_prefixes import prefix_levels, sorted_unique
from tsrec_jax.files import exported_file, write_npz

DENSE_SLOTS = 1 << 24
WORD = 32
_FORMAT = 1  # of a file; it changes whenever `_build` lays arrays out differently


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LevelArrays:
    """One level on the device.

    Attributes:
      token_ids_E: int32 vocabulary ids of the level's codes.
      alive_RM: uint32 words with one bit per slot; row 0 is the catalogue, further rows belong to individual requests.
      starts: int32 (parent slots + 1) of a sparse level, None for a dense one.
      codes: codes of the slots of a sparse level, None of a dense one.
      width: candidates per beam: all codes of a dense level, a power of two for a sparse one.
      stride: slots per parent of a dense level, 0 for a sparse one.
    """

    token_ids_E: jax.Array
    alive_RM: jax.Array
    starts: jax.Array | None
    codes: jax.Array | None
    width: int = dataclasses.field(metadata={"static": True})
    stride: int = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrieArrays:
    """A trie as the search takes it; tries of the same shapes share a compiled search."""

    levels: tuple[LevelArrays, ...]


@dataclasses.dataclass
class _Level:
    """One level on the host; `slots` are in use, arrays of a sparse level have room for more."""

    size: int
    slots: int
    alive: np.ndarray  # uint32
    starts: np.ndarray | None = None
    codes: np.ndarray | None = None
    width: int = 0

    @property
    def stride(self) -> int:
        return 0 if self.starts is not None else _whole_words(self.size)

    def bits(self, slots: np.ndarray) -> np.ndarray:
        return (self.alive[slots // WORD] >> (slots % WORD).astype(np.uint32)) & 1 != 0

    def children(self, parent: int) -> slice:
        """The slots under a parent slot."""
        if self.starts is None:
            return slice(parent * self.stride, parent * self.stride + self.size)
        return slice(int(self.starts[parent]), int(self.starts[parent + 1]))

    def alive_under(self, parent: int) -> int:
        """How many children of a parent slot are alive."""
        found = self.children(parent)
        first, last = found.start // WORD, -(-found.stop // WORD)
        bits = np.unpackbits(self.alive[first:last].view(np.uint8), bitorder="little")
        return int(bits[found.start - first * WORD : found.stop - first * WORD].sum())


class Trie:
    """All valid SIDs, on the host with a copy on the device; it changes in place when items come and go.

    Attributes:
      token_ids: for each level int32 vocabulary ids of its codes.
      num_sids: distinct SIDs that are alive.
    """

    def __init__(self, levels: list[_Level], token_ids: Sequence[np.ndarray], num_sids: int):
        self._levels = levels
        self.token_ids = tuple(np.asarray(ids, np.int32) for ids in token_ids)
        self.num_sids = num_sids

    @classmethod
    def from_codes(cls, codes_IC: np.ndarray, level_sizes: Sequence[int], token_ids: Sequence[np.ndarray]) -> Trie:
        """Builds the trie.

        Args:
          codes_IC: integer codes of each item; repeated rows (colliding SIDs) are one SID.
          level_sizes: number of codes of each level.
          token_ids: vocabulary ids of each level's codes.

        Raises:
          ValueError: no items, a code outside its level, or a level that does not have one token id per code.
        """
        codes_IC = np.asarray(codes_IC)
        if codes_IC.ndim != 2 or not len(codes_IC) or codes_IC.shape[1] != len(level_sizes):
            raise ValueError("a trie needs at least one SID, with a code for every level")
        for level, size in enumerate(level_sizes):
            if codes_IC[:, level].min() < 0 or codes_IC[:, level].max() >= size:
                raise ValueError(f"a code lies outside its level ({level}, {size} codes)")
        if [len(ids) for ids in token_ids] != list(level_sizes):
            raise ValueError("token ids and level sizes disagree")
        levels, num_sids = _build(codes_IC, tuple(map(int, level_sizes)))
        return cls(levels, token_ids, num_sids)

    @classmethod
    def of_catalogue(cls, catalogue: Catalogue, first_id: int) -> Trie:
        """The trie of a catalogue whose tokens have the ids first_id, first_id + 1, ... in the order of `tokens`."""
        sizes = [len(tokens) for tokens in catalogue.level_tokens]
        ends = first_id + np.cumsum(sizes)
        ids = [np.arange(end - size, end, dtype=np.int32) for end, size in zip(ends, sizes, strict=True)]
        return cls.from_codes(catalogue.codes_IC, sizes, ids)

    @property
    def num_levels(self) -> int:
        """Codes of a SID (C)."""
        return len(self._levels)

    @property
    def level_sizes(self) -> tuple[int, ...]:
        """Codes of each level."""
        return tuple(level.size for level in self._levels)

    @property
    def widths(self) -> tuple[int, ...]:
        """How many codes of each level the search reads after a prefix: all of a dense level."""
        return tuple(level.width for level in self._levels)

    @property
    def nbytes(self) -> int:
        """Bytes of the index, on the device and again on the host."""
        parts = (part for level in self._levels for part in (level.alive, level.starts, level.codes))
        return sum(part.nbytes for part in parts if part is not None)

    @functools.cached_property
    def arrays(self) -> TrieArrays:
        """The device copy; made again after a change, with the same shapes unless a sparse level outgrew its room."""
        on_host: Callable[..., LevelArrays] = LevelArrays
        parts = tuple(
            on_host(ids, level.alive[None], level.starts, level.codes, level.width, level.stride)
            for level, ids in zip(self._levels, self.token_ids, strict=True)
        )
        with jax.ensure_compile_time_eval():  # arrays, never tracers, even if a trace asks first: they are kept
            return jax.device_put(TrieArrays(parts))

    def slots(self, codes_NC: np.ndarray) -> np.ndarray:
        """int64 (N, C): the slot of every prefix of every SID, -1 where a sparse level has none.

        Args:
          codes_NC: codes of the first C levels, all of them or fewer.
        """
        codes_NC = np.asarray(codes_NC, np.int64)
        slots_NC = np.zeros(codes_NC.shape, np.int64)
        parent_N = np.zeros(len(codes_NC), np.int64)
        for number, level in enumerate(self._levels[: codes_NC.shape[1]]):
            if level.starts is None:
                slot_N = parent_N * level.stride + codes_NC[:, number]
            else:
                found = map(functools.partial(_find, level), parent_N.tolist(), codes_NC[:, number].tolist())
                slot_N = np.fromiter(found, np.int64, len(codes_NC))
            slots_NC[:, number] = parent_N = np.where(parent_N < 0, -1, slot_N)
        return slots_NC

    def contains(self, codes_NC: np.ndarray) -> np.ndarray:
        """bool (N,): which of these code sequences are SIDs that are alive."""
        leaf_N = self.slots(codes_NC)[:, -1]
        return (leaf_N >= 0) & self._levels[-1].bits(np.maximum(leaf_N, 0))

    def prefixes(self, level: int) -> int:
        """How many prefixes of `level` codes are alive; 1 for level 0, the root."""
        if level == 0:
            return 1
        return int(np.unpackbits(self._levels[level - 1].alive.view(np.uint8)).sum())

    def sid_codes(self, prefix: Sequence[int] = ()) -> np.ndarray:
        """int32 (N, C): the codes of every SID that is alive, in rising order.

        Args:
          prefix: fewer than C codes, with which these SIDs begin.
        """
        codes_NC = np.array([prefix], np.int32).reshape(1, len(prefix))
        parents_N = self.slots(codes_NC)[:, -1] if len(prefix) else np.zeros(1, np.int64)
        parents_N = parents_N[parents_N >= 0]
        for level in self._levels[len(prefix) :]:
            if not len(parents_N):
                return np.zeros((0, self.num_levels), np.int32)
            # What lies below a range of slots is a range of slots.
            begin, end = level.children(int(parents_N[0])).start, level.children(int(parents_N[-1])).stop
            word = begin // WORD
            bits = np.unpackbits(level.alive[word : -(-end // WORD)].view(np.uint8), bitorder="little")
            slots_M = begin + np.flatnonzero(bits[begin - word * WORD : end - word * WORD])
            if level.starts is None or level.codes is None:
                parent_M, code_M = slots_M // level.stride, slots_M % level.stride
            else:
                parent_M = np.searchsorted(level.starts, slots_M, side="right") - 1
                code_M = level.codes[slots_M]
            before_M = np.searchsorted(parents_N, parent_M)
            codes_NC = np.concatenate([codes_NC[before_M], code_M[:, None].astype(np.int32)], axis=1)
            parents_N = slots_M
        return codes_NC

    def add(self, codes_NC: np.ndarray) -> None:
        """Makes SIDs valid; those that already are stay so.

        If all levels are dense, or a sparse level has the slots already, bits are set. Otherwise the sparse levels are
        built again (which takes about as long as building the trie), in arrays of the same shapes while there is room.

        Raises:
          ValueError: a code outside its level.
        """
        codes_NC = np.asarray(codes_NC, np.int64).reshape(-1, self.num_levels)
        if (codes_NC < 0).any() or (codes_NC >= np.array(self.level_sizes)).any():
            raise ValueError("a code lies outside its level")
        codes_NC = np.unique(codes_NC[~self.contains(codes_NC)], axis=0)
        slots_NC = self.slots(codes_NC)
        if (slots_NC < 0).any():
            self._levels, self.num_sids = _build(
                np.concatenate([self.sid_codes(), codes_NC.astype(np.int32)]), self.level_sizes, self._levels
            )
        else:
            for level, slot_N in zip(self._levels, slots_NC.T, strict=True):
                _set_bits(level.alive, slot_N)
            self.num_sids += len(codes_NC)
        self._changed()

    def remove(self, codes_NC: np.ndarray) -> None:
        """Makes SIDs invalid, and every prefix that no longer leads to one; those that are not valid stay so."""
        codes_NC = np.asarray(codes_NC, np.int64).reshape(-1, self.num_levels)
        codes_NC = np.unique(codes_NC[self.contains(codes_NC)], axis=0)
        for slots_C in self.slots(codes_NC):
            for number in reversed(range(self.num_levels)):
                slot, level = int(slots_C[number]), self._levels[number]
                level.alive[slot // WORD] &= ~np.uint32(1 << (slot % WORD))
                if level.alive_under(int(slots_C[number - 1]) if number else 0):
                    break
        self.num_sids -= len(codes_NC)
        self._changed()

    def row(self, codes_NC: np.ndarray) -> tuple[np.ndarray, ...]:
        """uint32 words of every level in which only these SIDs are alive, as far as they are in the catalogue."""
        codes_NC = np.asarray(codes_NC, np.int64).reshape(-1, self.num_levels)
        slots_NC = self.slots(codes_NC[self.contains(codes_NC)])
        row = tuple(np.zeros_like(level.alive) for level in self._levels)
        for words, slot_N in zip(row, slots_NC.T, strict=True):
            _set_bits(words, slot_N)
        return row

    def dead_without(self, codes_NC: np.ndarray) -> list[np.ndarray]:
        """For each level the slots that no longer lead to anything once these SIDs are left out."""
        codes_NC = np.asarray(codes_NC, np.int64).reshape(-1, self.num_levels)
        slots_NC = self.slots(np.unique(codes_NC[self.contains(codes_NC)], axis=0))
        dead: list[np.ndarray] = [slots_NC[:, -1]]
        for number in reversed(range(self.num_levels - 1)):
            # A parent dies with the last of its living children; slots_NC still has a row for each dead child.
            parents, first, counts = np.unique(slots_NC[:, number], return_index=True, return_counts=True)
            level = self._levels[number + 1]
            gone = [level.alive_under(int(p)) == count for p, count in zip(parents, counts, strict=True)]
            slots_NC = slots_NC[first[gone]] if len(parents) else slots_NC
            dead.insert(0, slots_NC[:, number])
        return dead

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one .npz; it appears only when it is complete."""
        facts = {"format": _FORMAT, "num_sids": self.num_sids, "sizes": self.level_sizes}
        facts["slots"], facts["widths"] = ([getattr(x, name) for x in self._levels] for name in ("slots", "width"))
        arrays = {f"ids{number}": ids for number, ids in enumerate(self.token_ids)}
        for number, level in enumerate(self._levels):
            parts = {"alive": level.alive, "starts": level.starts, "codes": level.codes}
            arrays |= {f"{name}{number}": part for name, part in parts.items() if part is not None}
        write_npz(pathlib.Path(path), {"facts": np.array(json.dumps(facts)), **arrays})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Trie:
        """Reads what `save` wrote.

        Raises:
          UserError: there is no such file, or it is not a trie.
        """
        with exported_file(path, "a trie"):
            with pathlib.Path(path).open("rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = dict(stored)
            facts = json.loads(str(arrays["facts"]))
            if facts["format"] != _FORMAT:
                raise ValueError(f"format {facts['format']}")
            levels = [
                _Level(size, slots, arrays[f"alive{c}"], arrays.get(f"starts{c}"), arrays.get(f"codes{c}"), width)
                for c, (size, slots, width) in enumerate(
                    zip(facts["sizes"], facts["slots"], facts["widths"], strict=True)
                )
            ]
            return cls(levels, [arrays[f"ids{c}"] for c in range(len(levels))], facts["num_sids"])

    def same_as(self, other: Trie) -> bool:
        """Whether both allow the same SIDs by the same arrays, as tries built of one catalogue do."""
        facts = [[(level.size, level.slots, level.width) for level in trie._levels] for trie in (self, other)]
        arrays = [
            [*trie.token_ids, *(part for level in trie._levels for part in (level.alive, level.starts, level.codes))]
            for trie in (self, other)
        ]
        return (
            self.num_sids == other.num_sids
            and facts[0] == facts[1]
            and all(np.array_equal(one, another) for one, another in zip(*arrays, strict=True))
        )

    def _changed(self) -> None:
        self.__dict__.pop("arrays", None)


def _whole_words(size: int) -> int:
    return size + -size % WORD


def _room(count: int) -> int:
    """Slots of a sparse array for `count` in use: some room to grow, in steps of an eighth of a power of two."""
    step = max(1024, 1 << max(0, count.bit_length() - 4))
    return -(-(count + count // 16) // step) * step


def _set_bits(words: np.ndarray, slots: np.ndarray) -> None:
    np.bitwise_or.at(words, slots // WORD, np.uint32(1) << (slots % WORD).astype(np.uint32))


def _find(level: _Level, parent: int, code: int) -> int:
    """The slot of a code under a parent slot of a sparse level, -1 if there is none."""
    if parent < 0 or level.codes is None:
        return -1
    found = level.children(parent)
    place = found.start + int(np.searchsorted(level.codes[found], code))
    return place if place < found.stop and level.codes[place] == code else -1


def _build(codes_IC: np.ndarray, sizes: tuple[int, ...], before: Sequence[_Level] = ()) -> tuple[list[_Level], int]:
    """All levels and the number of distinct SIDs; arrays as large as those of `before` if they have room."""
    strides = [_whole_words(size) for size in sizes]
    dense = 0
    while dense < len(sizes) and math.prod(strides[: dense + 1]) <= DENSE_SLOTS:
        dense += 1
    if dense < len(sizes):
        codes_IC = sorted_unique(codes_IC, sizes)
    levels = []
    slot_I = np.zeros(len(codes_IC), np.int32)
    for number in range(dense):
        slot_I = slot_I * np.int32(strides[number]) + codes_IC[:, number].astype(np.int32)
        flags = np.zeros(math.prod(strides[: number + 1]), bool)
        flags[slot_I] = True
        alive = np.packbits(flags, bitorder="little").view(np.uint32)
        levels.append(_Level(sizes[number], len(flags), alive, width=sizes[number]))
    if dense == len(sizes):
        return levels, int(flags.sum())
    parents = math.prod(strides[:dense])  # slots of the level above; a sparse level has a start for each
    for number, (parent_M, code_M) in enumerate(prefix_levels(codes_IC[:, dense:], slot_I), dense):
        counts = np.bincount(parent_M, minlength=parents)
        old = before[number] if before else None
        count, widest = len(parent_M), int(counts.max())
        had = 0 if old is None or old.codes is None else len(old.codes)
        room = had if had >= count else _room(count)
        starts = np.full(parents + 1, count, np.int32)
        starts[0] = 0
        np.cumsum(counts, out=starts[1 : len(counts) + 1])
        kind = np.uint8 if sizes[number] <= 1 << 8 else np.uint16 if sizes[number] <= 1 << 16 else np.int32
        codes = np.zeros(room, kind)
        codes[:count] = code_M
        alive = np.packbits(np.arange(_whole_words(room)) < count, bitorder="little").view(np.uint32)
        width = max(old.width if old is not None else 8, min(1 << (widest - 1).bit_length(), sizes[number]))
        levels.append(_Level(sizes[number], count, alive, starts, codes, width))
        parents = room
    return levels, len(codes_IC)
