"""Services on the fake recommender, what tests say to them, and how they read what comes back.

The fixtures are known to all tests of this folder (conftest.py).
"""

import concurrent.futures
import time

import pytest

from tests.serving.fakes import FakeRecommender
from tsrec_jax.serving.answers import MAX_BEAMS

TOKEN = "a-tökén of the test"
ADMIN = {"Authorization": b"Bearer " + TOKEN.encode()}
NEW = {"title": "A new thing", "sid": ["<a_1>", "<b_2>", "<c_3>"]}


def until(condition, seconds=10.0):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.005)


def metric(client, line):
    """The value of one line of /metrics; 0 where it is not there yet."""
    found = [row.rsplit(" ", 1)[1] for row in client.get("/metrics").text.splitlines() if row.startswith(line + " ")]
    return float(found[0]) if found else 0.0


def refused(response, status, *words):
    """Checks an error: its status, and JSON with nothing but one line of reason, which holds the words."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    reason = response.json()["error"]
    assert "Traceback" not in reason and "\n" not in reason and ".py" not in reason
    for word in words:
        assert word in reason
    return reason


def hold(client, crowd, recommender, waiting):
    """One request being computed behind the closed gate and so many more in the queue; their futures."""
    recommender.gate.clear()
    futures = [crowd.submit(client.post, "/recommend", json={"history": ["B000"]})]
    assert recommender.computing.wait(10)
    for number in range(waiting):
        futures.append(crowd.submit(client.post, "/recommend", json={"history": [f"B{number + 1:03d}"]}))
        until(lambda number=number: client.service.batcher.depth == number + 1)
    return futures


@pytest.fixture
def recommender():
    return FakeRecommender()


@pytest.fixture
def make_client(recommender):
    """make_client(**settings): a client of a service that is ready; the service is drained at the end."""
    made = []

    def make(ready=True, max_queue=50, max_wait=0.005, load=None, max_beams=MAX_BEAMS, **settings):
        from starlette.testclient import TestClient

        from tsrec_jax.serving.app import make_app
        from tsrec_jax.serving.service import Service

        service = Service(recommender, max_queue=max_queue, max_wait=max_wait, max_beams=max_beams, load=load)
        client = TestClient(make_app(service, **({"admin_token": TOKEN} | settings)), raise_server_exceptions=False)
        client.__enter__()
        client.service = service
        made.append(client)
        if ready:
            service.start()
            until(lambda: not service.not_ready)
        return client

    yield make
    recommender.gate.set()
    for client in made:
        client.service.drain()
        until(lambda client=client: client.service.drained)
        client.__exit__(None, None, None)


@pytest.fixture
def client(make_client):
    return make_client()


@pytest.fixture
def crowd():
    """A pool for requests that are under way at the same time."""
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        yield pool
