"""Objectives and rewards by name, separate from their code, so that a config is read and checked without JAX.

A new one is a function, and a row here.
"""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Objective:
    """A row of the table of objectives.

    Attributes:
      entry: "module:name" of its function (`terms.ObjectiveFunction`), imported only when it is used.
      reference: whether it reads the log-probabilities of the starting model.
      candidates: whether it reads SIDs other than the target's.
    """

    entry: str
    reference: bool = False
    candidates: bool = True

    def load(self) -> Callable[..., Any]:
        """What `entry` names."""
        return pkgutil.resolve_name(self.entry)


@dataclasses.dataclass(frozen=True)
class Reward:
    """A row of the table of rewards.

    Attributes:
      entry: "module:name" of its function (`terms.RewardFunction`).
      teacher: whether it reads a teacher's ranking.
      vectors: whether it reads vectors of the items.
    """

    entry: str
    teacher: bool = False
    vectors: bool = False

    def load(self) -> Callable[..., Any]:
        """What `entry` names."""
        return pkgutil.resolve_name(self.entry)


OBJECTIVES: dict[str, Objective] = {
    "utility": Objective("tsrec_jax.rl.objectives.utility:utility"),
    "list": Objective("tsrec_jax.rl.objectives.edge_list:edge_list"),
    "grpo": Objective("tsrec_jax.rl.objectives.grpo:grpo"),
    "dpo": Objective("tsrec_jax.rl.objectives.dpo:dpo", reference=True),
    "sft": Objective("tsrec_jax.rl.objectives.sft:sft", candidates=False),
}
REWARDS: dict[str, Reward] = {
    "rule": Reward("tsrec_jax.rl.rewards:rule"),
    "ranking": Reward("tsrec_jax.rl.rewards:ranking"),
    "prefix": Reward("tsrec_jax.rl.rewards:prefix"),
    "teacher": Reward("tsrec_jax.rl.rewards:teacher", teacher=True),
    "likeness": Reward("tsrec_jax.rl.rewards:likeness", vectors=True),
    "random": Reward("tsrec_jax.rl.rewards:random"),
}
