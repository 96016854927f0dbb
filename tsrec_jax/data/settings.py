"""Settings of the dataset folder and of the training tasks."""

from __future__ import annotations

import dataclasses
from typing import Literal

from tsrec_jax.section import Section, section, setting


@dataclasses.dataclass(frozen=True)
class DatasetSettings(Section, key="dataset"):
    """The dataset folder (docs/dataset.md)."""

    path: str = setting("", "the dataset folder; empty: what `prepare` makes, or the embedded shop")
    name: str = setting("", "NAME of NAME.item.json; empty: the one found in the folder")
    overlaps: Literal["warn", "refuse"] = setting("warn", "what to do with rows that stand in two splits")
    ragged_sids: Literal["refuse", "fill", "drop"] = setting(
        "refuse", "what to do with given SIDs of which some have one token more, to tell equal ones apart"
    )


@dataclasses.dataclass(frozen=True)
class TaskSettings(Section):
    """What every task has."""

    weight: float = setting(1.0, "in the loss; 0: the task is left out", least=0)
    rate: float = setting(1.0, "rows per epoch: 1 shows each row once, 0 leaves the task out", least=0)


@dataclasses.dataclass(frozen=True)
class NextSidSettings(TaskSettings, key="tasks.next_sid"):
    """A history, then the SID of the item bought next."""

    rate: float = setting(
        0.5, "rows per epoch; half of them where a teacher, who has counted them, is asked too", least=0
    )
    user_sequences: bool = setting(
        True, "rows of a user that continue each other as one example; None: as the objective has it"
    )


@dataclasses.dataclass(frozen=True)
class NextTitleSettings(TaskSettings, key="tasks.next_title"):
    """A history, then the title of the item bought next."""

    rate: float = setting(0.0, "rows per epoch; a title costs more tokens than all SIDs of a history", least=0)


@dataclasses.dataclass(frozen=True)
class TitleSidSettings(TaskSettings, key="tasks.title_sid"):
    """The title of an item, then its SID, and back."""

    rate: float = setting(0.05, "rows per epoch", least=0)


@dataclasses.dataclass(frozen=True)
class TsAlignSettings(TaskSettings, key="tasks.ts_align"):
    """TS-Align: a SID token, then the description of its items, and back; its weight is the paper's lambda."""

    rate: float = setting(0.05, "rows per epoch", least=0)


@dataclasses.dataclass(frozen=True)
class AugmentedSidSettings(TaskSettings, key="tasks.augmented_sid"):
    """The histories of `next_sid`, thinned and reversed."""

    rate: float = setting(0.125, "rows per epoch, out of all variants", least=0)
    copies: int = setting(4, "variants of each user's sequence", above=0)


@dataclasses.dataclass(frozen=True)
class DistilledSidSettings(TaskSettings, key="tasks.distilled_sid"):
    """A history, then what a teacher recommends for it."""

    rate: float = setting(0.2, "rows per epoch, out of all copies", least=0)
    teacher: str = setting("hybrid", "a baseline (docs/studies.md), fitted on train before training begins")
    soft_labels: bool = setting(
        True, "learn the teacher's whole ranking instead of one item that is drawn; needs the objective `constrained`"
    )
    copies: int = setting(6, "of each training row", above=0)
    history_length: int = setting(10, "the last items of a row's history that are kept, at most", above=0)
    random_items: float = setting(
        0.2, "share of a history's items that are replaced by random items of the catalogue", least=0, most=1
    )
    targets: int = setting(6, "items that the teacher adds to a history, each of which is learned", above=0)


@dataclasses.dataclass(frozen=True)
class TasksSettings(Section, key="tasks"):
    """The training tasks, in the order of their ids (docs/training.md)."""

    next_sid: NextSidSettings = section(NextSidSettings)
    next_title: NextTitleSettings = section(NextTitleSettings)
    title_sid: TitleSidSettings = section(TitleSidSettings)
    ts_align: TsAlignSettings = section(TsAlignSettings)
    augmented_sid: AugmentedSidSettings = section(AugmentedSidSettings)
    distilled_sid: DistilledSidSettings = section(DistilledSidSettings)

    @property
    def weights(self) -> tuple[float, ...]:
        """Loss weight of each task, by its id."""
        return tuple(float(task.weight) for task in vars(self).values())

    @property
    def rates(self) -> dict[str, float]:
        """Rate of each task in use: those without weight or rate are left out of the data."""
        return {name: float(task.rate) for name, task in vars(self).items() if task.weight > 0 and task.rate > 0}
