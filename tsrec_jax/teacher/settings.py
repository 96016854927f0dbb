"""What a run of the teacher is told: which backend, what it may cost, how it asks."""

from __future__ import annotations

import dataclasses
import difflib
import math

from tsrec_jax.errors import UserError

LOCAL_BACKENDS = ("offline", "file")
NETWORK_BACKENDS = ("gemini", "gemini_legacy", "openai")
BACKENDS = (*LOCAL_BACKENDS, *NETWORK_BACKENDS)
ANSWER_FORMATS = ("schema", "object", "text")


@dataclasses.dataclass(frozen=True)
class TeacherSettings:
    """Settings of `describe`; the network ones are read by the backends that ask a model.

    Attributes:
      backend: one of BACKENDS.
      model: name of the model to ask.
      base_url: of the server; empty: the SDK's own.
      path: of the file that the backend `file` reads.
      items_per_token: most items of a cluster that a prompt shows.
      num_keywords: keywords asked for (of a model) or most keywords given (by `offline`).
      description_chars: characters of an item's description that a prompt shows.
      concurrency: questions under way at the same time.
      requests_per_minute: upper limit, evenly spaced; 0: none.
      max_attempts: times one question is asked before it counts as failed.
      timeout_seconds: of one request.
      temperature: of the model; below 0: not sent, so that the server's own default holds.
      answer_format: how the backend `openai` asks for JSON: by a JSON schema, as "any JSON object", or in words alone,
        for servers that know no more.
      max_questions: most questions that are asked, those of earlier runs of a workdir and repetitions among them; 0: no
        limit.
      max_cost: most that the answers may cost, those of earlier runs among them, in the currency of the prices; 0: no
        limit.
      input_price, output_price: for a million tokens, in any currency; 0: unknown, and only tokens are shown.

    Raises:
      UserError: a value that cannot work, named by its key.
    """

    backend: str = "offline"
    model: str = ""
    base_url: str = ""
    path: str = ""
    items_per_token: int = 40
    num_keywords: int = 20
    description_chars: int = 300
    concurrency: int = 8
    requests_per_minute: float = 0.0
    max_attempts: int = 5
    timeout_seconds: float = 60.0
    temperature: float = 0.0
    answer_format: str = "schema"
    input_price: float = 0.0
    output_price: float = 0.0
    max_questions: int = 0
    max_cost: float = 0.0

    def __post_init__(self) -> None:
        self._must_be_one_of("backend", BACKENDS)
        self._must_be_one_of("answer_format", ANSWER_FORMATS)
        for key in ("items_per_token", "num_keywords", "concurrency", "max_attempts", "timeout_seconds"):
            if not 0 < getattr(self, key) < math.inf:
                raise UserError(f"config.describe.{key}={getattr(self, key)} must be above 0 and finite")
        for key in ("description_chars", "requests_per_minute", "input_price", "output_price", "max_questions",
                    "max_cost"):  # fmt: skip
            if not 0 <= getattr(self, key) < math.inf:
                raise UserError(f"config.describe.{key}={getattr(self, key)} must be 0 or more, and finite")
        if self.max_cost and not (self.input_price or self.output_price):
            raise UserError(
                f"config.describe.max_cost={self.max_cost} needs the prices: set config.describe.input_price and "
                "output_price, for a million tokens"
            )
        if self.backend in NETWORK_BACKENDS and not self.model:
            raise UserError(f"config.describe.model is empty; the backend {self.backend!r} needs the name of a model")
        if self.backend == "file" and not self.path:
            raise UserError("config.describe.path is empty; the backend 'file' needs a description_keywords.json")

    def _must_be_one_of(self, key: str, allowed: tuple[str, ...]) -> None:
        value = getattr(self, key)
        if value not in allowed:
            near = difflib.get_close_matches(str(value), allowed, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"config.describe.{key}={value!r} is not one of {', '.join(allowed)}{hint}")

    @property
    def asks_a_model(self) -> bool:
        """Whether the backend sends questions over the network."""
        return self.backend in NETWORK_BACKENDS
