"""The load test sees what it is for: right answers, wrong ones, lost ones, refusals."""

import dataclasses
import json

import pytest

pytest.importorskip("uvicorn", reason="needs the extra [serve]")
pytest.importorskip("fastapi", reason="needs the extra [serve]")

from benchmarks import serve
from tests.serving import processes
from tests.serving.fakes import FakeRecommender


@pytest.fixture(scope="module")
def cases():
    return serve.make_cases(FakeRecommender(), 20)


def test_many_clients_get_right_answers_and_twice_the_load_is_refused_and_not_lost(cases):
    with processes.fake(0.05, 8) as running:
        by_clients, overload = serve.measure(running.port, cases, seconds=0.6, queue=8, max_batch=4)
        for row in by_clients.values():
            assert row["wrong"] == row["lost"] == 0
            assert row["answered"] + row["status_429"] == row["requests"] > 0
        assert by_clients[8]["per_second"] > 2 * by_clients[1]["per_second"]
        assert overload["status_429"] > 0 and overload["wrong"] == overload["lost"] == overload["status_504"] == 0
        assert overload["answered"] + overload["status_429"] == overload["requests"]
        running.stop()
        assert running.ended() == 0
    lost, _ = serve.closed_loop(running.port, cases, 1, 0.01)
    assert {outcome.status for outcome in lost} == {0}
    with pytest.raises(SystemExit, match="none of"):
        serve.summary(lost, 1.0)


def test_wrong_and_lost_answers_are_counted(cases):
    content = json.dumps({"items": shown(cases[1].wanted), "timing_ms": {"total": 1.0}}).encode()
    outcomes = [serve.Outcome(case, 200, 0.002, content) for case in cases[:2]]
    found = serve.summary([*outcomes, *(serve.Outcome(cases[0], status, 1.0) for status in (0, 503, 429))], 1.0)
    assert (found["answered"], found["wrong"], found["lost"], found["status_429"]) == (2, 1, 2, 1)
    assert found["p50_ms"] == 2.0 and found["p99_ms_in_server"] == 1.0


def shown(answer):
    return [{"id": item.item_id, "score": item.score} for item in answer.items]


def test_an_answer_to_another_request_is_wrong(cases):
    assert serve.is_answer(cases[0].wanted, shown(cases[0].wanted))
    assert not any(serve.is_answer(cases[0].wanted, shown(case.wanted)) for case in cases[1:])
    assert not serve.is_answer(cases[0].wanted, shown(cases[0].wanted)[:-1])
    assert not serve.is_answer(cases[0].wanted, shown(cases[0].wanted)[::-1])


def test_only_neighbours_of_nearly_one_score_may_swap(cases):
    first, second, *rest = cases[0].wanted.items
    for gap, fine in ((5e-5, True), (3e-4, False)):
        near = dataclasses.replace(second, score=first.score - gap)
        wanted = dataclasses.replace(cases[0].wanted, items=(first, near, *rest))
        swapped = shown(dataclasses.replace(wanted, items=(near, first, *rest)))
        assert serve.is_answer(wanted, swapped) is fine
