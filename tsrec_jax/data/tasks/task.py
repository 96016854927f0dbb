"""What a training task is: its settings, its wording, and the examples that it makes from a dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from tsrec_jax.data.dataset import Dataset
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.template import Template
from tsrec_jax.data.user_sequences import ItemSequence
from tsrec_jax.errors import UserError
from tsrec_jax.section import Section, setting

if TYPE_CHECKING:
    from tsrec_jax.data.prompts import PromptBuilder

Rank = Callable[[Sequence[Sequence[int]]], np.ndarray]  # from B histories to int32 best_BR, items, best first


@dataclasses.dataclass(frozen=True)
class Example:
    """One tokenised row.

    Attributes:
      task: name of its task.
      tokens: int32 prompt and completion.
      prompt_length: tokens that carry no loss; at least 1.
      key: where the row comes from, as in `train/123` or `item/42/title_to_sid`.
      ranked: int32, for each SID that is learned, the SIDs it was drawn from, best first and the same number for each:
        their tokens, as positions in `Catalogue.tokens`, one after the other; empty if only the row itself is right.
    """

    task: str
    tokens: np.ndarray
    prompt_length: int
    key: str
    ranked: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))


def _no_teacher(name: str) -> Rank:
    raise ValueError(f"no teacher {name!r} is at hand")


def _no_texts(count: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    raise ValueError("nothing compares texts here")


@dataclasses.dataclass(frozen=True)
class TaskInputs:
    """What tasks make their examples from.

    Attributes:
      dataset: the data.
      split: the rows to learn: `train`, `valid`, `test` or `select`.
      builder: the prompts.
      seed: seed of random choices.
      teacher: maps the name of a baseline to what it recommends, fitted on train.
      nearest: `text.likeness.nearest_items` of the catalogue, given the number of neighbours and the sharpness.
    """

    dataset: Dataset
    split: str
    builder: PromptBuilder
    seed: int = 0
    teacher: Callable[[str], Rank] = _no_teacher
    nearest: Callable[[int, float], tuple[np.ndarray, np.ndarray]] = _no_texts

    @property
    def rows(self) -> Interactions:
        """The rows of the split."""
        return self.dataset.splits[self.split]

    def histories(self) -> list[str]:
        """The history of each row, as prompts carry it."""
        sid = self.dataset.catalogue.sid
        return [self.builder.history([sid(item) for item in history]) for history in self.rows.histories]

    def row_keys(self) -> list[str]:
        """The key of each row."""
        return [f"{self.split}/{row}" for row in range(len(self.rows))]


@dataclasses.dataclass(frozen=True)
class Task(Section):
    """A training task; a subclass has a file of its own and is a field of `TasksSettings`.

    The fields are its settings, `config.tasks.NAME`.

    Attributes:
      templates: the wording of its prompts, by a name that no other task has; a task of SID sequences has none, since
        it uses the prompt of `next_sid`.
    """

    templates: ClassVar[Mapping[str, Template]] = {}

    weight: float = setting(1.0, "weight of the task in the loss; 0: the task is left out", least=0)
    rate: float = setting(
        1.0, "share of the examples shown per epoch, above 1 with repeats; 0: the task is left out", least=0
    )

    def examples(self, inputs: TaskInputs) -> list[Example]:
        """Tokenises the rows of the task."""
        raise NotImplementedError

    @property
    def label(self) -> str:
        """Name of the task."""
        return self.key.removeprefix("tasks.")

    def from_template(
        self, inputs: TaskInputs, template: str, texts: Sequence[str], answers: Sequence[str], keys: Sequence[str]
    ) -> list[Example]:
        """An example for each text and its answer, from the template of that name."""
        builder = inputs.builder
        pairs = zip(builder.prompts(template, texts), builder.completions(template, answers), keys, strict=True)
        return [self._example(builder, prompt, completion, key) for prompt, completion, key in pairs]

    def from_sequences(self, inputs: TaskInputs, sequences: Sequence[ItemSequence]) -> list[Example]:
        """An example for each sequence of items: their SIDs, learned from its first target on.

        Raises:
          UserError: prompts cannot be continued, or more is to be learned at once than a row holds.
        """
        catalogue, builder = inputs.dataset.catalogue, inputs.builder
        sids = [[catalogue.sid(item) for item in sequence.items] for sequence in sequences]
        pairs = builder.sequences(sids, [sequence.first for sequence in sequences])
        found = []
        for number, (sequence, (prompt, completion)) in enumerate(zip(sequences, pairs, strict=True)):
            key = f"{inputs.split}/{','.join(map(str, sequence.rows))}/{number}"
            ranked = catalogue.tokens_IC[sequence.ranked.reshape(-1)].reshape(-1)
            if len(ranked) and len(completion) >= builder.max_length:
                raise UserError(
                    f"{key}: {len(completion)} tokens are to be learned at once, and a row holds {builder.max_length}; "
                    f"lower {self.config_key('targets')}"
                )
            found.append(self._example(builder, prompt, completion, key, ranked))
        return found

    def _example(
        self,
        builder: PromptBuilder,
        prompt: Sequence[int],
        completion: Sequence[int],
        key: str,
        ranked: np.ndarray | None = None,
    ) -> Example:
        tokens = np.array([*prompt, *completion][-builder.max_length :], np.int32)
        start = max(1, len(tokens) - len(completion))
        return Example(self.label, tokens, start, key, np.zeros(0, np.int32) if ranked is None else ranked)
