"""The task `ts_align` (TS-Align): a SID token, or the tokens a SID begins with, then what its items share; and back."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from tsrec_jax.data.tasks.task import Example, Task, TaskInputs
from tsrec_jax.data.template import Template
from tsrec_jax.errors import UserError
from tsrec_jax.section import setting


@dataclasses.dataclass(frozen=True)
class TsAlign(Task, key="tasks.ts_align"):
    """TS-Align: a SID token or path, then the description of its items, and back; its weight is the paper's lambda."""

    templates: ClassVar = {
        "token_to_description": Template(
            "Say what items with this code part share.\n", "Part: {token}\nShared:", " {description}"
        ),
        "description_to_token": Template(
            "Find the code part of items like these.\n", "Shared: {description}\nPart:", "{token}"
        ),
    }

    rate: float = setting(
        0.05,
        "share of the examples shown per epoch; there are two for each token or path with words, so words of paths "
        "need a lower rate to be shown as often as words of tokens",
        least=0,
    )

    def examples(self, inputs: TaskInputs) -> list[Example]:
        """Two for each described token or path, whatever the split.

        Raises:
          UserError: there are no descriptions.
        """
        dataset, known = inputs.dataset, inputs.dataset.token_descriptions
        if not known:
            raise UserError(
                f"{dataset.path}/{dataset.name}.description_keywords.json is not there: TS-Align needs its "
                f"descriptions (or set {self.config_key('weight')}=0)"
            )
        place = {token: number for number, token in enumerate(dataset.catalogue.tokens)}
        ordered = sorted(known.values(), key=lambda words: [place[token] for token in words.path])
        names, texts = [words.name for words in ordered], [words.description for words in ordered]
        to, back = ([f"token/{name}/{way}_description" for name in names] for way in ("to", "from"))
        return [
            *self.from_template(inputs, "token_to_description", names, texts, to),
            *self.from_template(inputs, "description_to_token", texts, names, back),
        ]
