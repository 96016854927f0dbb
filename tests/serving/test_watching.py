"""What a service says of itself: probes, metrics, request ids and the log."""

import concurrent.futures
import gc
import io
import json
import logging
import re

import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")
pytest.importorskip("prometheus_client", reason="needs the extra [serve]")

from tests.serving.clients import ADMIN, NEW, hold, metric, refused, until
from tsrec_jax.serving import answer_schemas
from tsrec_jax.serving.logs import logging_to_stderr


def test_health_is_503_with_the_reason_until_the_warm_up_is_over(make_client, recommender):
    client = make_client(ready=False)
    assert client.get("/health").status_code == 503
    recommender.gate.clear()
    client.service.start()
    until(lambda: "program 1 of 2" in client.get("/health").text)
    assert refused(client.get("/health"), 503) == "warm-up: program 1 of 2"
    response = client.post("/recommend", json={"history": ["B001"]})
    refused(response, 503, "warm-up")
    assert int(response.headers["retry-after"]) > 0
    assert metric(client, "tsrec_ready") == 0
    recommender.gate.set()
    until(lambda: client.get("/health").status_code == 200)
    facts = {"items": 31, "levels": 3, "last_change": 0}
    assert client.get("/health").json() == {"status": "ok", "model": "first", "max_k": 50, "max_beams": 512, **facts}
    assert client.post("/recommend", json={"history": ["B001"]}).status_code == 200
    assert metric(client, "tsrec_ready") == 1
    assert metric(client, 'tsrec_refused_total{reason="not_ready"}') == 1


def test_a_warm_up_that_fails_never_becomes_healthy(make_client, recommender, monkeypatch, caplog):
    client = make_client(ready=False)
    monkeypatch.setattr(recommender, "warm_up", lambda report, **options: 1 / 0)
    with caplog.at_level(logging.ERROR):
        client.service.start()
        until(lambda: client.service.failure)
    assert "ZeroDivisionError" not in refused(client.get("/health"), 503, "warm-up failed")
    assert "ZeroDivisionError" in caplog.text


def test_a_service_whose_thread_has_died_says_so(make_client, recommender, monkeypatch):
    client = make_client()
    monkeypatch.setattr(client.service.batcher, "_on_batch", lambda size, seconds: 1 / 0)
    refused(client.post("/recommend", json={"history": ["B001"]}), 500, "thread", "log")
    until(lambda: client.service.failure)
    refused(client.get("/health"), 503, "thread", "log")
    refused(client.post("/recommend", json={"history": ["B001"]}), 503, "thread")


def test_draining_refuses_new_requests_and_answers_the_accepted(make_client, recommender, crowd):
    client = make_client()
    accepted = hold(client, crowd, recommender, 6)
    client.service.drain()
    refused(client.post("/recommend", json={"history": ["B001"]}), 503, "shutting down")
    refused(client.get("/health"), 503, "shutting down")
    assert not client.service.drained
    recommender.gate.set()
    answers = [future.result(10) for future in accepted]
    assert [answer.status_code for answer in answers] == [200] * 7
    until(lambda: client.service.drained)
    assert metric(client, 'tsrec_refused_total{reason="draining"}') == 1


def test_what_is_there_after_the_warm_up_is_kept_from_the_garbage_collector(make_client):
    gc.unfreeze()
    make_client()
    try:
        until(lambda: gc.get_freeze_count() > 10_000)
    finally:
        gc.unfreeze()


def test_a_warm_up_is_given_up_when_the_shutdown_begins(make_client, recommender):
    recommender.warm_up_steps = 1000
    client = make_client(ready=False)
    recommender.gate.clear()
    client.service.start()
    until(lambda: "program 1 " in client.service.not_ready)
    client.service.drain()
    recommender.gate.set()
    until(lambda: client.service.drained)
    assert client.service.not_ready == "the server is shutting down"
    assert recommender.warmed == 1


