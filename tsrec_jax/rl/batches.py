"""Prompts by number: batch n is a function of n, as in training, so that the stage resumes by its step.

Axis letters: A micro-batches, B prompts, T tokens, C levels, M items of the teacher.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np

from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.prompts import PromptBuilder

Rank = Callable[[Interactions], np.ndarray]  # rows to int32 items_BM, best first; does not look at their targets


@dataclasses.dataclass(frozen=True, eq=False)
class PromptBatches:
    """Shuffled rows of train as prompts, each row once per epoch; a batch may continue into the next epoch.

    Attributes:
      rows: histories and targets.
      catalogue: gives their SIDs.
      builder: makes the prompts.
      prompts: prompts per step, over all processes.
      accumulation: micro-batches per step.
      length: the length to which all prompts are padded (`longest_prompt`).
      seed: the seed of the order.
      part: the numbers of the prompts that this process feeds to a micro-batch.
      rank: the teacher's ranking; None: there is no teacher.
      teacher_items: M.
    """

    rows: Interactions
    catalogue: Catalogue
    builder: PromptBuilder
    prompts: int
    accumulation: int
    length: int
    seed: int
    part: np.ndarray
    rank: Rank | None = None
    teacher_items: int = 0

    @functools.cached_property
    def _carriers_I(self) -> np.ndarray:
        """float32, for each item the number of items that carry its SID."""
        numbers_I = self.catalogue.sid_numbers_I
        return np.bincount(numbers_I)[numbers_I].astype(np.float32)

    def from_step(self, step: int) -> Iterator[dict[str, np.ndarray]]:
        """An endless iterator whose first batch is for step `step` + 1."""
        while True:
            step += 1
            yield self.batch(step)

    def keys(self, step: int) -> list[str]:
        """The rows of a step (from 1), of all processes."""
        return [f"train/{number}" for number in self.numbers(step)]

    def numbers(self, step: int) -> np.ndarray:
        """Row numbers of a step (from 1)."""
        at = np.arange((step - 1) * self.prompts, step * self.prompts)
        epochs = {epoch: self._order(epoch) for epoch in np.unique(at // len(self.rows)).tolist()}
        return np.array([epochs[place // len(self.rows)][place % len(self.rows)] for place in at.tolist()])

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.rows))

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This process's prompts of a step (from 1).

        Returns:
          int32 `tokens_BT` and `segment_ids_BT` (1 on a prompt, 0 on its padding), `lengths_B`, `target_BC`, float32
          `items_B` (items that carry the target's SID), and the teacher's `teacher_BMC` and float32 `teacher_gain_BM`
          (discount of the place, divided by the number of items that carry the SID; 0: nothing there), all with a
          leading axis A.
        """
        micros = self.numbers(step).reshape(self.accumulation, -1)[:, self.part]
        rows = self.rows.take(micros.reshape(-1))
        catalogue = self.catalogue
        histories = [[catalogue.sid(item) for item in history] for history in rows.histories]
        prompts = self.builder.prompts_next_sid(histories, catalogue.num_levels)
        tokens_BT = np.zeros((len(prompts), self.length), np.int32)
        for row, prompt in enumerate(prompts):
            tokens_BT[row, : len(prompt)] = prompt
        lengths_B = np.array([len(prompt) for prompt in prompts], np.int32)
        codes_IC = np.asarray(catalogue.codes_IC, np.int32)
        teacher_BMC, gain_BM = self._teacher(rows, codes_IC)
        found = {
            "tokens_BT": tokens_BT,
            "segment_ids_BT": (np.arange(self.length) < lengths_B[:, None]).astype(np.int32),
            "lengths_B": lengths_B,
            "target_BC": codes_IC[rows.targets],
            "items_B": self._carriers_I[rows.targets],
            "teacher_BMC": teacher_BMC,
            "teacher_gain_BM": gain_BM,
        }
        return {name: array.reshape(*micros.shape, *array.shape[1:]) for name, array in found.items()}

    def _teacher(self, rows: Interactions, codes_IC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes of the teacher's best items and their gains; a catalogue may have fewer items than places."""
        codes_BMC = np.repeat(codes_IC[rows.targets][:, None], self.teacher_items, axis=1)
        gain_BM = np.zeros(codes_BMC.shape[:2], np.float32)
        if self.rank is not None:
            items_BM = self.rank(rows)[:, : self.teacher_items]
            codes_BMC[:, : items_BM.shape[1]] = codes_IC[items_BM]
            discount_M = 1 / np.log2(2 + np.arange(items_BM.shape[1]))
            gain_BM[:, : items_BM.shape[1]] = discount_M / self._carriers_I[items_BM]
        return codes_BMC, gain_BM


def longest_prompt(builder: PromptBuilder, catalogue: Catalogue, rows: Interactions, chunk: int = 1024) -> int:
    """Tokens of the longest prompt of some rows, rounded up to a multiple of 16."""
    longest = 1
    for start in range(0, len(rows), chunk):
        histories = [[catalogue.sid(item) for item in history] for history in rows.histories[start : start + chunk]]
        longest = max(longest, *map(len, builder.prompts_next_sid(histories, catalogue.num_levels)))
    return -(-longest // 16) * 16
