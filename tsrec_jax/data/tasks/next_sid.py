"""The task `next_sid`: a history, then the SID of the item that came next."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from tsrec_jax.data.tasks.task import Example, Task, TaskInputs
from tsrec_jax.data.template import Template
from tsrec_jax.data.user_sequences import user_sequences
from tsrec_jax.section import setting


@dataclasses.dataclass(frozen=True)
class NextSid(Task, key="tasks.next_sid"):
    """A history, then the SID of the item bought next."""

    templates: ClassVar = {
        "next_sid": Template("Continue the shopping history.\n", "History: {history}\nNext:", "{sid}")
    }

    rate: float = setting(
        0.5,
        "share of the rows shown per epoch; half of them are enough beside a teacher that has counted them all",
        least=0,
    )
    user_sequences: bool = setting(True, "join a user's rows that continue each other into one example")

    def examples(self, inputs: TaskInputs) -> list[Example]:
        """One for each row, or for each user sequence."""
        if self.user_sequences:
            return self.from_sequences(inputs, user_sequences(inputs.rows))
        answers = [inputs.dataset.catalogue.sid(item) for item in inputs.rows.targets]
        return self.from_template(inputs, "next_sid", inputs.histories(), answers, inputs.row_keys())