def test_metrics_are_prometheus_text_that_counts_by_route_and_status(client):
    from prometheus_client.parser import text_string_to_metric_families

    client.post("/recommend", json={"history": ["B001"]})
    client.post("/recommend", json={"history": ["none"]})
    client.put("/items/NEW", json=NEW, headers=ADMIN)
    client.delete("/items/B001")
    client.get("/some/where"), client.get("/else/where")
    client.get("/"), client.get("/page.js"), client.head("/page.js")
    client.request("BREW", "/coffee")
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    counted = {tuple(s.labels.values()): s.value for s in families["tsrec_requests"].samples if "created" not in s.name}
    assert counted == {
        ("POST", "/recommend", "200"): 1,
        ("POST", "/recommend", "422"): 1,
        ("PUT", "/items/{item_id:path}", "201"): 1,
        ("DELETE", "/items/{item_id:path}", "401"): 1,
        ("GET", "none", "404"): 2,
        ("GET", "/", "200"): 1,
        ("GET", "/page.js", "200"): 1,
        ("HEAD", "/page.js", "200"): 1,
        ("other", "none", "404"): 1,
    }
    reasons = {sample.labels["reason"] for sample in families["tsrec_refused"].samples}
    assert reasons == {"queue_full", "expired", "not_ready", "draining", "failed", "client_gone"}
    assert {"tsrec_request_seconds", "tsrec_queue_depth", "tsrec_batch_size", "tsrec_items"} < set(families)


def test_probes_tell_a_process_that_lives_from_one_that_is_ready(make_client, recommender):
    client = make_client(ready=False)
    assert client.get("/livez").status_code == 200
    refused(client.get("/readyz"), 503, "warm-up")
    client.service.start()
    until(lambda: client.get("/readyz").status_code == 200)
    (accepted,) = hold(client, crowd_of_one := concurrent.futures.ThreadPoolExecutor(1), recommender, 0)
    client.service.drain()
    refused(client.get("/readyz"), 503, "shutting down")
    assert client.get("/livez").status_code == 200  # it must not be killed while it answers
    recommender.gate.set()
    assert accepted.result(10).status_code == 200
    crowd_of_one.shutdown()


def test_what_has_failed_for_good_does_not_live(make_client, recommender, monkeypatch):
    client = make_client(ready=False)
    monkeypatch.setattr(recommender, "warm_up", lambda report, **options: 1 / 0)
    client.service.start()
    until(lambda: client.service.failure)
    refused(client.get("/livez"), 503, "warm-up failed")


@pytest.mark.parametrize("address", ["/livez", "/readyz", "/health", "/metrics", "/items", "/v1/items/B001", "/"])
def test_head_is_get_without_the_body(client, address):
    shown, told = client.get(address), client.head(address)
    assert (told.status_code, told.content) == (shown.status_code, b"")
    assert told.headers["content-type"] == shown.headers["content-type"]


def test_addresses_have_a_version_and_the_old_ones_stay(client):
    body = {"history": ["B001"]}
    old, new = (client.post(f"{version}/recommend", json=body).json()["items"] for version in ("", "/v1"))
    assert old == new
    assert client.get("/items/B001").json() == client.get("/v1/items/B001").json()
    assert client.put("/v1/items/NEW", json=NEW, headers=ADMIN).status_code == 201
    refused(client.get("/v2/items"), 404)


def test_a_request_keeps_its_id_or_is_given_one(client):
    answer = client.get("/items", headers={"X-Request-ID": "shop-17/é".encode()})  # no id: it would go into the log
    own = [answer.headers["x-request-id"], client.get("/nowhere").headers["x-request-id"]]
    assert len(set(own)) == 2 and all(len(name) == 32 for name in own)
    assert client.get("/items", headers={"X-Request-ID": "shop-17"}).headers["x-request-id"] == "shop-17"


def lines(client, form="json", access=True, **headers):
    """What the log says of a request for an unknown item and of a change without a token."""
    with pytest.MonkeyPatch.context() as patch, io.StringIO() as written:
        patch.setattr("sys.stderr", written)
        with logging_to_stderr(form, access=access):
            client.get("/v1/items/a%0Ab", headers=headers)
            client.delete("/items/B001", headers=headers)
        return written.getvalue().splitlines()


