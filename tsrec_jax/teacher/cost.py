"""What a run will cost, estimated before any call.

Rules of thumb, not measurements: a token is four characters of English; an answer is 120 tokens of description, four
for each keyword and 20 of JSON. A model that reasons before it answers is billed for that as well, which may be several
times the answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

CHARACTERS_PER_TOKEN = 4
ANSWER_TOKENS, KEYWORD_TOKENS = 140, 4  # of an answer without its keywords, and of each keyword


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `describe` would do.

    Attributes:
      backend, model: which would be asked.
      questions: one for each SID token.
      cached: of these the ones whose answer is on disk already.
      input_tokens, output_tokens: estimates for the others; 0 for backends that ask no model.
      cost: in the currency of the prices; None where they are not given.
    """

    backend: str
    model: str
    questions: int
    cached: int
    input_tokens: int
    output_tokens: int
    cost: float | None

    def __str__(self) -> str:
        by = f"the backend {self.backend!r}{f' with {self.model}' if self.model else ''}"
        if not self.input_tokens and not self.cached:
            return f"describe: {self.questions} tokens by {by}, which asks no model and costs nothing"
        cost = "no prices given" if self.cost is None else f"about {self.cost:.2f} at the prices given"
        return (
            f"describe: {self.questions} questions to {by}, {self.cached} answered on disk, "
            f"{self.questions - self.cached} to ask: about {self.input_tokens:,} input and "
            f"{self.output_tokens:,} output tokens ({CHARACTERS_PER_TOKEN} characters a token), {cost}"
        )


def estimate_tokens(prompts: Sequence[str], num_keywords: int) -> tuple[int, int]:
    """Input and output tokens of one answer to each prompt."""
    characters = sum(map(len, prompts))
    return -(-characters // CHARACTERS_PER_TOKEN), len(prompts) * (ANSWER_TOKENS + KEYWORD_TOKENS * num_keywords)


def cost_of(input_tokens: int, output_tokens: int, input_price: float, output_price: float) -> float | None:
    """Cost at prices for a million tokens; None where both are 0."""
    if not input_price and not output_price:
        return None
    return (input_tokens * input_price + output_tokens * output_price) / 1e6
