"""The task `title_sid`: the title of an item, then its SID, and back."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from tsrec_jax.data.tasks.task import Example, Task, TaskInputs
from tsrec_jax.data.template import Template
from tsrec_jax.section import setting


@dataclasses.dataclass(frozen=True)
class TitleSid(Task, key="tasks.title_sid"):
    """The title of an item, then its SID, and back."""

    templates: ClassVar = {
        "title_to_sid": Template("Give the code of this item.\n", "Title: {title}\nCode:", "{sid}"),
        "sid_to_title": Template("Name the item behind this code.\n", "Code: {sid}\nTitle:", " {title}"),
    }

    rate: float = setting(0.05, "share of the examples shown per epoch", least=0)

    def examples(self, inputs: TaskInputs) -> list[Example]:
        """Two for each item of the catalogue, whatever the split."""
        catalogue = inputs.dataset.catalogue
        titles = [item.title for item in catalogue.items]
        sids = [catalogue.sid(item) for item in range(catalogue.num_items)]
        return [
            example
            for template, texts, answers in (("title_to_sid", titles, sids), ("sid_to_title", sids, titles))
            for example in self.from_template(
                inputs, template, texts, answers, [f"item/{item.id}/{template}" for item in catalogue.items]
            )
        ]
