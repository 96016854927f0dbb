"""Settings of the teacher: which backend it uses, what it may cost, how it asks."""

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
        "auto",
        "whether words are taken from the folder (`given`) or made; `auto`: taken where the folder has them and "
        "its SIDs are used; `none`: there are no words",
    )
    backend: str = setting(
        "offline",
        "teacher that finds the words: `offline` picks telling terms from the item texts, `file` reads a file, "
        "and the others ask a model over the network",
        choices=BACKENDS,
    )
    unit: Unit = setting(
        "token",
        "what gets words: every token, or every path of tokens that a SID begins with, told apart from its siblings; "
        "paths are many times as many, see `tasks.ts_align.rate`",
    )
    least_items: int = setting(
        2, "paths with fewer items than this get their words from `offline` instead of a model", above=0
    )
    model: str = setting("", "name of the model at its provider")
    base_url: str = setting("", "address of the server; empty: the SDK's default")
    path: str = setting("", "for the backend `file`: the description_keywords.json to read")
    items_per_token: int = setting(40, "largest number of a token's items that a prompt shows", above=0)
    num_keywords: int = setting(
        20, "number of keywords to ask a model for; also the most that `offline` gives", above=0
    )
    description_chars: int = setting(300, "number of characters of an item's description that a prompt shows", least=0)
    concurrency: int = setting(8, "number of questions under way at the same time", above=0)
    requests_per_minute: float = setting(
        0.0, "largest number of requests per minute, evenly spaced; 0: no limit", least=0
    )
    max_attempts: int = setting(5, "number of times a question is asked before it counts as failed", above=0)
    timeout_seconds: float = setting(60.0, "timeout of one request, in seconds", above=0)
    temperature: float = setting(0.0, "sampling temperature of the model; below 0: the server's default")
    answer_format: Literal["schema", "object", "text"] = setting(
        "schema",
        "openai only: ask for JSON that follows a schema, for any JSON object, or for plain text where the server"
        " supports neither",
    )
    input_price: float = setting(0.0, "price of a million input tokens, in any currency; 0: unknown", least=0)
    output_price: float = setting(0.0, "price of a million output tokens, in the same currency; 0: unknown", least=0)
    max_questions: int = setting(
        0, "largest number of questions asked over all runs of a workdir, repeats included; 0: no limit", least=0
    )
    max_cost: float = setting(
        0.0, "largest total cost of these questions, in the currency of the prices; 0: no limit", least=0
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
