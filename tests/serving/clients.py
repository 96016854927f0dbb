"""What tests say to a service through a client, and how they read what it answers."""

import time

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
