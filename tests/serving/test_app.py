import concurrent.futures
import dataclasses
import json
import logging
import threading
import time

import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")
pytest.importorskip("prometheus_client", reason="needs the extra [serve]")

from tests.serving.clients import ADMIN, NEW, TOKEN, hold, metric, refused, until
from tests.serving.fakes import EVIL
from tsrec_jax.data.catalogue import Item
from tsrec_jax.serving import catalogue_routes, messages
from tsrec_jax.serving.answers import MAX_BEAMS, NoEncoder, PathStep, Request


def test_a_recommendation_is_that_of_the_recommender_with_paths_and_times(client, recommender):
    response = client.post("/recommend", json={"history": ["B001", "B005"], "k": 3, "exclude_history": True})
    assert response.status_code == 200
    body = response.json()
    wanted = recommender.alone(Request(("B001", "B005"), 3, True))
    assert [item["id"] for item in body["items"]] == [item.item_id for item in wanted.items]
    first, best = body["items"][0], wanted.items[0]
    assert (first["title"], first["score"], first["sid"]) == (best.title, best.score, best.sid)
    assert first["path"] == [
        {"token": step.token, "score": step.score, "keywords": list(step.keywords), "description": step.description}
        for step in best.path
    ]
    assert body["exact"] is True and body["batch_size"] == 1
    assert 0 <= body["timing_ms"]["queue"] <= body["timing_ms"]["total"] < 10_000
    assert 0 <= body["timing_ms"]["compute"] <= body["timing_ms"]["total"]


def test_filters_reach_the_recommender(client, recommender):
    allow = ["B003", "B004", "B005"]
    body = client.post("/recommend", json={"history": ["B001"], "exclude": ["B004"], "allow": allow}).json()
    assert recommender.batches == [[Request(("B001",), 10, False, ("B004",), tuple(allow))]]
    assert {item["id"] for item in body["items"]} == {"B003", "B005"}


def test_an_empty_allow_list_allows_nothing_and_is_no_missing_one(client, recommender):
    recommender.alone = lambda request: None  # only the request matters here
    client.post("/recommend", json={"history": ["B001"], "allow": []})
    assert recommender.batches[0][0].allow == ()


def test_titles_are_looked_up(client, recommender):
    client.post("/recommend", json={"titles": ["Thing 2", "Thing 21"]})
    assert recommender.batches == [[Request(("B002", "B021"))]]


def test_an_unknown_title_names_the_nearest(client):
    response = client.post("/recommend", json={"titles": ["Thing 2", "Thingy 22"]})
    refused(response, 422, "'Thingy 22'")
    response = client.post("/recommend", json={"titles": ["Thing 222"]})
    refused(response, 422, "'Thing 222'", "nearest titles: ", "'Thing 22'")


def test_a_title_of_several_items_is_not_chosen_among(client):
    client.put("/items/TWIN", json=NEW | {"title": "Thing 2"}, headers=ADMIN)
    refused(client.post("/recommend", json={"titles": ["Thing 2"]}), 422, "2 items", "B002, TWIN")


