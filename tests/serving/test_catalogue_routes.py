"""The catalogue over HTTP, with a real one behind a recommender without a model."""

import json

import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")
pytest.importorskip("prometheus_client", reason="needs the extra [serve]")

from starlette.testclient import TestClient

from tests.serving.fakes import FakeRecommender
from tests.serving.test_live_catalogue import ITEMS, OTHER, SID, live
from tsrec_jax.data.catalogue import Item
from tsrec_jax.serving import catalogue_follower, catalogue_routes
from tsrec_jax.serving.app import make_app
from tsrec_jax.serving.live_catalogue import LiveCatalogue
from tsrec_jax.serving.service import Service

ADMIN = {"Authorization": "Bearer a-token-of-the-test"}
NEW = {"title": "Blue pump", "sid": "".join(SID)}


@pytest.fixture
def make_client(tmp_path):
    """make_client(items): a client of a service whose catalogue is kept in a file; the same file for each."""
    services = []

    def make(items=ITEMS, sids=None):
        recommender = FakeRecommender()
        recommender.catalogue = live(items, tmp_path / "changes", sids)
        services.append(Service(recommender, max_queue=4, max_wait=0.0))
        client = TestClient(make_app(services[-1], admin_token=ADMIN["Authorization"].split()[1]))
        client.catalogue = recommender.catalogue
        return client

    yield make
    for service in services:
        service.drain()


def lines(response):
    assert response.status_code == 200 and response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def test_changes_outlive_the_server_and_the_journal_names_who_made_them(make_client):
    client = make_client()
    assert (
        client.put("/items/4", json=NEW | {"brand": "Acme"}, headers=ADMIN | {"X-Changed-By": "Ann"}).status_code == 201
    )
    assert client.put("/v1/items/2", json=NEW | {"blocked": True}, headers=ADMIN).json() == {
        "id": "2",
        "new": False,
        "items": 4,
    }
    assert client.delete("/items/1", headers=ADMIN).status_code == 200
    again = make_client()
    assert again.get("/items/1").status_code == 404 and again.get("/items/2").json()["blocked"]
    assert again.get("/items?q=acme").json()["items"] == [] and again.get("/items?q=blue").json()["of"] == 3
    assert again.get("/items/4").json() == {
        "id": "4",
        "title": "Blue pump",
        "sid": list(SID),
        "blocked": False,
        "brand": "Acme",
    }
    journal = lines(again.get("/catalogue/changes", headers=ADMIN))
    assert [(c["number"], c["who"], c["action"], c["id"]) for c in journal] == [
        (1, "Ann from testclient", "put", "4"),
        (2, "testclient", "put", "2"),
        (3, "testclient", "remove", "1"),
    ]
    assert lines(again.get("/catalogue/changes?after=1&limit=1", headers=ADMIN)) == journal[1:2]


def test_a_patch_changes_what_it_states_and_nothing_else(make_client):
    client, stated = make_client(), {"title": "Steel pump, 2 bar", "brand": "Acme"}
    other = make_client().catalogue  # of another server
    other.block(["2"], who="legal")
    response = client.patch("/v1/items/2", json=stated, headers=ADMIN | {"X-Changed-By": "Ann"})
    changed = {"id": "2", "sid": list(OTHER), "blocked": True, **stated}
    assert (response.status_code, response.json()) == (200, changed | {"items": 3})
    client.patch("/items/2", json={"blocked": False, "sid": None}, headers=ADMIN)
    again = make_client()
    assert again.get("/items/2").json() == changed | {"blocked": False}
    again.patch("/items/2", json={"sid": "".join(SID)}, headers=ADMIN)
    assert again.get("/items/2").json() == changed | {"blocked": False, "sid": list(SID)}
    journal = lines(again.get("/catalogue/changes", headers=ADMIN))
    assert [(c["who"], c["action"]) for c in journal[:2]] == [("legal", "block"), ("Ann from testclient", "change")]
    for path, body, status, words in (
        ("/items/9", {"blocked": True}, 404, "item '9' is not in the catalogue"),
        ("/items/2", {}, 422, "state at least one of title"),
        ("/items/2", {"title": None}, 422, "state at least one of title"),
        ("/items/2", {"title": " "}, 422, "title: must not be blank"),
        ("/items/2", {"sid": "<a_9><b_9>"}, 422, "'<a_9>' is not one of"),
        ("/items/2", {"description": "x"}, 422, "description: no such key"),
    ):
        response = again.patch(path, json=body, headers=ADMIN)
        assert response.status_code == status and words in response.json()["error"], response.text
    assert again.patch("/items/2", json={"blocked": True}).status_code == 401
    assert again.patch("/items/2", json={"sid": "".join(SID), "blocked": False}, headers=ADMIN).status_code == 200
    assert again.catalogue.last_change == 4, "what is so already is no change"


