"""What a request may ask for besides a history: other searches, unknown items left out, many histories at once."""

import threading

import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")

from tests.serving.clients import hold, metric, refused, until
from tsrec_jax.serving.answers import Request


def test_unknown_items_are_left_out_and_listed_where_that_is_wanted(client, recommender):
    body = {"history": ["B001", "GONE", "B005"], "exclude": ["LOST"], "unknown": "skip"}
    found = client.post("/recommend", json=body).json()
    assert found["skipped"] == ["GONE"] and found["used"] == 2
    known = client.post("/recommend", json={"history": ["B001", "B005"]}).json()
    assert found["items"] == known["items"] and known["skipped"] == []
    refused(client.post("/recommend", json=body | {"unknown": "refuse"}), 422, "'GONE'")
    refused(client.post("/recommend", json=body | {"unknown": "ignore"}), 422, "unknown", "skip")
    titles = {"titles": ["Thing 2", "No such thing"], "unknown": "skip"}
    assert client.post("/recommend", json=titles).json()["used"] == 1
    refused(client.post("/recommend", json=titles | {"titles": ["No such thing"]}), 422, "titles")


def test_a_wider_search_is_the_next_of_a_few_widths(client, recommender):
    assert client.post("/recommend", json={"history": ["B001"], "beams": 30}).status_code == 200
    assert client.post("/recommend", json={"history": ["B001"], "k": 51, "beams": 51}).status_code == 200
    assert recommender.widths == [None, 200]
    refused(client.post("/recommend", json={"history": ["B001"], "k": 51}), 422, "k: at most 50", "beams")
    refused(client.post("/recommend", json={"history": ["B001"], "k": 30, "beams": 20}), 422, "k: at most 20")
    refused(client.post("/recommend", json={"history": ["B001"], "beams": 513}), 422, "beams", "512")


def test_a_flag_that_would_not_help_is_not_named(make_client, recommender, monkeypatch):
    def warm_up(report, *, opened, **_):
        opened(recommender.beams)  # and no wider one, as with a fusion

    monkeypatch.setattr(recommender, "warm_up", warm_up)
    client = make_client(max_beams=200)
    until(lambda: client.get("/health").json()["max_beams"] == 50)
    asked = client.post("/recommend", json={"history": ["B001"], "beams": 60})
    assert "--max_beams" not in refused(asked, 422, "beams: at most 50")


@pytest.mark.parametrize(
    ("proves", "widths", "exact"), [(1, [50], True), (200, [50, 200], True), (513, [50, 200, 512], False)]
)
def test_an_exact_answer_is_searched_for_with_more_and_more_beams(client, recommender, proves, widths, exact):
    recommender.proves = proves
    found = client.post("/recommend", json={"history": ["B001"], "exact": True}).json()
    assert recommender.widths == widths and found["exact"] is exact


def test_a_server_may_be_without_wide_searches(make_client, recommender):
    client = make_client(max_beams=1)
    recommender.proves = 100
    assert client.post("/recommend", json={"history": ["B001"], "exact": True}).json()["exact"] is False
    assert client.post("/recommend", json={"history": ["B001"], "beams": 30}).status_code == 200
    refused(client.post("/recommend", json={"history": ["B001"], "beams": 51}), 422, "beams: at most 50", "--max_beams")
    reason = refused(client.post("/recommend", json={"history": ["B001"], "k": 51}), 422, "k: at most 50", "--beams")
    assert "`beams`" not in reason
    assert recommender.widths == [None, None] and recommender.warmed_widths == [50]
    assert client.get("/health").json()["max_beams"] == 50


def test_a_wide_search_does_not_wait_before_others(client, recommender, crowd):
    """It has a queue of its own."""
    accepted = hold(client, crowd, recommender, 1)
    wide = crowd.submit(client.post, "/recommend", json={"history": ["B003"], "exact": True})
    until(lambda: metric(client, "tsrec_queue_depth") + len(recommender.batches) == 3)
    recommender.gate.set()
    assert [answer.result(10).status_code for answer in [*accepted, wide]] == [200] * 3
    assert not any(
        len(batch) > 1 for batch, width in zip(recommender.batches, recommender.widths, strict=True) if width
    )


def test_wide_searches_wait_until_they_are_compiled_and_those_that_never_are_do_not_exist(make_client, recommender):
    go_on = threading.Event()
    recommender.warm_up = lambda report, max_history, wide, opened: (opened(50), go_on.wait(30))
    recommender.proves = 100
    client = make_client()
    assert client.post("/recommend", json={"history": ["B001"]}).status_code == 200
    refused(client.post("/recommend", json={"history": ["B001"], "exact": True}), 503, "compiled")
    go_on.set()
    until(lambda: client.service.compiled)
    refused(client.post("/recommend", json={"history": ["B001"], "beams": 51}), 422, "beams: at most 50 here")
    assert not client.post("/recommend", json={"history": ["B001"], "exact": True}).json()["exact"]
    assert set(recommender.widths) <= {None, 50}


def test_a_batch_is_answered_in_order_each_as_alone_and_with_its_own_errors(make_client, recommender):
    client = make_client(max_queue=2)  # a batch waits for places, and is not refused
    wishes = [{"history": [f"B{n:03d}"], "k": 1 + n % 5} for n in range(20)] + [{"history": ["GONE"]}]
    answer = client.post("/v1/recommend/batch", json={"requests": wishes})
    assert answer.status_code == 200
    *found, bad = answer.json()["answers"]
    for n, one in enumerate(found):
        items = recommender.alone(Request((f"B{n:03d}",), 1 + n % 5)).items
        assert [item["id"] for item in one["items"]] == [item.item_id for item in items]
    assert "'GONE'" in bad["error"]
    assert metric(client, 'tsrec_answered_total{model="first"}') == 20


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"requests": []}, ["requests"]),
        ({"requests": [{"history": ["B001"], "deadline_ms": 5}]}, ["requests.0.deadline_ms: no such key"]),
        ({"requests": [{"history": ["B001"]}] * 1001}, ["requests", "1000"]),
        ([{"history": ["B001"]}], ["JSON object"]),
    ],
)
def test_a_bad_batch_is_refused_whole(client, recommender, body, words):
    refused(client.post("/recommend/batch", json=body), 422, *words)
    assert recommender.batches == []


def test_a_batch_says_which_of_its_requests_came_too_late(client, recommender):
    recommender.gate.clear()
    body = {"requests": [{"history": ["B001"]}] * 6, "deadline_ms": 50}
    answers = client.post("/recommend/batch", json=body).json()["answers"]
    assert len(answers) == 6 and all("deadline" in answer["error"] for answer in answers)
    assert client.service.batcher.depth == 0
