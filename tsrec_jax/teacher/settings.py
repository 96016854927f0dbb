"""What a run of the teacher is told: which backend, what it may cost, how it asks."""

from __future__ import annotations

import dataclasses
from typing import Literal

from tsrec_jax.errors import UserError
from tsrec_jax.section import Section, setting
from tsrec_jax.teacher.backends import BACKENDS
from tsrec_jax.teacher.groups import Unit


@dataclasses.dataclass(frozen=True)
class DescribeSettings(Section, key="describe"):
    """Words for the SID tokens (docs/upstream.md); the network settings are read by the backends that ask a model."""

    words: Literal["auto", "given", "make", "none"] = setting(
        "auto", "`auto`: given where the folder has them and its SIDs are used, else made"
    )
    backend: str = setting(
        "offline",
        "teacher: `offline` picks telling terms from the items' texts, `file` reads a file, the others ask a model "
        "over the network",
        choices=BACKENDS,
    )
    unit: Unit = setting(
        "token", "what is described: every token, or every path of tokens with which a SID begins, beside its siblings"
    )
    least_items: int = setting(
        2, "paths of fewer items are not asked of a model; they get the words that `offline` finds in these", above=0
    )
    model: str = setting("", "its name at the provider")
    base_url: str = setting("", "of the server; empty: the SDK's own")
    path: str = setting("", "backend `file`: a description_keywords.json")
    items_per_token: int = setting(40, "most items of a cluster that a prompt shows", above=0)
    num_keywords: int = setting(20, "keywords asked for of a model, or most keywords given by `offline`", above=0)
    description_chars: int = setting(300, "characters of an item's description that a prompt shows", least=0)
    concurrency: int = setting(8, "questions under way at the same time", above=0)
    requests_per_minute: float = setting(0.0, "upper limit, evenly spaced; 0: none", least=0)
    max_attempts: int = setting(5, "times one question is asked before it counts as failed", above=0)
    timeout_seconds: float = setting(60.0, "of one request", above=0)
    temperature: float = setting(0.0, "of the model; below 0: not sent, so that the server's own default holds")
    answer_format: Literal["schema", "object", "text"] = setting(
        "schema", "openai: JSON by a schema, as any JSON object, or in words alone, for servers that know no more"
    )
    input_price: float = setting(0.0, "of a million tokens, in any currency; 0: unknown", least=0)
    output_price: float = setting(0.0, "the same of the answers", least=0)
    max_questions: int = setting(
        0, "most questions that are asked over all runs of a workdir, repetitions among them; 0: no limit", least=0
    )
    max_cost: float = setting(
        0.0, "most that their answers may cost, in the currency of the prices; 0: no limit", least=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_cost and not (self.input_price or self.output_price):
            raise UserError(
                f"config.describe.max_cost={self.max_cost} needs the prices: set config.describe.input_price and "
                "output_price, for a million tokens"
            )
        needs = BACKENDS[self.backend].needs
        if needs and not getattr(self, needs[0]):
            raise UserError(f"config.describe.{needs[0]} is empty; the backend {self.backend!r} needs {needs[1]}")

    @property
    def asks_a_model(self) -> bool:
        """Whether the backend sends questions over the network."""
        return BACKENDS[self.backend].asks_a_model