def test_each_request_has_a_line_of_json_with_its_id(client):
    found = [json.loads(line) for line in lines(client, **{"X-Request-ID": "shop-17"})]
    first, warning, second = found
    assert first["method"] == "GET" and first["path"] == "/v1/items/a%0Ab" and first["status"] == 404
    assert first["client"] == "testclient" and first["ms"] > 0 and first["level"] == "INFO"
    assert warning["level"] == "WARNING" and "without the right token" in warning["message"]
    assert second["status"] == 401
    assert {line["request_id"] for line in found} == {"shop-17"}


def test_the_log_is_text_for_people_and_the_lines_of_requests_can_be_left_out(client):
    (line,) = lines(client, "text", access=False, **{"X-Request-ID": "shop-17"})
    assert "without the right token" in line and line.endswith("[shop-17]")
    assert "GET /v1/items/a%0Ab 404 " in lines(client, "text")[0]
    assert logging.getLogger("tsrec_jax").propagate


def test_a_failure_names_the_requests_that_it_hit(client, recommender):
    recommender.failures = [RuntimeError("out of memory")]
    with pytest.MonkeyPatch.context() as patch, io.StringIO() as written:
        patch.setattr("sys.stderr", written)
        with logging_to_stderr("json", access=False):
            client.post("/recommend", json={"history": ["B001"]}, headers={"X-Request-ID": "shop-17"})
        (line,) = [json.loads(line) for line in written.getvalue().splitlines()]
    assert line["requests"] == ["shop-17"] and "out of memory" in line["error"]


def test_the_interface_is_described_for_programs_and_for_people(client):
    api = client.get("/openapi.json").json()
    assert {"/v1/recommend", "/v1/recommend/batch", "/v1/items", "/livez"} <= set(api["paths"])
    assert not any(path.startswith("/recommend") for path in api["paths"])  # the old addresses stay, unadvertised
    assert sorted(method for method, told in api["paths"]["/v1/items/{item_id}"].items() if "security" in told) == [
        "delete",
        "patch",
        "put",
    ]
    (scheme,) = api["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    for word in ("POST /v1/recommend", "exclude_history", "deadline_ms", "to 512", "&quot;refuse&quot;"):
        assert word in page.text
    assert "<script" not in page.text and "http:" not in page.text and "https:" not in page.text


def test_what_is_answered_is_as_the_interface_says(client):
    api = client.get("/openapi.json").json()
    two = {"requests": [{"history": ["B001"]}, {"history": ["?"]}]}
    for method, path, body in (
        ("GET", "/livez", None),
        ("GET", "/readyz", None),
        ("GET", "/health", None),
        ("POST", "/v1/recommend", two["requests"][0]),
        ("POST", "/v1/recommend/batch", two),
        ("GET", "/v1/items?q=B001", None),
        ("GET", "/v1/items/B001", None),
        ("PUT", "/v1/items/MUG", {"title": "A mug"}),
        ("PUT", "/v1/items/MUG", {"title": "A cup"}),
        ("PATCH", "/v1/items/MUG", {"brand": "Acme"}),
        ("DELETE", "/v1/items/MUG", None),
        ("GET", "/v1/items/MUG", None),
    ):
        route = re.sub("/items/.*", "/items/{item_id}", path).partition("?")[0]
        response = client.request(method, path, json=body, headers=ADMIN)
        told = api["paths"][route][method.lower()]["responses"]
        content = told.get(str(response.status_code), told["default"])["content"]["application/json"]
        model = getattr(answer_schemas, content["schema"]["$ref"].rpartition("/")[2])
        model.model_validate_json(response.content, strict=True)  # which takes no key that it does not know


def test_pages_of_other_origins_may_ask_only_where_that_was_said(make_client):
    shop = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    refused(make_client().options("/recommend", headers=shop), 405)
    client = make_client(origins=["https://shop.example"])
    assert client.options("/recommend", headers=shop).headers["access-control-allow-origin"] == "https://shop.example"
    answer = client.post("/recommend", json={"history": ["B001"]}, headers=shop)
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    assert client.options("/recommend", headers=shop | {"Origin": "https://other.example"}).status_code == 400
    answer = client.post("/recommend", content=b" " * 2_000_000, headers=shop)  # which is not read
    assert answer.status_code == 413 and answer.headers["access-control-allow-origin"] == "https://shop.example"
