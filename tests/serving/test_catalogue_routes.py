"""The catalogue over HTTP, with a real one behind a recommender without a model."""

import json

import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")
pytest.importorskip("prometheus_client", reason="needs the extra [serve]")

from starlette.testclient import TestClient

from tests.serving.fakes import FakeRecommender
from tests.serving.test_live_catalogue import ITEMS, SID, live
from tsrec_jax.data.catalogue import Item
from tsrec_jax.serving import catalogue_follower
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
        (1, "Ann", "put", "4"),
        (2, "testclient", "put", "2"),
        (3, "testclient", "remove", "1"),
    ]
    assert lines(again.get("/catalogue/changes?after=1&limit=1", headers=ADMIN)) == journal[1:2]


def test_the_whole_catalogue_is_streamed_with_the_change_that_it_is_of(make_client):
    many = [Item(f"B{n}", f"Thing {n}") for n in range(1_203)]
    client = make_client(many, [SID] * len(many))
    client.put("/items/NEW", json=NEW, headers=ADMIN)
    client.delete("/items/B7", headers=ADMIN)
    response = client.get("/v1/catalogue")
    assert response.headers["x-last-change"] == "2" and "content-length" not in response.headers
    found = lines(response)
    assert [item["id"] for item in found] == [f"B{n}" for n in range(1_203) if n != 7] + ["NEW"]
    assert found[0] == client.get("/items/B0").json()
    assert lines(client.get("/catalogue/changes?after=2", headers=ADMIN)) == []


def test_the_journal_needs_the_token_and_a_name_in_it_is_one_line(make_client):
    client = make_client()
    assert client.get("/catalogue/changes").status_code == 401
    for name in (b"a\xc2\x85b", b"x" * 201):
        response = client.put("/items/4", json=NEW, headers=ADMIN | {"X-Changed-By": name})
        assert response.status_code == 422 and "hanged" in response.json()["error"]
    assert client.catalogue.last_change == 0
    for name in ("Ann", "Zoë", "Łukasz Ö", "李"):
        client.put("/items/4", json=NEW, headers=ADMIN | {"X-Changed-By": name.encode()})
        assert lines(client.get("/catalogue/changes", headers=ADMIN))[-1]["who"] == name


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
