"""The task `augmented_sid`: users' sequences as they might have been, thinned and half of them backwards."""

from __future__ import annotations

import dataclasses

import numpy as np

from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.tasks.task import Example, Task, TaskInputs
from tsrec_jax.data.user_sequences import ItemSequence, user_sequences
from tsrec_jax.section import setting

KEEP = 0.7  # share of a sequence's items that is kept, in expectation; chosen on the valid split of Industrial
REVERSED = 0.5  # share of the sequences


@dataclasses.dataclass(frozen=True)
class AugmentedSid(Task, key="tasks.augmented_sid"):
    """The histories of `next_sid`, thinned and reversed."""

    rate: float = setting(0.125, "share of all variants shown per epoch", least=0)
    copies: int = setting(4, "number of variants of each user's sequence", above=0)

    def examples(self, inputs: TaskInputs) -> list[Example]:
        """One for each variant."""
        return self.from_sequences(inputs, self.variants(inputs.rows, inputs.seed))

    def variants(self, rows: Interactions, seed: int) -> list[ItemSequence]:
        """Sequences as users might have made them; all items but the first are learned.

        Items bought together say something about each other in both directions and across gaps, and for most users only
        a few purchases are known.
        """
        rng = np.random.default_rng(seed)
        found = []
        for _ in range(self.copies):
            for sequence in user_sequences(rows):
                items = np.array(sequence.items)
                kept = items[rng.random(len(items)) < KEEP]
                kept = kept if len(kept) > 1 else items
                kept = kept[::-1] if rng.random() < REVERSED else kept
                found.append(ItemSequence(tuple(kept.tolist()), 1, sequence.rows))
        return found