LONG = messages.MAX_HISTORY + 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, ["history", "titles"]),
        ({"history": ["B001"], "titles": ["Thing 1"]}, ["either"]),
        ({"history": []}, ["history", "at least 1"]),
        ({"history": "B001"}, ["history", "list"]),
        ({"history": [1]}, ["history.0", "string"]),
        ({"history": [""]}, ["history.0"]),
        ({"history": ["B001"] * LONG}, ["history", str(LONG - 1)]),
        ({"titles": ["Thing 1"] * (messages.MAX_TITLES + 1)}, ["titles", str(messages.MAX_TITLES)]),
        ({"history": ["x" * 300]}, ["is not in the catalogue"]),
        ({"history": ["B0O1"]}, ["'B0O1'", "nearest ids: B0"]),
        ({"history": ["B001"], "exclude": ["nothing"]}, ["'nothing'"]),
        ({"history": ["B001"], "exclude": ["B001"] * (messages.MAX_FILTER + 1)}, ["exclude", str(messages.MAX_FILTER)]),
        ({"history": ["B001"], "allow": ["B001"] * (messages.MAX_FILTER + 1)}, ["allow", str(messages.MAX_FILTER)]),
        ({"history": ["B001"], "k": 0}, ["k", "greater than or equal to 1"]),
        ({"history": ["B001"], "k": MAX_BEAMS + 1}, ["k", str(MAX_BEAMS)]),
        ({"history": ["B001"], "k": 51}, ["k: at most 50 here"]),
        ({"history": ["B001"], "k": "10"}, ["k", "integer"]),
        ({"history": ["B001"], "k": 1.5}, ["k", "integer"]),
        ({"history": ["B001"], "k": True}, ["k", "integer"]),
        ({"history": ["B001"], "exclude_history": "yes"}, ["exclude_history"]),
        ({"history": ["B001"], "deadline_ms": 0}, ["deadline_ms"]),
        ({"history": ["B001"], "deadline_ms": messages.MAX_DEADLINE_MS + 1}, ["deadline_ms", "60000"]),
        ({"histroy": ["B001"], "a": 1, "b": 2, "c": 3, "d": 4}, ["histroy: no such key", "2 more"]),
        ([1], ["JSON object"]),
        (None, ["JSON object"]),
    ],
)
def test_a_bad_recommendation_request_says_what_is_wrong(client, recommender, body, words):
    refused(client.post("/recommend", json=body), 422, *words)
    assert recommender.batches == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", ["not valid JSON"]),
        (b"", ["JSON object"]),
        (b'{"history": ["\xff"]}', ["not valid JSON", "not UTF-8 (byte 14)"]),
        (b'{"history": ["\\ud800"]}', []),
        (b"[" * 100_000, ["not valid JSON", "nested too deeply"]),
        (b"\x1f\x8b\x08\x00", ["not valid JSON", "not UTF-8 (byte 1)"]),
        (b'{"history": ["B001"], "k": NaN}', ["k"]),
        (b'{"history": ["B001"], "k": 1e400}', ["k"]),
        (b'{"history": ["B001"], "k": ' + b"9" * 5000 + b"}", ["not valid JSON", "number", "too long"]),
    ],
)
def test_a_body_that_is_no_json_is_a_reasoned_error(client, content, words):
    response = client.post("/recommend", content=content, headers={"Content-Type": "application/json"})
    refused(response, 422, *words)


def test_a_body_of_another_type_is_refused(client):
    content = json.dumps({"history": ["B001"]}).encode()
    response = client.post("/recommend", content=content, headers={"Content-Type": "text/plain"})
    refused(response, 422, "application/json")


def test_unknown_addresses_and_methods_are_json_errors(client):
    refused(client.get("/nowhere"), 404, "no such address")
    refused(client.get("/page/../app.py"), 404)
    refused(client.get("/..%2fapp.py"), 404)
    response = client.get("/recommend")
    refused(response, 405, "there is POST")
    assert response.headers["allow"] == "POST"
    refused(client.get("/items?limit=1000"), 422, "limit", "100")
    refused(client.get("/items", params={"q": "x" * 201}), 422, "q", "200")


def test_a_body_beyond_the_limit_is_refused_with_and_without_its_length(make_client, recommender):
    client = make_client(max_body=1000)
    fits = json.dumps({"history": ["B001"]}).encode().ljust(1000)
    headers = {"Content-Type": "application/json"}

    def chunks(content):
        for start in range(0, len(content), 100):
            yield content[start : start + 100]

    for content in (fits, chunks(fits)):
        assert client.post("/recommend", content=content, headers=headers).status_code == 200
    for content in (fits + b" ", chunks(fits + b" "), chunks(fits * 30), fits * 30):
        refused(client.post("/recommend", content=content, headers=headers), 413, "1000 bytes")
    refused(client.put("/items/B001", content=fits + b" ", headers=headers), 413)
    assert len(recommender.batches) == 2
    assert metric(client, 'tsrec_requests_total{method="POST",route="none",status="413"}') == 4


