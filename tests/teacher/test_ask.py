"""Asking: attempts, waits, several questions at a time, and an end that names every token without an answer."""

import json
import os
import signal
import threading

import pytest

from tests.said import said
from tests.teacher.server import GOOD
from tsrec_jax.errors import Stopped, UserError
from tsrec_jax.teacher.ask import BAD_ANSWERS, FAILED_IN_A_ROW, ask_all
from tsrec_jax.teacher.backends.protocol import Refused, Rejected, Reply, Retryable
from tsrec_jax.teacher.cache import AnswerCache
from tsrec_jax.teacher.cost import Budget
from tsrec_jax.teacher.groups import Group
from tsrec_jax.teacher.questions import Question
from tsrec_jax.teacher.settings import DescribeSettings

ANSWER = Reply(json.dumps(GOOD), 100, 20)


class Script:
    """A teacher that does for each prompt what stands next in its list: an exception to raise or a reply."""

    def __init__(self, steps):
        self.steps = {prompt: list(entries) for prompt, entries in steps.items()}
        self.prompts = []
        self._lock = threading.Lock()

    def ask(self, prompt):
        with self._lock:
            self.prompts.append(prompt)
            steps = self.steps.get(prompt.split("\n")[0], [])
            step = steps.pop(0) if steps else ANSWER
        if isinstance(step, BaseException):
            raise step
        return step


@pytest.fixture
def ask(tmp_path, virtual_time):
    def run(teacher, count=3, *, concurrency=1, max_attempts=3, budget=None, **changes):
        questions = [Question(Group(f"<a_{n}>", (), 0, (n,)), (), f"prompt {n}") for n in range(count)]
        keys = {question.name: f"key {question.name}" for question in questions}
        cache = AnswerCache(tmp_path / "answers.jsonl")
        settings = DescribeSettings(concurrency=concurrency, max_attempts=max_attempts, **changes)
        return ask_all(questions, keys, teacher, cache, settings, virtual_time.clock, budget)

    run.cache = AnswerCache(tmp_path / "answers.jsonl")
    return run


def test_all_questions_are_answered_and_on_disk(ask):
    result = ask(Script({}), 5)
    assert sorted(result.descriptions) == [f"<a_{n}>" for n in range(5)]
    assert (result.failures, result.requests) == ({}, 5)
    assert (result.input_tokens, result.output_tokens) == (500, 100)
    assert sorted(ask.cache.read()) == [f"key <a_{n}>" for n in range(5)]


@pytest.mark.parametrize("fault", [Retryable("HTTP 500"), Refused("blocked"), Reply("no JSON"), Reply('{"a": 1}')])
def test_a_question_that_fails_is_asked_again(ask, fault):
    result = ask(Script({"prompt 1": [fault, fault]}))
    assert len(result.descriptions) == 3
    assert (result.failures, result.requests) == ({}, 5)


def test_after_the_last_attempt_the_token_is_listed_with_its_last_reason(ask):
    result = ask(Script({"prompt 1": [Retryable("HTTP 500"), Refused("blocked"), Reply('{"keywords": []}')]}))
    assert sorted(result.descriptions) == ["<a_0>", "<a_2>"]
    assert result.failures == {"<a_1>": "the key 'description' is missing (attempt 3 of 3)"}
    assert sorted(ask.cache.read()) == ["key <a_0>", "key <a_2>"]


def test_a_question_with_a_bad_answer_is_asked_again_with_the_reason(ask):
    teacher = Script({"prompt 0": [Reply('{"description": "x", "keywords": []}')]})
    ask(teacher, 1)
    assert teacher.prompts[0] == "prompt 0"
    assert teacher.prompts[1].startswith("prompt 0\n") and "list of keywords is empty" in teacher.prompts[1]


def test_waits_grow_after_failures_that_may_pass_and_there_are_none_after_bad_answers(ask, virtual_time):
    ask(Script({"prompt 0": [Reply("no JSON"), Refused("blocked")]}), 1)
    assert virtual_time.waits == []
    ask(Script({"prompt 0": [Retryable("HTTP 500")] * 3}), 1, max_attempts=4)
    first, second, third = virtual_time.waits
    assert 0.6 < first < 1.4 and 1.3 < second < 2.7 and 2.6 < third < 5.4


def test_no_wait_follows_the_last_attempt(ask, virtual_time):
    ask(Script({"prompt 0": [Retryable("HTTP 500")] * 3}), 1, max_attempts=1)
    assert virtual_time.waits == []


