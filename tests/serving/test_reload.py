"""A new export takes the place of the one that is served, and no request notices more than another model."""

import os
import signal
import threading

import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")

from tests.serving import processes
from tests.serving.clients import hold, metric, refused, until
from tests.serving.fakes import FakeRecommender
from tsrec_jax.errors import UserError
from tsrec_jax.serving.connections import Config
from tsrec_jax.serving.server import _Server


def model(client):
    return client.post("/recommend", json={"history": ["B001"]}).json()["model"]


def reload(client):
    until(lambda: not client.service._work.is_alive())  # a service that is still compiling reloads nothing
    client.service.reload()


def test_what_was_accepted_is_answered_by_the_former_model_and_what_comes_by_the_new_one(
    make_client, recommender, crowd
):
    client = make_client(load=lambda: FakeRecommender(count=20, version="second"))
    accepted = hold(client, crowd, recommender, 3)
    reload(client)
    until(lambda: client.get("/health").json()["model"] == "second")
    assert model(client) == "second" and client.get("/health").json()["items"] == 21
    recommender.gate.set()
    assert [answer.result(10).json()["model"] for answer in accepted] == ["first"] * 4
    assert metric(client, 'tsrec_model_info{model="second"}') == 1 and metric(client, "tsrec_items") == 21
    assert 'tsrec_model_info{model="first"}' not in client.get("/metrics").text
    assert metric(client, 'tsrec_answered_total{model="first"}') == 4
    assert metric(client, 'tsrec_reloads_total{result="done"}') == 1


def test_no_request_is_lost_while_models_change(make_client, crowd):
    numbers = iter(range(100))
    client = make_client(load=lambda: FakeRecommender(version=str(next(numbers))))
    stop, seen = threading.Event(), []

    def ask():
        while not stop.is_set():
            answer = client.post("/recommend", json={"history": ["B001"]})
            seen.append((answer.status_code, answer.json().get("model")))

    asking = [crowd.submit(ask) for _ in range(4)]
    for number in range(3):
        reload(client)
        until(lambda number=number: model(client) == str(number))
    stop.set()
    for one in asking:
        one.result(10)
    assert {status for status, _ in seen} == {200} and len({name for _, name in seen}) > 2


def broken():
    raise UserError("export: not there")


@pytest.mark.parametrize("load", [broken, lambda: FakeRecommender(warm_up_steps="x")])
def test_a_reload_that_fails_leaves_the_former_model(make_client, load, caplog):
    client = make_client(load=load)
    reload(client)
    until(lambda: metric(client, 'tsrec_reloads_total{result="failed"}') == 1)
    assert model(client) == "first" and client.get("/readyz").status_code == 200
    assert "the former" in caplog.text


def test_the_shutdown_ends_a_reload(make_client):
    slow = FakeRecommender(version="second", warm_up_steps=1000)
    client = make_client(load=lambda: slow)
    slow.gate.clear()
    reload(client)
    until(lambda: slow.warmed)
    client.service.drain()
    slow.gate.set()
    until(lambda: client.service.drained)
    refused(client.post("/recommend", json={"history": ["B001"]}), 503, "shutting down")


@pytest.fixture
def hang_ups():
    """Processes that are started do not ignore SIGHUP, also where the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_hang_up_reloads(hang_ups):
    with processes.fake() as running:
        running.wait_for("compiled: all searches")
        first = running.request("GET", "/health")[1]["model"]
        running.stop(signal.SIGHUP)
        until(lambda: running.request("GET", "/health")[1]["model"] != first)
        assert running.request("POST", "/recommend", {"history": ["B001"]})[0] == 200
        running.stop()
        assert running.ended(15) == 0


def test_a_hang_up_of_the_terminal_that_it_was_started_in_ends_it(monkeypatch):
    there = {0: True, 1: False, 2: True}
    monkeypatch.setattr(os, "isatty", there.get)
    server = _Server(Config(None), None, 0.0)
    server.hang_up()
    assert not server.should_exit
    there[0] = False
    server.hang_up()
    assert server.should_exit