def test_concurrent_requests_share_batches_and_get_their_own_answers(client, recommender, crowd):
    recommender.seconds = 0.02
    wanted = [Request((f"B{n % 30:03d}", f"B{n * 7 % 30:03d}"), k=1 + n % 6) for n in range(60)]
    bodies = [{"history": list(request.history), "k": request.k} for request in wanted]
    found = list(crowd.map(lambda body: client.post("/recommend", json=body), bodies))
    for response, request in zip(found, wanted, strict=True):
        assert response.status_code == 200
        items = recommender.alone(request).items
        assert [item["id"] for item in response.json()["items"]] == [item.item_id for item in items]
    assert max(len(batch) for batch in recommender.batches) > 1
    assert metric(client, "tsrec_batch_size_sum") == 60
    assert metric(client, "tsrec_queue_seconds_count") == 60


def test_a_full_queue_is_429_with_retry_after_and_the_accepted_are_answered(make_client, recommender, crowd):
    client = make_client(max_queue=2)
    accepted = hold(client, crowd, recommender, 2)
    assert metric(client, "tsrec_queue_depth") == 2
    for body in ({"history": ["B001"]}, {"history": ["unknown"]}):  # refused before it is looked at
        response = client.post("/recommend", json=body)
        refused(response, 429, "full", "1 s")
        assert response.headers["retry-after"] == "1"
    recommender.gate.set()
    assert [future.result(10).status_code for future in accepted] == [200, 200, 200]
    assert metric(client, 'tsrec_refused_total{reason="queue_full"}') == 2


def test_a_deadline_is_504_at_its_time_and_the_request_is_not_computed(make_client, recommender, crowd):
    client = make_client()
    (first,) = hold(client, crowd, recommender, 0)
    started = time.monotonic()
    refused(client.post("/recommend", json={"history": ["B001"], "deadline_ms": 50}), 504, "deadline")
    assert 0.05 <= time.monotonic() - started < 5
    assert client.service.batcher.depth == 0
    recommender.gate.set()
    assert first.result(10).status_code == 200
    assert len(recommender.batches) == 1
    assert metric(client, 'tsrec_refused_total{reason="expired"}') == 1


def test_a_request_without_a_deadline_gets_that_of_the_server(make_client, recommender):
    client = make_client(deadline_seconds=0.05)
    recommender.seconds = 0.5
    refused(client.post("/recommend", json={"history": ["B001"]}), 504, "deadline")
    assert client.post("/recommend", json={"history": ["B001"], "deadline_ms": 20_000}).status_code == 200


def test_a_failed_batch_is_500_with_a_reason_and_logged(client, recommender, caplog):
    recommender.failures = [RuntimeError("out of a secret memory")]
    with caplog.at_level(logging.ERROR):
        response = client.post("/recommend", json={"history": ["B001"]})
    assert "secret" not in refused(response, 500, "failed", "log")
    assert "out of a secret memory" in caplog.text
    assert client.post("/recommend", json={"history": ["B001"]}).status_code == 200
    assert metric(client, 'tsrec_refused_total{reason="failed"}') == 1


def test_an_error_of_our_own_is_500_without_a_traceback_and_still_counted(client, recommender, monkeypatch):
    monkeypatch.setattr(recommender.catalogue, "find", lambda text, limit: 1 / 0)
    response = client.get("/items")
    refused(response, 500, "error of the server")
    assert "content-security-policy" in response.headers
    assert metric(client, 'tsrec_requests_total{method="GET",route="/items",status="500"}') == 1