def test_a_copy_of_the_catalogue_stays_one_by_the_journal_alone(make_client):
    client = make_client()
    client.catalogue.block(["1"])
    response = client.get("/catalogue", headers=ADMIN)
    copy, last = {item["id"]: item for item in lines(response)}, response.headers["x-last-change"]
    client.put("/items/4", json=NEW, headers=ADMIN)
    client.delete("/items/4", headers=ADMIN)
    client.put("/items/1", json=NEW, headers=ADMIN)
    client.catalogue.block(["1"], blocked=False)
    client.catalogue.restore(["1"])
    client.patch("/items/2", json={"blocked": True}, headers=ADMIN)
    client.delete("/items/3", headers=ADMIN)
    response = client.get(f"/catalogue/changes?after={last}", headers=ADMIN)
    assert response.headers["x-model"] == "first"
    assert int(response.headers["x-last-change"]) == client.catalogue.last_change
    for change in lines(response):
        assert change["number"] > int(last) and change["at"]
        copy[change["id"]] = change["item"]
    wanted = {item["id"]: item for item in lines(client.get("/catalogue", headers=ADMIN))}
    assert {item_id: item for item_id, item in copy.items() if item is not None} == wanted
    assert sorted(wanted) == ["1", "2"] and not wanted["1"]["blocked"] and wanted["2"]["blocked"]


def test_changes_of_others_are_told_once_the_items_have_them(make_client, monkeypatch):
    monkeypatch.setattr(catalogue_follower, "FOLLOW_SECONDS", 3600)
    client, other = make_client(), make_client().catalogue
    other.remove("1")
    assert lines(client.get("/catalogue/changes", headers=ADMIN)) == []
    client.catalogue.follow()
    (change,) = lines(client.get("/catalogue/changes", headers=ADMIN))
    assert change["id"] == "1" and change["item"] is None


def test_the_whole_catalogue_is_streamed_with_the_change_that_it_is_of(make_client, monkeypatch):
    many = [Item(f"B{n}", f"Thing {n}") for n in range(1_203)]
    client = make_client(many, [SID] * len(many))
    client.put("/items/NEW", json=NEW, headers=ADMIN)
    client.delete("/items/B7", headers=ADMIN)
    assert client.get("/v1/catalogue").status_code == 401
    response = client.get("/v1/catalogue", headers=ADMIN)
    assert response.headers["x-last-change"] == "2" and response.headers["x-model"] == "first"
    assert "content-length" not in response.headers
    found = lines(response)
    assert [item["id"] for item in found] == [f"B{n}" for n in range(1_203) if n != 7] + ["NEW"]
    assert found[0] == client.get("/items/B0").json()
    assert lines(client.get("/catalogue/changes?after=2", headers=ADMIN)) == []
    monkeypatch.setattr(catalogue_routes, "item_json", lambda item: 1 / 0)  # for a HEAD no item is looked at
    head = client.head("/v1/catalogue", headers=ADMIN)
    assert (head.status_code, head.headers["x-last-change"], head.content) == (200, "2", b"")
    assert "content-length" not in head.headers


def test_the_journal_needs_the_token_and_a_name_in_it_is_one_line(make_client):
    client = make_client()
    assert client.get("/catalogue/changes").status_code == 401
    for name in (b"a\xc2\x85b", b"x" * 201):
        response = client.put("/items/4", json=NEW, headers=ADMIN | {"X-Changed-By": name})
        assert response.status_code == 422 and "hanged" in response.json()["error"]
    assert client.catalogue.last_change == 0
    for name in ("Ann", "Zoë", "Łukasz Ö", "李"):
        client.put("/items/4", json=NEW | {"title": name}, headers=ADMIN | {"X-Changed-By": name.encode()})
        assert lines(client.get("/catalogue/changes", headers=ADMIN))[-1]["who"] == f"{name} from testclient"


def test_a_change_that_cannot_be_kept_is_503_and_not_made(make_client, tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue_follower, "FOLLOW_SECONDS", 3600)  # nobody opens the file while it is damaged
    client = make_client()
    client.put("/items/4", json=NEW, headers=ADMIN)
    assert client.delete("/items/5", headers=ADMIN).status_code == 404
    file = tmp_path / "changes"
    for damage, words in ((lambda: file.write_bytes(bytes(8192)), "changes: "), (file.unlink, "removed or replaced")):
        client.catalogue.changes.reopen()
        damage()
        for response in (client.put("/items/5", json=NEW, headers=ADMIN), client.delete("/items/4", headers=ADMIN)):
            assert response.status_code == 503 and words in response.json()["error"]
    assert client.get("/catalogue/changes", headers=ADMIN).status_code == 503
    assert client.get("/items/5").status_code == 404 and client.get("/items/4").status_code == 200


def test_a_server_that_cannot_follow_the_changes_is_not_ready(make_client, monkeypatch):
    client = make_client()
    assert "tsrec_catalogue_behind_seconds 0.0" in client.get("/metrics").text
    monkeypatch.setattr(LiveCatalogue, "behind", 60.0)
    assert "tsrec_catalogue_behind_seconds 60.0" in client.get("/metrics").text
    response = client.get("/readyz")
    assert response.status_code == 503 and "changes of the catalogue cannot be read" in response.json()["error"]
