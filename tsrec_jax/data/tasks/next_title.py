"""The task `next_title`: a history, then the title of the item that came next."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from tsrec_jax.data.tasks.task import Example, Task, TaskInputs
from tsrec_jax.data.template import Template
from tsrec_jax.section import setting


@dataclasses.dataclass(frozen=True)
class NextTitle(Task, key="tasks.next_title"):
    """A history, then the title of the item bought next."""

    templates: ClassVar = {
        "next_title": Template("Name what is bought next.\n", "History: {history}\nTitle:", " {title}")
    }

    rate: float = setting(
        0.0, "share of the rows shown per epoch; a title costs more tokens than all SIDs of a history", least=0
    )

    def examples(self, inputs: TaskInputs) -> list[Example]:
        """One for each row."""
        answers = [inputs.dataset.catalogue.items[item].title for item in inputs.rows.targets]
        return self.from_template(inputs, "next_title", inputs.histories(), answers, inputs.row_keys())