def test_items_are_put_found_recommended_blocked_and_removed(client, recommender):
    response = client.put("/items/NEW", json=NEW, headers=ADMIN)
    assert (response.status_code, response.json()) == (201, {"id": "NEW", "new": True, "items": 32})
    found = client.get("/items", params={"q": "new THING"}).json()
    assert found == {"items": [{"id": "NEW", **NEW, "blocked": False}], "of": 32}
    response = client.put("/items/NEW", json=NEW | {"sid": "<a_4><b_5><c_6>", "blocked": True}, headers=ADMIN)
    assert (response.status_code, response.json()["new"]) == (200, False)
    assert recommender.catalogue.item("NEW").sid == ("<a_4>", "<b_5>", "<c_6>")
    refused(client.put("/items/NEW", json=NEW, headers=ADMIN | {"If-None-Match": "*"}), 412, "already")
    assert client.get("/items", params={"q": "NEW"}).json()["items"][0]["blocked"] is True
    assert metric(client, "tsrec_items") == 32
    assert client.delete("/items/NEW", headers=ADMIN).json() == {"id": "NEW", "items": 31}
    refused(client.delete("/items/NEW", headers=ADMIN), 404, "'NEW'")
    assert client.get("/items", params={"q": "A new thing"}).json()["items"] == []


def test_an_item_without_a_sid_is_coded_from_its_texts_and_keeps_its_sid_afterwards(client, recommender):
    body = {"title": "A mug", "description": "For a trip.", "brand": "Acme"}
    response = client.put("/items/MUG", json=body, headers=ADMIN)
    neighbour = {"id": "B001", "title": "Thing 1", "sid": ["<a_1>", "<b_1>", "<c_1>"], "likeness": 0.5}
    coding = {"sid": ["<a_1>", "<b_2>", "<c_500>"], "sure": 0.75, "shared_with": [], "neighbours": [neighbour]}
    assert (response.status_code, response.json()) == (201, {"id": "MUG", "new": True, "items": 32, **coding})
    assert recommender.put_items == [Item("MUG", "A mug", "For a trip.", "Acme")]
    response = client.put("/items/MUG", json={"title": "A large mug", "sid": None}, headers=ADMIN)
    assert (response.status_code, response.json()) == (200, {"id": "MUG", "new": False, "items": 32})
    assert client.get("/items/MUG").json()["sid"] == coding["sid"]


def test_an_item_that_cannot_be_coded_now_may_be_put_later(client, recommender, monkeypatch):
    def fails(*_, **__):
        raise NoEncoder("the encoder 'there' is not to be had", retry_after=17)

    monkeypatch.setattr(recommender, "vector", fails)
    response = client.put("/items/MUG", json={"title": "A mug"}, headers=ADMIN)
    refused(response, 503, "the encoder 'there'")
    assert response.headers["Retry-After"] == "17"


def test_items_that_wait_for_the_encoder_hold_up_no_other_change(client, crowd, recommender, monkeypatch):
    loading, loaded = threading.Event(), threading.Event()
    monkeypatch.setattr(recommender, "vector", lambda item: loading.set() or (loaded.wait(30) and None))
    mugs = [crowd.submit(client.put, f"/items/M{n}", json={"title": "A mug"}, headers=ADMIN) for n in range(5)]
    assert loading.wait(10)
    assert client.patch("/items/B001", json={"blocked": True}, headers=ADMIN).status_code == 200
    assert client.delete("/items/B002", headers=ADMIN).status_code == 200
    assert client.put("/items/NEW", json=NEW, headers=ADMIN).status_code == 201
    assert client.put("/items/B003", json={"title": "Known"}, headers=ADMIN).status_code == 200
    assert not any(mug.done() for mug in mugs)
    monkeypatch.setattr(catalogue_routes, "_CODING_SECONDS", 0.05)
    refused(client.put("/items/LATE", json={"title": "A mug"}, headers=ADMIN), 503, "the encoder is still loading")
    assert {thread.daemon for thread in threading.enumerate() if thread.name == "encoder"} == {True}
    loaded.set()
    assert [mug.result().status_code for mug in mugs] == [201] * 5
    assert recommender.catalogue.get("LATE") is None


def test_an_item_may_have_brand_categories_and_an_image(client):
    facts = {"brand": "Acme", "categories": "Tools", "image": "https://shop.example/new.jpg"}
    assert client.put("/items/NEW", json=NEW | facts, headers=ADMIN).status_code == 201
    assert client.get("/items/NEW").json() == {"id": "NEW", **NEW, "blocked": False, **facts}
    (found,) = client.post("/recommend", json={"history": ["B001"], "allow": ["NEW"]}).json()["items"]
    assert {fact: found[fact] for fact in facts} == facts


