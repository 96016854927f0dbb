"""Asks a model every question, several at a time, until each has an answer or a reason why it has none."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType

from tsrec_jax import errors
from tsrec_jax.data.catalogue import TokenDescription
from tsrec_jax.progress import Progress, report
from tsrec_jax.teacher.answers import BadAnswer, parse_answer
from tsrec_jax.teacher.backends.protocol import Refused, Rejected, Reply, Retryable, Teacher
from tsrec_jax.teacher.cache import AnswerCache
from tsrec_jax.teacher.cost import Budget, CapReached, cost_of
from tsrec_jax.teacher.pace import Clock, Pace, PaceEnded
from tsrec_jax.teacher.questions import Question
from tsrec_jax.teacher.settings import DescribeSettings

FAILED_IN_A_ROW = 20  # after so many questions the rest is not asked: the server is down or the day's quota is spent
BAD_ANSWERS = 50  # after so many unusable answers a run ends if fewer were usable
LONGEST_PAUSE = 600.0  # the most seconds that a server may ask to wait before its question counts as failed


@dataclasses.dataclass
class AskResult:
    """The outcome of the questions; every one is in `descriptions` or in `failures`.

    Attributes:
      descriptions: {name of a token or path: what the model said}.
      failures: {name: why there is no answer}.
      requests: number of requests sent in this run.
      input_tokens, output_tokens: tokens of this run's answers, unusable ones included, as the server counted them.
    """

    descriptions: dict[str, TokenDescription] = dataclasses.field(default_factory=dict)
    failures: dict[str, str] = dataclasses.field(default_factory=dict)
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


def ask_all(
    questions: Sequence[Question],
    keys: Mapping[str, str],
    teacher: Teacher,
    cache: AnswerCache,
    settings: DescribeSettings,
    clock: Clock | None = None,
    budget: Budget | None = None,
) -> AskResult:
    """Asks every question; an answer is on disk before it is counted.

    However this ends (except by SIGKILL), it waits for the requests under way, each up to its own time-out, and writes
    their answers.

    Args:
      questions: those without an answer on disk.
      keys: {name of a token or path: key of its answer in the cache}.
      teacher: the model.
      cache: where answers go.
      settings: rate, attempts, prices and caps.
      clock: the clock; None: the real one.
      budget: the counts of earlier runs, and the caps; None: nothing was asked before.

    Raises:
      UserError: no question can be answered (a wrong key, model or address), or a cap is reached.
      errors.Stopped: SIGTERM came.
    """
    asking = _Asking(keys, teacher, cache, settings, clock or Clock(), budget or Budget(settings))
    try:
        with _told_by_sigterm(asking.pace.stop) as told:
            _ask(questions, asking, settings.concurrency)
    except CapReached as cap:
        spent, left = asking.budget, len(questions) - len(asking.result.descriptions)
        raise errors.UserError(
            f"config.describe.{cap} allows no further question: {spent.answers} answers"
            f"{f' for {spent.cost:.2f}' if spent.cost else ''} so far, all kept in {cache.path}; {left} questions are "
            "left; raise it and give the same command again"
        ) from None
    if told:
        raise errors.Stopped(f"stopped by SIGTERM; the answers are kept in {cache.path}, and the same command goes on")
    return asking.result


@contextlib.contextmanager
def _told_by_sigterm(stop: Callable[[], None]) -> Iterator[list[int]]:
    """Inside, SIGTERM calls `stop` and is noted in the list; it raises nothing, whatever the main thread is doing.

    If JAX's preemption service handles the signal, as in a run of several processes, that is left unchanged.
    """
    told: list[int] = []
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is None:
        yield told
        return

    def tell(number: int, _frame: FrameType | None) -> None:
        told.append(number)
        threading.Thread(target=stop).start()  # the main thread may hold a lock that it takes

    before = signal.signal(signal.SIGTERM, tell)
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)


def _ask(questions: Sequence[Question], asking: _Asking, concurrency: int) -> None:
    progress = Progress(len(questions), now=asking.clock.now, unit="questions")
    pool = concurrent.futures.ThreadPoolExecutor(concurrency, thread_name_prefix="teacher")
    try:
        futures = [pool.submit(asking.settle, question) for question in questions]
        for future in concurrent.futures.as_completed(futures):
            future.result()
            progress.tick("describe", note=asking.spent)
    finally:
        # Even when told to stop: requests under way are paid for, so their answers are awaited and written.
        asking.pace.stop()
        pool.shutdown(wait=True, cancel_futures=True)
    report(f"describe: {len(questions)} of {len(questions)} questions; {asking.spent}; finished")


class _Asking:
    """The state that the threads share."""

    def __init__(
        self,
        keys: Mapping[str, str],
        teacher: Teacher,
        cache: AnswerCache,
        settings: DescribeSettings,
        clock: Clock,
        budget: Budget,
    ) -> None:
        self.result = AskResult()
        self.clock = clock
        self.pace = Pace(settings.requests_per_minute, clock)
        self.budget = budget
        self._keys, self._teacher, self._cache = keys, teacher, cache
        self.settings, self._attempts = settings, settings.max_attempts
        self._lock = threading.Lock()
        self._failed_in_a_row = self._good = self._bad = 0

    def settle(self, question: Question) -> None:
        """Puts a question's answer, or the reason why it has none, into the result."""
        with self._lock:
            lost = self._lost()
            if lost:
                self.result.failures[question.name] = f"not asked, because {lost}"
                return
        try:
            found = self._answer(question)
        except PaceEnded:
            return
        except BaseException:
            self.pace.stop()  # at once, before this thread takes its next question
            raise
        with self._lock:
            if isinstance(found, TokenDescription):
                self.result.descriptions[question.name] = found
                self._failed_in_a_row = 0
            else:
                self.result.failures[question.name] = found
                self._failed_in_a_row += 1

    def _lost(self) -> str:
        """Why no further question is worth asking; empty if one is."""
        if self._failed_in_a_row >= FAILED_IN_A_ROW:
            return f"the {FAILED_IN_A_ROW} questions before it had failed"
        if self._bad >= BAD_ANSWERS and self._bad > self._good:
            return f"{self._bad} of {self._bad + self._good} answers could not be used; another model may do better"
        return ""

    def _answer(self, question: Question) -> TokenDescription | str:
        """The answer to a question, or why there is none after the last attempt."""
        prompt, reason = question.prompt, ""
        for attempt in range(1, self._attempts + 1):
            self.pace.await_turn()
            try:
                return self._request(question, prompt)
            except Retryable as error:
                reason = str(error)
                if error.retry_after > LONGEST_PAUSE:
                    return f"{reason} (the server asks to wait {error.retry_after:.0f} s)"
                self.pace.pause_all(error.retry_after)
                if attempt < self._attempts:
                    self.pace.back_off(attempt)
            except Refused as error:
                reason = str(error)
            except BadAnswer as error:
                reason = str(error)
                prompt = f"{question.prompt}\n\nAn earlier reply could not be used: {reason}."
                with self._lock:
                    lost = self._lost()
                if lost:
                    return f"{reason} (attempt {attempt} of {self._attempts}; {lost})"
            except Rejected as error:
                return f"{error}; see config.describe.answer_format, temperature and items_per_token"
        return f"{reason} (attempt {self._attempts} of {self._attempts})"

    def _request(self, question: Question, prompt: str) -> TokenDescription:
        with self.budget.question(prompt):
            with self._lock:
                self.result.requests += 1
            try:
                return self._checked(question, self._teacher.ask(prompt))
            except Refused as error:
                if error.reply is not None:
                    self._keep(question, error.reply, str(error))
                raise

    def _checked(self, question: Question, reply: Reply) -> TokenDescription:
        fault = "not checked"
        try:
            cluster, fault = parse_answer(reply.text, question.group.token, question.group.prefix), ""
            return cluster
        except BadAnswer as error:
            fault = str(error)
            raise
        finally:
            self._keep(question, reply, fault)

    @property
    def spent(self) -> str:
        """Failures, tokens and cost of the run so far, in words."""
        result = self.result
        cost = cost_of(self.settings, result.input_tokens, result.output_tokens)
        return (
            f"{len(result.failures)} failed, {result.input_tokens:,} input and {result.output_tokens:,} output tokens"
            f"{'' if cost is None else f', cost {cost:.2f}'}"
        )

    def _keep(self, question: Question, reply: Reply, fault: str) -> None:
        """Writes an answer down, and counts it."""
        self._cache.append(self._keys[question.name], question.name, reply, fault)
        with self._lock:
            self._bad, self._good = self._bad + bool(fault), self._good + (not fault)
            self.result.input_tokens += reply.input_tokens
            self.result.output_tokens += reply.output_tokens
        self.budget.pay(reply.input_tokens, reply.output_tokens)
