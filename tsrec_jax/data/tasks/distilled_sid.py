"""The task `distilled_sid`: a history, then what a teacher recommends for it."""

from __future__ import annotations

import dataclasses

import numpy as np

from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.tasks.task import Example, Rank, Task, TaskInputs
from tsrec_jax.data.user_sequences import ItemSequence
from tsrec_jax.section import setting

NEAREST = 20  # items with similar texts to choose from, in proportion to cosine ** SHARPNESS
SHARPNESS = 3.0
SWAPPED = 0.3  # share of a history's items that are replaced by one with a similar text
CHUNK = 512  # histories that a teacher ranks at a time


@dataclasses.dataclass(frozen=True)
class DistilledSid(Task, key="tasks.distilled_sid"):
    """A history, then what a teacher recommends for it."""

    rate: float = setting(0.2, "share of all copies shown per epoch", least=0)
    teacher: str = setting(
        "hybrid",
        "baseline to learn from, one of those listed at `study.baselines`; it is fitted on train before training "
        "begins",
    )
    soft_labels: bool = setting(
        True, "learn the teacher's whole ranking instead of one item drawn from it; needs the objective `constrained`"
    )
    copies: int = setting(6, "number of altered copies of each training row", above=0)
    history_length: int = setting(10, "largest number of a row's last items that a copy keeps", above=0)
    random_items: float = setting(
        0.2, "share of a history's items that are replaced by random items of the catalogue", least=0, most=1
    )
    targets: int = setting(6, "number of items that the teacher adds to a history, each of which is learned", above=0)

    def examples(self, inputs: TaskInputs) -> list[Example]:
        """One for each copy of each row."""
        near = inputs.nearest(NEAREST, SHARPNESS)
        return self.from_sequences(
            inputs, self.sequences(inputs.rows, inputs.teacher(self.teacher), *near, inputs.seed)
        )

    def sequences(
        self, rows: Interactions, rank: Rank, nearest_IN: np.ndarray, chances_IN: np.ndarray, seed: int
    ) -> list[ItemSequence]:
        """Histories continued with items that a teacher ranks high for them; only these items are learned.

        Knowledge distillation on sequences (arXiv 1606.07947): the item at place r is chosen with a chance in
        proportion to 1 / r, and each further one by the ranking for the history with the items before it at its end. A
        history is the last 1 to `history_length` items of a row, in which a share `random_items` of the items is
        replaced by any items, and SWAPPED of the others by items with similar texts, so that the teacher is also asked
        about items that train's histories lack.

        Args:
          rows: train's rows; their histories and targets make the histories.
          rank: the teacher.
          nearest_IN, chances_IN: the items nearest to each item, and how likely each is to be chosen; all 0 for an item
            that resembles no other.
          seed: seed of the choices.
        """
        rng = np.random.default_rng(seed)
        cumulative_IN = np.cumsum(chances_IN, axis=1)

        def swapped(item: int) -> int:
            if self.random_items and rng.random() < self.random_items:
                return int(rng.integers(len(nearest_IN)))
            if rng.random() < SWAPPED and cumulative_IN[item, -1] > 0:
                chance = rng.random() * cumulative_IN[item, -1]
                return int(nearest_IN[item, np.searchsorted(cumulative_IN[item], chance, side="right")])
            return item

        whole = [(*history, int(target)) for history, target in zip(rows.histories, rows.targets, strict=True)]
        asked = [*range(len(whole))] * self.copies
        found = []
        for start in range(0, len(asked), CHUNK):
            numbers = asked[start : start + CHUNK]
            histories = [whole[row][-int(rng.integers(1, self.history_length + 1)) :] for row in numbers]
            items = histories = [tuple(map(swapped, history)) for history in histories]
            rankings = []
            for _ in range(self.targets):
                best_BR = rank(items)
                rankings.append(best_BR)
                chance_R = 1 / np.arange(1, best_BR.shape[1] + 1)
                place_B = rng.choice(len(chance_R), len(items), p=chance_R / chance_R.sum())
                drawn_B = np.take_along_axis(best_BR, place_B[:, None], axis=1)[:, 0].tolist()
                items = [(*before, item) for before, item in zip(items, drawn_B, strict=True)]
            ranked_BMR = np.stack(rankings, axis=1)[:, :, : None if self.soft_labels else 0]
            for row, history, one, ranked_MR in zip(numbers, histories, items, ranked_BMR, strict=True):
                found.append(ItemSequence(one, len(history), (row,), ranked_MR))
        return found