def test_an_item_is_shown_by_its_id(client):
    found = client.get("/items/B001")
    assert (found.status_code, found.json()["id"], found.json()["title"]) == (200, "B001", "Thing 1")
    refused(client.get("/items/B0O1"), 404, "'B0O1'")


def test_an_id_may_hold_slashes_and_any_letters(client, recommender):
    assert client.put("/items/shop%2Fä%20b/7", json=NEW, headers=ADMIN).status_code == 201
    assert recommender.catalogue.item("shop/ä b/7").title == NEW["title"]
    assert client.delete("/items/shop/ä b/7", headers=ADMIN).status_code == 200


@pytest.mark.parametrize(
    ("item", "body", "words"),
    [
        ("X", {"sid": NEW["sid"]}, ["title"]),
        ("X", {"title": "x", "description": 5}, ["description"]),
        ("X", NEW | {"title": " "}, ["title: must not be blank"]),
        ("X", NEW | {"title": ""}, ["title: must not be blank"]),
        ("X", NEW | {"title": "two\nlines"}, ["title: must be one line"]),
        ("X", NEW | {"title": "\u202eevil"}, ["title: must be one line"]),
        ("X", NEW | {"sid": 5}, ["sid: must be a list of 1 to 32 tokens"]),
        ("X", NEW | {"sid": ["<a_1>", 2]}, ["sid: must be a list of 1 to 32 tokens"]),
        ("%20", NEW, ["control"]),
        ("%00", NEW, ["control"]),
        ("%FF", NEW, ["broken"]),
        ("X", NEW | {"title": "x" * 3000}, ["title", "2000"]),
        ("X", NEW | {"sid": []}, ["sid"]),
        ("X", NEW | {"sid": "a_1 b_2"}, ["sid", "<a_1><b_2><c_3>"]),
        ("X", NEW | {"sid": ["<a_1>"]}, ["3 tokens"]),
        ("X", NEW | {"blocked": 1}, ["blocked"]),
        ("X", NEW | {"brand": "two\nlines"}, ["brand: must be one line"]),
        ("X", NEW | {"image": "javascript:alert(1)"}, ["image: must be an address"]),
        ("X", NEW | {"price": 1}, ["price: no such key"]),
        ("x" * 300, NEW, ["256"]),
        ("", NEW, ["256"]),
    ],
)
def test_a_bad_item_is_refused(client, recommender, item, body, words):
    refused(client.put(f"/items/{item}", json=body, headers=ADMIN), 422, *words)
    assert recommender.catalogue.num_items == 31


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer wrong",
        TOKEN.encode(),
        b"Basic " + TOKEN.encode(),
        b"Bearer " + TOKEN.encode() + b"x",
        b"Bearer \xff\xfe",
    ],
)
def test_without_the_token_nothing_changes(client, recommender, header):
    headers = {} if header is None else {"Authorization": header}
    for response in (
        client.put("/items/NEW", json=NEW, headers=headers),
        client.put("/items/NEW", json={}, headers=headers),
        client.delete("/items/B001", headers=headers),
    ):
        refused(response, 401, "Bearer")
        assert response.headers["www-authenticate"] == "Bearer"
        assert TOKEN not in response.text
    assert recommender.catalogue.num_items == 31 and recommender.catalogue.item("B001")


@pytest.mark.parametrize("token", [None, ""])
def test_a_server_without_a_token_takes_no_changes(make_client, recommender, token):
    client = make_client(admin_token=token)
    for headers in ({}, ADMIN, {"Authorization": "Bearer "}, {"Authorization": "Bearer None"}):
        refused(client.put("/items/NEW", json=NEW, headers=headers), 403, "TSREC_ADMIN_TOKEN")
        refused(client.delete("/items/B001", headers=headers), 403, "TSREC_ADMIN_TOKEN")
    assert recommender.catalogue.num_items == 31


