"""The training tasks. A new one is a file with a subclass of `Task` and a field of `TasksSettings`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from tsrec_jax.data.tasks.augmented_sid import AugmentedSid
from tsrec_jax.data.tasks.distilled_sid import DistilledSid
from tsrec_jax.data.tasks.next_sid import NextSid
from tsrec_jax.data.tasks.next_title import NextTitle
from tsrec_jax.data.tasks.task import Example, Task, TaskInputs
from tsrec_jax.data.tasks.title_sid import TitleSid
from tsrec_jax.data.tasks.ts_align import TsAlign
from tsrec_jax.section import Section, section


@dataclasses.dataclass(frozen=True)
class TasksSettings(Section, key="tasks"):
    """The training tasks. Their order and the seed decide how each is shuffled, so that a new one comes last."""

    distilled_sid: DistilledSid = section(DistilledSid)
    next_sid: NextSid = section(NextSid)
    next_title: NextTitle = section(NextTitle)
    title_sid: TitleSid = section(TitleSid)
    ts_align: TsAlign = section(TsAlign)
    augmented_sid: AugmentedSid = section(AugmentedSid)

    def used(self) -> dict[str, Task]:
        """{name: task} of the tasks that are learned, in table order, which is how batches number them."""
        return {name: task for name, task in vars(self).items() if task.weight > 0 and task.rate > 0}

    @property
    def weights(self) -> dict[str, float]:
        """Loss weight of each task in use."""
        return {name: task.weight for name, task in self.used().items()}

    @property
    def rates(self) -> dict[str, float]:
        """Rows per epoch of each task in use, as a multiple of its rows."""
        return {name: task.rate for name, task in self.used().items()}


def build_examples(tasks: Mapping[str, Task], inputs: TaskInputs) -> dict[str, list[Example]]:
    """{name: tokenised rows} of some tasks."""
    return {name: task.examples(inputs) for name, task in tasks.items()}


# The wording of all prompts, by the names of their templates.
TEMPLATES = {name: template for task in vars(TasksSettings()).values() for name, template in task.templates.items()}
