"""What a run will cost, estimated before any call, and caps on what it asks and pays over all runs of a workdir.

Rules of thumb, not measurements: a token is four characters of English; an answer is 120 tokens of description, four
for each keyword and 20 of JSON. A model that reasons before it answers is billed for that as well, which may be several
times the answer.

A question counts towards a cap while it is under way, and once its answer is on disk, usable or not. Its cost is not
known in advance and is taken as the larger of the estimate and the most expensive answer of the run so far.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tsrec_jax.errors import UserError
from tsrec_jax.teacher.groups import Unit
from tsrec_jax.teacher.settings import DescribeSettings

CHARACTERS_PER_TOKEN = 4
ANSWER_TOKENS, KEYWORD_TOKENS = 140, 4  # tokens of an answer without its keywords, and of each keyword


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `describe` would do.

    Attributes:
      backend, model: the backend and model that would be asked.
      questions: number of SID tokens or paths to ask about.
      cached: how many of these have their answer on disk already.
      input_tokens, output_tokens: estimates for the others; 0 for backends that ask no model.
      cost: estimated cost in the currency of the prices; None if they are not given.
      unit: what is described, tokens or paths.
      counted: number of paths with too few items to be asked about.
    """

    backend: str
    model: str
    questions: int
    cached: int
    input_tokens: int
    output_tokens: int
    cost: float | None
    unit: Unit = "token"
    counted: int = 0

    def __str__(self) -> str:
        by = f"the backend {self.backend!r}{f' with {self.model}' if self.model else ''}"
        if not self.input_tokens and not self.cached:
            return f"describe: {self.questions} {self.unit}s by {by}, which asks no model and costs nothing"
        cost = "no prices given" if self.cost is None else f"about {self.cost:.2f} at the prices given"
        return (
            f"describe: {self.questions} questions to {by}, {self.cached} answered on disk, "
            f"{self.questions - self.cached} to ask: about {self.input_tokens:,} input and "
            f"{self.output_tokens:,} output tokens ({CHARACTERS_PER_TOKEN} characters a token), {cost}"
            f"{f'; {self.counted} paths of few items get words without a model' if self.counted else ''}"
        )


def estimate_tokens(prompts: Sequence[str], num_keywords: int) -> tuple[int, int]:
    """Input and output tokens of one answer to each prompt."""
    characters = sum(map(len, prompts))
    return -(-characters // CHARACTERS_PER_TOKEN), len(prompts) * (ANSWER_TOKENS + KEYWORD_TOKENS * num_keywords)


def cost_of(settings: DescribeSettings, input_tokens: int, output_tokens: int) -> float | None:
    """Cost at the settings' prices; None if they are not given."""
    if not settings.input_price and not settings.output_price:
        return None
    return (input_tokens * settings.input_price + output_tokens * settings.output_price) / 1e6


class CapReached(Exception):
    """One more question might exceed a cap; its name is the setting's."""


class Budget:
    """Counts answers and their cost; its methods may be called from several threads.

    Args:
      settings: caps (0: none), prices and number of keywords.
      answers, input_tokens, output_tokens: the counts of earlier runs.
    """

    def __init__(
        self, settings: DescribeSettings, answers: int = 0, input_tokens: int = 0, output_tokens: int = 0
    ) -> None:
        self._settings = settings
        self.answers, self.cost = answers, self._cost(input_tokens, output_tokens)
        self._under_way, self._reserved, self._dearest = 0, 0.0, 0.0
        self._lock = threading.Lock()

    @contextmanager
    def question(self, prompt: str) -> Iterator[None]:
        """Inside, a question counts as under way.

        Raises:
          CapReached: the question must not be asked.
        """
        with self._lock:
            expected = max(self._cost(*estimate_tokens([prompt], self._settings.num_keywords)), self._dearest)
            if 0 < self._settings.max_questions <= self.answers + self._under_way:
                raise CapReached("max_questions")
            if 0 < self._settings.max_cost < self.cost + self._reserved + expected:
                raise CapReached("max_cost")
            self._under_way += 1
            self._reserved += expected
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1
                self._reserved -= expected

    def pay(self, input_tokens: int, output_tokens: int) -> None:
        """Counts an answer that has come.

        Raises:
          UserError: there is a cap on cost, but the server did not count the answer's tokens.
        """
        if self._settings.max_cost and not (input_tokens or output_tokens):
            raise UserError(
                f"config.describe.max_cost={self._settings.max_cost} cannot be kept: the server does not say how many "
                "tokens an answer took; set it to 0 and use config.describe.max_questions"
            )
        cost = self._cost(input_tokens, output_tokens)
        with self._lock:
            self.answers += 1
            self.cost += cost
            self._dearest = max(self._dearest, cost)

    def _cost(self, input_tokens: int, output_tokens: int) -> float:
        return cost_of(self._settings, input_tokens, output_tokens) or 0.0