def test_items_are_found_up_to_the_limit(client):
    assert len(client.get("/items").json()["items"]) == 20
    body = client.get("/items", params={"q": "thing 1", "limit": 3}).json()
    assert [item["id"] for item in body["items"]] == ["B001", "B010", "B011"]
    (evil,) = client.get("/items", params={"q": "EVIL"}).json()["items"]
    assert evil["title"] == EVIL


def test_every_answer_forbids_foreign_scripts_and_guessed_types(client):
    for response in (client.get("/"), client.get("/page.js"), client.get("/items"), client.get("/nowhere")):
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("address", "kind"),
    [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript"), ("/icon.svg", "image/svg+xml")],
)
def test_the_page_is_served_and_needs_nothing_from_elsewhere(client, address, kind):
    response = client.get(address)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith(kind)
    text = response.text.replace("http://www.w3.org/2000/svg", "")
    assert "http:" not in text and "https:" not in text and "innerHTML" not in text


class Waits:
    """A call that waits until it is let; `calls` counts those that have begun."""

    def __init__(self):
        self.let, self.calls = threading.Event(), []

    def __call__(self, *args, **options):
        self.calls.append(args)
        assert self.let.wait(30)


def test_look_ups_wait_for_no_index_and_recommendations_by_ids_need_none(client, recommender):
    recommender.catalogue.search.built = None
    response = client.get("/items?q=thing")
    refused(response, 503, "still being indexed")
    assert response.headers["Retry-After"]
    refused(client.post("/recommend", json={"titles": ["Thing 1"]}), 503, "still being indexed")
    assert client.post("/recommend", json={"history": ["B001"]}).status_code == 200


def test_changes_that_wait_leave_room_for_recommendations_and_look_ups(client, recommender, monkeypatch):
    waits = Waits()
    monkeypatch.setattr(recommender.catalogue, "remove", waits)
    with concurrent.futures.ThreadPoolExecutor(45) as pool:  # AnyIO has 40 threads
        changes = [pool.submit(client.delete, "/items/B001", headers=ADMIN) for _ in range(45)]
        try:
            until(lambda: waits.calls)
            time.sleep(0.1)
            assert client.post("/recommend", json={"history": ["B001"]}).status_code == 200
            assert client.get("/items?q=thing").status_code == 200
        finally:
            waits.let.set()
    assert {change.result().status_code for change in changes} == {200}


def test_what_is_searched_for_holds_up_no_request_for_known_items_and_has_the_requests_deadline(
    client, recommender, monkeypatch
):
    waits = Waits()
    monkeypatch.setattr(recommender.catalogue, "titled", waits)  # as the look-up of titles and nearest ids may
    monkeypatch.setattr(recommender.catalogue, "item", lambda item_id, item=recommender.catalogue.item: (
        item(item_id) if recommender.catalogue.get(item_id) else waits()
    ))  # fmt: skip
    slow = [{"titles": ["Thing 1"]}, *[{"history": ["B001", "UNKNOWN"]}] * 9]
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        answers = [pool.submit(client.post, "/recommend", json=wish | {"deadline_ms": 1000}) for wish in slow]
        until(lambda: len(waits.calls) >= 4)
        assert client.post("/recommend", json={"history": ["B001"]}).status_code == 200
        for answer in answers:
            refused(answer.result(), 504, "deadline")
    waits.let.set()
    assert len(recommender.batches) == 1


@pytest.mark.parametrize("where", ["score", "path"])
def test_a_score_that_is_no_number_is_an_error_of_the_server(client, recommender, monkeypatch, where):
    answer = recommender.alone(Request(("B001",), k=1))
    facts = {"score": float("nan"), "path": (PathStep("<a_1>", float("-inf")),)}
    broken = dataclasses.replace(answer, items=(dataclasses.replace(answer.items[0], **{where: facts[where]}),))
    monkeypatch.setattr(recommender, "alone", lambda request: broken)
    refused(client.post("/recommend", json={"history": ["B001"]}), 500)
