"""The verb `serve` on a real, tiny export: what comes over HTTP is what the recommender says."""

import contextlib
import json
import sys
import time

import pytest

pytest.importorskip("uvicorn", reason="needs the extra [serve]")
pytest.importorskip("fastapi", reason="needs the extra [serve]")

from benchmarks import serve as load
from tests.serving import processes
from tsrec_jax.main import main
from tsrec_jax.serving.catalogue_changes import Changes, changes_file
from tsrec_jax.serving.recommender import Recommender, Request

TOKEN = "a token of the test"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def recommender(exported):
    return Recommender.load(exported)


@pytest.fixture(scope="module")
def running(exported):
    command = ["-m", "tsrec_jax", "serve", f"--export={exported}", "--port=0", "--queue=200"]
    with processes.running(command, TSREC_ADMIN_TOKEN=TOKEN) as started:
        started.wait_for("ready: 30 items", 300)
        yield started
        started.stop()
        assert started.ended() == 0
    assert "every accepted request was answered" in started.printed[-1]


def items(running, **body):
    status, found = running.request("POST", "/recommend", body)
    assert status == 200, found
    return found["items"]


def test_recommendations_are_those_of_the_recommender_with_their_paths(running, recommender):
    for request in (Request(("B000", "B005"), 7), Request(("B003",), 20, True, ("B001",)), Request(("B002",), 3)):
        (wanted,) = recommender.answer([request])
        found = items(
            running,
            history=list(request.history),
            k=request.k,
            exclude_history=request.exclude_history,
            exclude=list(request.exclude),
        )
        assert load.is_answer(wanted, found)
        for item in found:
            assert "".join(step["token"] for step in item["path"]) == item["sid"]
            assert sum(step["score"] for step in item["path"]) == pytest.approx(item["score"], abs=1e-4)


def test_titles_lead_to_the_same_as_ids(running):
    found, wanted = items(running, titles=["Thing 0", "Thing 5"]), items(running, history=["B000", "B005"])
    # While shorter prompts are still compiled, the same request may be padded to another length the next time.
    assert [item["id"] for item in found] == [item["id"] for item in wanted]
    scores = [[step["score"] for item in each for step in item["path"]] for each in (found, wanted)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_under_load_every_answer_is_that_of_its_request_alone(running, recommender):
    running.wait_for("compiled", 300)  # until then answers share the cores with the compiler
    cases = load.make_cases(recommender, 20)
    outcomes, _ = load.closed_loop(running.port, cases, 16, 2.0)
    assert len(outcomes) >= 20
    found = load.summary(outcomes, 2.0)
    assert found["answered"] == found["requests"] and found["wrong"] == 0


def test_the_benchmark_of_the_service_reports_from_end_to_end(running, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(load, "serving", lambda export, queue: contextlib.nullcontext(running.port))
    files = [f"--json={tmp_path / 'report.json'}", f"--out={tmp_path / 'report.md'}"]
    sizes = ["--seconds=0.5", "--queue=200", "--cases=4"]
    monkeypatch.setattr(sys, "argv", ["benchmarks/serve.py", f"--export={exported}", *sizes, *files])
    load.main()
    facts = json.loads((tmp_path / "report.json").read_text())
    assert facts["cases"] == 4 and all(row["answered"] and not row["lost"] for row in facts["by_clients"].values())
    page = (tmp_path / "report.md").read_text()
    assert page == load.markdown(facts)
    assert f"`PYTHONPATH=. python benchmarks/serve.py --export={exported}" in page


def test_an_item_put_is_recommended_at_once_and_gone_when_removed(running):
    best = items(running, history=["B000"], k=1)[0]
    body = {"title": "A twin of the best", "sid": best["sid"]}
    assert running.request("PUT", "/items/TWIN", body, ADMIN)[0] == 201
    assert {item["id"] for item in items(running, history=["B000"], k=2)} >= {"TWIN"}
    assert items(running, history=["TWIN"], k=5)[0]["title"]
    assert running.request("PUT", "/items/TWIN", body | {"blocked": True}, ADMIN)[0] == 200
    assert "TWIN" not in {item["id"] for item in items(running, history=["B000"], k=20)}
    assert running.request("DELETE", "/items/TWIN", headers=ADMIN)[0] == 200
    status, error = running.request("POST", "/recommend", {"history": ["TWIN"]})
    assert status == 422 and "'TWIN'" in error["error"]
    assert running.request("PUT", "/items/ODD", {"title": "x", "sid": "<a_1><b_2><z_9>"}, ADMIN)[0] == 422


def test_changes_go_from_the_server_to_the_file_beside_the_export_and_from_there_to_the_server(running, exported):
    body = {"title": "A new thing", "sid": items(running, history=["B000"], k=1)[0]["sid"]}
    assert running.request("PUT", "/items/NEW", body, ADMIN | {"X-Changed-By": "Ann"})[0] == 201
    assert Changes(changes_file(exported)).last("NEW").who == "Ann from 127.0.0.1"
    assert main(["catalogue", "remove", "NEW", f"--export={exported}"]) == 0
    limit = time.monotonic() + 60
    while running.request("GET", "/items/NEW")[0] != 404:
        assert time.monotonic() < limit, "the server did not see what the command has changed"
        time.sleep(0.1)


def test_a_mistake_is_422_with_the_recommenders_reason(running):
    status, error = running.request("POST", "/recommend", {"history": ["B0O0"]})
    assert status == 422 and "'B0O0'" in error["error"]
