import asyncio
import json

import pytest

pytest.importorskip("prometheus_client", reason="needs the extra [serve]")

from tsrec_jax.serving.guard import ARRIVED, Guard
from tsrec_jax.serving.metrics import Metrics


class Seen:
    """An application that says what it was given."""

    def __init__(self):
        self.messages = []

    async def __call__(self, scope, receive, send):
        assert scope[ARRIVED] > 0
        self.messages.append(await receive())
        self.messages.append(await receive())
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b"done"})


@pytest.fixture
def metrics():
    return Metrics(queue_depth=lambda: 0, items=lambda: 0, ready=lambda: 1, behind=lambda: 0)


def chunk(body, more=True):
    return {"type": "http.request", "body": body, "more_body": more}


LEFT = {"type": "http.disconnect"}


def serve(metrics, messages, headers=(), **limits):
    """What the application saw and what was sent, of a client that says these messages and then nothing."""
    app, sent, coming = Seen(), [], list(messages)

    async def receive():
        if not coming:
            await asyncio.sleep(60)
        return coming.pop(0)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": list(headers)}
    asyncio.run(Guard(app, metrics, **({"max_body": 10, "body_seconds": 5.0} | limits))(scope, receive, send))
    return app.messages, sent


def test_the_body_arrives_in_one_piece_and_then_the_news_that_the_client_left(metrics):
    seen, sent = serve(metrics, [chunk(b"12345"), chunk(b"67890"), chunk(b"", False), LEFT])
    assert seen == [chunk(b"1234567890", False), LEFT]
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert (b"a", b"b") in sent[0]["headers"] and (b"x-content-type-options", b"nosniff") in sent[0]["headers"]


def test_a_body_that_does_not_arrive_is_408_and_ends_the_connection(metrics):
    seen, sent = serve(metrics, [chunk(b"1")], body_seconds=0.05)
    assert seen == [] and sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]
    assert "0.05 s" in json.loads(sent[1]["body"])["error"]
    assert b'tsrec_requests_total{method="POST",route="none",status="408"} 1.0' in metrics.text()


def test_a_client_that_leaves_while_it_sends_is_not_answered_and_not_counted(metrics):
    seen, sent = serve(metrics, [chunk(b"1"), LEFT])
    assert seen == sent == []
    assert b"tsrec_requests_total{" not in metrics.text()


@pytest.mark.parametrize("read", [1, 30])
def test_a_refused_body_is_read_to_its_end_but_not_without_end(metrics, read):
    seen, sent = serve(metrics, [chunk(b"x" * 10)] * read + [chunk(b"x", False)])
    assert seen == [] and sent[0]["status"] == 413
    few = [chunk(b"x" * 10)] * 9  # 90 bytes are more than eight times the limit: no further message is waited for
    assert serve(metrics, few)[1][0]["status"] == 413


@pytest.mark.parametrize("headers", [[(b"content-length", b"81")], [(b"content-length", b"11"), (b"expect", b"x")]])
def test_a_length_far_beyond_the_limit_or_asked_about_is_refused_unread(metrics, headers):
    seen, sent = serve(metrics, [], headers)
    assert seen == [] and sent[0]["status"] == 413
