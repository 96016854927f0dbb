"""A decoding problem that every method solves: identical weights, catalogue and prompts in, ranked SIDs out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from tsrec_jax.models.decoder import Decoder


@dataclasses.dataclass(frozen=True)
class Lists:
    """Ranked SIDs of every request, best first.

    Attributes:
      codes_BWC: int32 codes; meaningless where the score is -inf.
      scores_BW: float32 log-probabilities in nats.
    """

    codes_BWC: np.ndarray
    scores_BW: np.ndarray


Method = Callable[[], Lists]  # one whole search, from host tokens to host lists


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is searched.

    Attributes:
      name: of the case, for reports.
      model: the decoder; `num_tokens` ids are in use.
      codes_NC: codes of the items, in rows; repeated rows are one SID.
      level_sizes: codes of each level.
      first_id: vocabulary id of the first SID token; the levels' tokens follow one another.
      prompts: token ids of each request.
      shared: leading tokens that all prompts of the service have in common; methods may keep their keys and values.
    """

    name: str
    model: Decoder
    codes_NC: np.ndarray
    level_sizes: tuple[int, ...]
    first_id: int
    prompts: Sequence[Sequence[int]]
    shared: int = 0

    @property
    def num_levels(self) -> int:
        """Codes of a SID (C)."""
        return len(self.level_sizes)

    @property
    def num_tokens(self) -> int:
        """Vocabulary ids in use."""
        return self.model.num_tokens or self.model.config.vocab_rows

    @property
    def first_ids(self) -> list[int]:
        """Vocabulary id of each level's code 0."""
        return [self.first_id + sum(self.level_sizes[:level]) for level in range(self.num_levels)]

    @property
    def token_ids(self) -> list[np.ndarray]:
        """Vocabulary ids of each level's codes."""
        pairs = zip(self.first_ids, self.level_sizes, strict=True)
        return [np.arange(first, first + size, dtype=np.int32) for first, size in pairs]

    @property
    def nodes(self) -> list[int]:
        """Distinct prefixes of 1, 2, ... codes: no search can hold more live beams after that level."""
        return [len(np.unique(self.codes_NC[:, :depth], axis=0)) for depth in range(1, self.num_levels + 1)]

    def padded_behind(self, skip: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """(tokens_BS, lengths_B) of the prompts without their first `skip` tokens, zeros at the end."""
        rows = [prompt[skip:] for prompt in self.prompts]
        tokens_BS = np.zeros((len(rows), max(map(len, rows))), np.int32)
        for row, prompt in enumerate(rows):
            tokens_BS[row, : len(prompt)] = prompt
        return tokens_BS, np.array([len(row) for row in rows], np.int32)

    def padded_before(self) -> tuple[np.ndarray, np.ndarray]:
        """(tokens_BS, lengths_B) of the prompts, zeros at the start."""
        lengths_B = np.array([len(prompt) for prompt in self.prompts], np.int32)
        tokens_BS = np.zeros((len(self.prompts), lengths_B.max()), np.int32)
        for row, prompt in enumerate(self.prompts):
            tokens_BS[row, -len(prompt) :] = prompt
        return tokens_BS, lengths_B


def dense_tables(codes_NC: np.ndarray, level_sizes: Sequence[int]) -> list[np.ndarray]:
    """The trie as int32 tables (nodes of the level, codes): the child's number on the next level, -1 where none is.

    This is what a user writes who holds a catalogue of a few thousand items; the peers use it.
    """
    sids_NC = np.unique(np.asarray(codes_NC, np.int64), axis=0)
    tables = []
    parents_N = np.zeros(len(sids_NC), np.int64)
    nodes = 1
    for level, size in enumerate(level_sizes):
        keys, parents_N = np.unique(parents_N * size + sids_NC[:, level], return_inverse=True)
        table = np.full(nodes * size, -1, np.int32)
        table[keys] = np.arange(len(keys), dtype=np.int32)
        tables.append(table.reshape(nodes, size))
        nodes = len(keys)
    return tables