def test_a_named_waiting_time_is_kept(ask, virtual_time):
    ask(Script({"prompt 0": [Retryable("HTTP 429", 45.0)]}), 1)
    assert virtual_time.seconds >= 45


def test_a_server_that_asks_to_wait_for_hours_is_not_waited_for(ask, virtual_time):
    result = ask(Script({"prompt 0": [Retryable("HTTP 429", 7200.0)]}), 1)
    assert "asks to wait 7200 s" in result.failures["<a_0>"]
    assert virtual_time.seconds < 1


def test_the_rate_is_kept_over_retries(ask, virtual_time):
    ask(Script({"prompt 0": [Refused("blocked")] * 2}), 4, requests_per_minute=6)
    assert virtual_time.seconds == pytest.approx(50.0)  # six requests, ten seconds apart


def test_as_many_questions_are_under_way_as_stated_and_no_more(ask):
    together = threading.Barrier(4)
    lock, under_way, most = threading.Lock(), set(), []

    class Together:
        def ask(self, prompt):
            with lock:
                under_way.add(prompt)
                most.append(len(under_way))
            together.wait(10)  # passes only when four are here at once
            with lock:
                under_way.remove(prompt)
            return ANSWER

    assert len(ask(Together(), 12, concurrency=4).descriptions) == 12
    assert max(most) == 4


def test_a_request_the_server_finds_wrong_is_not_repeated(ask):
    result = ask(Script({"prompt 1": [Rejected("HTTP 400: too long")]}))
    assert result.failures["<a_1>"].startswith("HTTP 400: too long; see config.describe.answer_format")
    assert (len(result.descriptions), result.requests) == (2, 3)


def test_requests_that_are_all_wrong_are_listed_and_none_ends_the_run(ask):
    teacher = Script({f"prompt {n}": [Rejected("HTTP 400: unknown parameter")] for n in range(30)})
    result = ask(teacher, 30)
    assert list(result.failures) == [f"<a_{n}>" for n in range(30)]
    assert len(teacher.prompts) == FAILED_IN_A_ROW


def test_an_answer_whose_check_breaks_down_is_kept_as_unusable(ask, monkeypatch):
    def broken(*arguments):
        raise ZeroDivisionError

    monkeypatch.setattr("tsrec_jax.teacher.ask.parse_answer", broken)
    with pytest.raises(ZeroDivisionError):
        ask(Script({}), 1)
    assert ask.cache.read() == {}
    assert "Tools that cut" in ask.cache.path.read_text()


def test_a_wrong_key_ends_the_run_at_once_and_keeps_what_was_answered(ask):
    teacher = Script({"prompt 2": [UserError("wrong key")]})
    with pytest.raises(UserError, match="wrong key"):
        ask(teacher, 50)
    assert len(teacher.prompts) < 10
    assert sorted(ask.cache.read()) == ["key <a_0>", "key <a_1>"]


def test_when_many_fail_in_a_row_the_rest_is_listed_and_not_asked(ask):
    steps = {f"prompt {n}": [Refused("blocked")] * 3 for n in range(100)}
    teacher = Script(steps)
    result = ask(teacher, 100)
    assert len(result.failures) == 100
    assert len(teacher.prompts) == 3 * FAILED_IN_A_ROW
    assert "not asked" in result.failures["<a_99>"]


