"""Caps on what a teacher is asked and costs, over all runs of a workdir.

A question counts as soon as its answer is on disk, usable or not, and while it is under way. What it will cost is not
known before: it is taken as the larger of the estimate and the dearest answer of the run so far.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tsrec_jax.errors import UserError
from tsrec_jax.teacher.cost import cost_of, estimate_tokens
from tsrec_jax.teacher.settings import TeacherSettings


class CapReached(Exception):
    """One question more might go beyond a cap; its name is the setting's."""


class Budget:
    """Counts answers and their cost; its methods may be called from several threads.

    Args:
      settings: caps (0: none), prices and number of keywords.
      answers, input_tokens, output_tokens: of earlier runs.
    """

    def __init__(
        self, settings: TeacherSettings, answers: int = 0, input_tokens: int = 0, output_tokens: int = 0
    ) -> None:
        self._settings = settings
        self.answers, self.cost = answers, self._cost(input_tokens, output_tokens)
        self._under_way, self._reserved, self._dearest = 0, 0.0, 0.0
        self._lock = threading.Lock()

    @contextmanager
    def question(self, prompt: str) -> Iterator[None]:
        """Within, a question is under way.

        Raises:
          CapReached: it must not be asked.
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
        """An answer has come.

        Raises:
          UserError: it states no tokens, so that a cap on cost could not be kept.
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
        return cost_of(input_tokens, output_tokens, self._settings.input_price, self._settings.output_price) or 0.0
