"""Where the items of histories stand in packed batches, and where one of them is learned.

Keys that are added to a batch; A, B and T as in `data.input`, S = T / C item slots per row:
  item_sid_BS int32        number of the SID in `Catalogue.items_of_sid`, in row order; -1 for an empty slot
  item_segment_BS int32    segment of the SID
  item_place_BS int32      position in the row of the token before the SID, whose hidden state predicts it
  item_learned_BS bool     whether the SID is to be learned, in a task that asks for the next item
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np

from tsrec_jax.data.catalogue import Catalogue

Batch = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class ItemPlaces:
    """Finds the SIDs of a catalogue in packed batches.

    Attributes:
      first_id: token id of the first SID token.
      levels_n: int32, level of each SID token.
      steps_n: int64, what each SID token contributes to the key of a SID.
      keys_U: int64, the keys of all SIDs, ascending.
      sids_U: int32, the number of the SID of each key.
    """

    first_id: int
    levels_n: np.ndarray
    steps_n: np.ndarray
    keys_U: np.ndarray
    sids_U: np.ndarray

    @classmethod
    def of_catalogue(cls, catalogue: Catalogue, first_id: int) -> ItemPlaces:
        """The SIDs of a catalogue, whose tokens are numbered from `first_id` in the order of `catalogue.tokens`."""
        sizes = np.array([len(tokens) for tokens in catalogue.level_tokens], np.int64)
        stride_C = np.append(np.cumprod(sizes[:0:-1])[::-1], 1)
        steps_n = np.concatenate([stride * np.arange(size) for stride, size in zip(stride_C, sizes, strict=True)])
        keys_U, item_U = np.unique(catalogue.codes_IC.astype(np.int64) @ stride_C, return_index=True)
        return cls(first_id, catalogue.token_levels, steps_n, keys_U, catalogue.sid_numbers_I[item_U])

    def add(self, batch: Batch, tasks: Collection[int]) -> dict[str, np.ndarray]:
        """Returns a packed batch, with or without an accumulation axis, plus the keys above.

        Args:
          batch: a batch of `data.input`.
          tasks: numbers of the tasks that ask for the next item.
        """
        tokens_RT = batch["tokens_BT"].reshape(-1, batch["tokens_BT"].shape[-1])
        segments_RT = batch["segment_ids_BT"].reshape(tokens_RT.shape)
        row_M, start_M, sid_M = self._found(tokens_RT, segments_RT)
        slot_M = np.arange(len(row_M)) - np.searchsorted(row_M, row_M)
        before_M = np.maximum(start_M - 1, 0)
        slots = tokens_RT.shape[1] // (int(self.levels_n[-1]) + 1)
        values = {
            "item_sid_BS": (sid_M, -1),
            "item_segment_BS": (segments_RT[row_M, start_M], 0),
            "item_place_BS": (before_M, 0),
            "item_learned_BS": (self._asked(batch, tasks, tokens_RT.shape)[row_M, before_M] & (start_M > 0), False),
        }
        added = {}
        for name, (value_M, empty) in values.items():
            array_RS = np.full((len(tokens_RT), slots), empty, bool if value_M.dtype == bool else np.int32)
            array_RS[row_M, slot_M] = value_M
            added[name] = array_RS.reshape(*batch["tokens_BT"].shape[:-1], slots)
        return {**batch, **added}

    def _found(self, tokens_RT: np.ndarray, segments_RT: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row, position and number of each SID, in the order of rows and positions."""
        levels = int(self.levels_n[-1]) + 1
        place_RT = tokens_RT.astype(np.int64) - self.first_id
        inside_RT = (place_RT >= 0) & (place_RT < len(self.levels_n))
        place_RT = np.where(inside_RT, place_RT, 0)
        level_RT = np.where(inside_RT, self.levels_n[place_RT], -1)
        width = tokens_RT.shape[1] - levels + 1
        whole_Rt = segments_RT[:, :width] == segments_RT[:, levels - 1 :]
        key_Rt = np.zeros(whole_Rt.shape, np.int64)
        for level in range(levels):
            there = slice(level, level + width)
            whole_Rt &= level_RT[:, there] == level
            key_Rt += self.steps_n[place_RT[:, there]]
        row_M, start_M = np.nonzero(whole_Rt)
        key_M = key_Rt[row_M, start_M]
        where_M = np.minimum(np.searchsorted(self.keys_U, key_M), len(self.keys_U) - 1)
        known_M = self.keys_U[where_M] == key_M
        return row_M[known_M], start_M[known_M], self.sids_U[where_M[known_M]]

    @staticmethod
    def _asked(batch: Batch, tasks: Collection[int], shape: tuple[int, int]) -> np.ndarray:
        """bool (rows, T): whether one of the tasks learns the token after a position."""
        task_GP = batch["loss_task_GP"].reshape(-1, batch["loss_task_GP"].shape[-1])
        index_GP = batch["loss_index_GP"].reshape(task_GP.shape)
        asked_GS = np.zeros((len(task_GP), shape[0] // len(task_GP) * shape[1]), bool)
        group_M, slot_M = np.nonzero(np.isin(task_GP, list(tasks)))
        asked_GS[group_M, index_GP[group_M, slot_M]] = True
        asked_RT = asked_GS.reshape(shape)
        if "sid_task_BT" in batch:
            asked_RT |= np.isin(batch["sid_task_BT"].reshape(shape), list(tasks))
        return asked_RT