def test_an_interrupt_keeps_the_answers_under_way(ask, monkeypatch):
    """Ctrl-C while two requests are out: both answers were paid for, and both are on disk afterwards."""
    out, answer = threading.Barrier(3), threading.Event()

    class Slow:
        def ask(self, prompt):
            out.wait(10)
            answer.wait(10)
            return ANSWER

    def interrupted(futures):
        out.wait(10)
        threading.Timer(0.1, answer.set).start()
        raise KeyboardInterrupt

    monkeypatch.setattr("concurrent.futures.as_completed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ask(Slow(), 9, concurrency=2)
    assert len(ask.cache.read()) == 2


def test_sigterm_keeps_the_answers_under_way_and_asks_nothing_more(ask):
    """What a scheduler sends: both requests that are out were paid for, and a second signal does not cut them off."""
    out, answer, asked = threading.Barrier(3), threading.Event(), []

    class Slow:
        def ask(self, prompt):
            asked.append(prompt)
            out.wait(10)
            answer.wait(10)
            return ANSWER

    def tell():
        out.wait(10)
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        threading.Timer(0.2, answer.set).start()

    teller = threading.Thread(target=tell)
    before = signal.getsignal(signal.SIGTERM)
    teller.start()
    with pytest.raises(Stopped, match=r"SIGTERM; the answers are kept in .*answers\.jsonl"):
        ask(Slow(), 9, concurrency=2)
    teller.join()
    assert len(asked) == len(ask.cache.read()) == 2
    assert signal.getsignal(signal.SIGTERM) is before


def caps(**settings):
    return DescribeSettings(input_price=1000.0, output_price=1000.0, num_keywords=1, **settings)


def test_a_cap_on_questions_is_kept_over_runs_and_repetitions(ask):
    teacher = Script({"prompt 1": [Reply("no JSON", 100, 20)]})
    with pytest.raises(
        UserError, match=r"max_questions allows no further question: 4 answers for 0\.48 .* 6 questions"
    ):
        ask(teacher, 9, budget=Budget(caps(max_questions=4)))
    assert len(teacher.prompts) == 4
    assert ask.cache.spent() == (4, 400, 80)
    with pytest.raises(UserError, match="max_questions"):
        ask(teacher, 9, budget=Budget(caps(max_questions=4), *ask.cache.spent()))
    assert len(teacher.prompts) == 4, "nothing is asked again before the cap is raised"
    assert len(ask(teacher, 9, budget=Budget(caps(max_questions=20), *ask.cache.spent())).descriptions) == 9


def test_a_cap_on_cost_is_never_exceeded_by_answers_as_dear_as_the_dearest(ask):
    budget = Budget(caps(max_cost=1.0))  # an answer costs 0.12, and is estimated at 0.146
    with pytest.raises(UserError, match=r"max_cost allows no further question: 8 answers for 0\.96 so far"):
        ask(Script({f"prompt {n}": [Reply(json.dumps(GOOD), 60, 60)] for n in range(20)}), 20, budget=budget)
    assert budget.cost == pytest.approx(0.96)
    dear = Budget(caps(max_cost=1.0))
    with pytest.raises(UserError, match=r"1 answers for 0\.90"):
        ask(Script({"prompt 0": [Reply(json.dumps(GOOD), 800, 100)]}), 20, budget=dear)


def test_a_cap_on_cost_that_cannot_be_kept_is_said_at_the_first_answer(ask):
    teacher = Script({"prompt 0": [Reply(json.dumps(GOOD))]})
    with pytest.raises(UserError, match=r"max_cost=1\.0 cannot be kept: the server does not say how many tokens"):
        ask(teacher, 5, budget=Budget(caps(max_cost=1.0)))
    assert len(teacher.prompts) == len(ask.cache.read()) == 1


def test_questions_under_way_count_against_a_cap(ask):
    together, prompts = threading.Barrier(3), []

    class Together:
        def ask(self, prompt):
            prompts.append(prompt)
            together.wait(10)
            return ANSWER

    with pytest.raises(UserError, match="3 answers"):
        ask(Together(), 9, concurrency=8, budget=Budget(caps(max_questions=3)))
    assert len(prompts) == len(ask.cache.read()) == 3


def test_what_a_refused_answer_cost_is_counted(ask):
    result = ask(Script({"prompt 0": [Refused("cut off", Reply("{", 100, 900))]}), 1)
    assert (result.input_tokens, result.output_tokens) == (200, 920)
    assert ask.cache.spent() == (2, 200, 920)


def test_a_teacher_of_which_most_answers_are_rubbish_is_not_asked_to_the_end(ask):
    good = {f"prompt {n}" for n in range(0, 300, 3)}  # a third: never many failures in a row

    class Rubbish:
        asked = 0

        def ask(self, prompt):
            self.asked += 1
            return ANSWER if prompt in good else Reply("no JSON")

    teacher = Rubbish()
    result = ask(teacher, 300, max_attempts=5)
    assert BAD_ANSWERS <= teacher.asked < 2 * BAD_ANSWERS
    assert len(result.descriptions) + len(result.failures) == 300
    assert "answers could not be used" in result.failures["<a_299>"]


def test_progress_tells_how_far_what_it_cost_and_how_long_it_takes(ask):
    with said() as lines:
        ask(Script({}), 4, requests_per_minute=10, input_price=1000.0, output_price=0.0)
    assert lines[-1].endswith("4 of 4 questions; 0 failed, 400 input and 80 output tokens, cost 0.40; finished")
    assert "s left" in lines[0]
