import concurrent.futures
import importlib.util
import json
import logging
import os
import signal
import socket
import sys
import time

import pytest

pytest.importorskip("uvicorn", reason="needs the extra [serve]")
pytest.importorskip("fastapi", reason="needs the extra [serve]")

from tests.serving import processes
from tests.serving.fakes import SLOW_K, FakeRecommender
from tsrec_jax.errors import UserError
from tsrec_jax.main import main
from tsrec_jax.serving import server
from tsrec_jax.serving.answers import Request
from tsrec_jax.serving.server import bind, run, serve
from tsrec_jax.serving.settings import ServerSettings


def until(condition, seconds=30.0):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.01)


def wanted(number):
    return [item.item_id for item in FakeRecommender().alone(Request((f"B{number % 30:03d}",), 5)).items]


def value(running, name):
    lines = running.request("GET", "/metrics")[1].splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).rsplit(" ", 1)[1])


def test_a_signal_under_load_finishes_what_was_accepted_refuses_the_rest_and_exits_with_0():
    with processes.fake(0.3, 64) as running, concurrent.futures.ThreadPoolExecutor(32) as pool:

        def ask(n):
            return running.request("POST", "/recommend", {"history": [f"B{n % 30:03d}"], "k": 5})

        with socket.create_connection(("127.0.0.1", running.port)) as idle:  # kept alive, and not to be waited for
            idle.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200" in idle.recv(10_000)
            sent = [pool.submit(ask, n) for n in range(20)]
            until(lambda: value(running, "tsrec_queue_depth") >= 12)
            assert not any(future.done() and future.result()[0] != 200 for future in sent)
            running.stop()
            until(lambda: running.request("GET", "/health")[0] == 503)
            assert ask(0) == (503, {"error": "the server is shutting down"})
            given = 0
            for n, future in enumerate(sent):
                status, body = future.result(30)
                if status == 503:  # it had not come in yet when the signal did
                    assert body == {"error": "the server is shutting down"}
                    continue
                assert (status, [item["id"] for item in body["items"]]) == (200, wanted(n))
                given += 1
            assert given >= 12
            assert running.ended(15) == 0
    assert "every accepted request was answered" in running.printed[-1]
    assert "Traceback" not in "".join(running.logged)


def serve_here(recommender):
    """Serves in this process until something ends it."""
    with bind("127.0.0.1", 0) as listener:
        run(recommender, ServerSettings(), listener)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_server_and_the_handlers_are_put_back(monkeypatch, capsys, number):
    recommender = FakeRecommender()
    monkeypatch.setattr(recommender, "warm_up", lambda report, **options: os.kill(os.getpid(), number))
    before = signal.getsignal(number)
    serve_here(recommender)
    assert "every accepted request was answered" in capsys.readouterr().out
    assert signal.getsignal(number) is before


def test_a_failed_warm_up_ends_the_server_and_is_our_own_failure(monkeypatch, capsys):
    recommender = FakeRecommender()
    monkeypatch.setattr(recommender, "warm_up", lambda report, **options: 1 / 0)
    with pytest.raises(RuntimeError, match="the warm-up failed"):
        serve_here(recommender)
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_thread_that_answers_no_more_ends_the_server_and_is_our_own_failure():
    with processes.fake(TSREC_FAKE_FAILS="1") as running:
        assert running.request("POST", "/recommend", {"history": ["B001"]})[0] == 500
        assert running.ended(20) == 1
    assert "nothing is answered any more" in "".join(running.logged)
    assert running.logged[-1].startswith("RuntimeError: the thread that answers has failed")


def test_each_line_of_the_log_is_there_once(monkeypatch, capsys):
    recommender = FakeRecommender()

    def warm_up(report, **options):
        report("a line")
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(recommender, "warm_up", warm_up)
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(sys.stderr)])  # as absl leaves it
    serve_here(recommender)
    assert capsys.readouterr().err.count("a line") == 1
    assert logging.getLogger("tsrec_jax").propagate


def test_an_idle_connection_is_kept_longer_than_load_balancers_keep_theirs(monkeypatch):
    assert ServerSettings().keep_alive > 60
    recommender, config, given = FakeRecommender(), server.Config, {}
    monkeypatch.setattr(recommender, "warm_up", lambda report, **options: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(server, "Config", lambda app, **options: given.update(options) or config(app, **options))
    serve_here(recommender)
    assert given["timeout_keep_alive"] == ServerSettings().keep_alive


@pytest.fixture(scope="module")
def running():
    with processes.fake(TSREC_ADMIN_TOKEN="s3cret of sixteen") as started:
        yield started


def test_a_client_that_leaves_frees_its_place_in_the_queue(running):
    def post(k):
        body = json.dumps({"history": ["B001"], "k": k}).encode()
        head = f"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        client = socket.create_connection(("127.0.0.1", running.port))
        client.sendall(head.encode() + b"\r\n\r\n" + body)
        return client

    before = value(running, "tsrec_batch_size_sum")
    clients = [post(SLOW_K)]
    time.sleep(0.2)  # it is being computed, the others wait
    clients += [post(5) for _ in range(7)]
    until(lambda: value(running, "tsrec_queue_depth") >= 6)
    for client in clients:
        client.close()
    until(lambda: value(running, 'tsrec_refused_total{reason="client_gone"}') == 8)
    assert value(running, "tsrec_queue_depth") == 0
    until(lambda: value(running, "tsrec_batch_size_sum") == before + 1)
    assert running.request("POST", "/recommend", {"history": ["B001"]})[0] == 200
    assert value(running, "tsrec_batch_size_sum") == before + 2


def test_the_token_comes_from_the_environment(running):
    item = {"title": "A new thing", "sid": "<a_1><b_2><c_3>"}
    assert running.request("PUT", "/items/NEW", item)[0] == 401
    assert running.request("PUT", "/items/NEW", item, {"Authorization": "Bearer s3cret of sixteen"})[0] == 201


def test_a_taken_port_is_the_users_error_and_told_before_the_model_is_loaded(capsys, tmp_path):
    (tmp_path / "export").mkdir()
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port}: Address already in use"):
            bind("127.0.0.1", port)
        assert main(["serve", f"--workdir={tmp_path}", f"--port={port}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tsrec: cannot listen") and len(error.splitlines()) == 1


def test_a_port_that_another_server_took_while_the_model_was_loading_is_the_users_error():
    with bind("127.0.0.1", 0) as first, bind("127.0.0.1", first.getsockname()[1]) as second:
        first.listen()
        with pytest.raises(UserError, match="Address already in use"):
            run(FakeRecommender(), ServerSettings(), second)


@pytest.mark.parametrize(
    ("host", "word"), [("no.such.host.invalid", "no.such.host.invalid"), ("203.0.113.7", "assign")]
)
def test_an_address_that_is_not_ours_is_the_users_error(host, word):
    with pytest.raises(UserError, match=word):
        bind(host, 0)


def test_a_missing_extra_says_how_to_install_it(monkeypatch, capsys, tmp_path):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("fastapi", "uvicorn") else found(name)
    )
    assert main(["serve", f"--export={tmp_path}"]) == 2
    assert "serve needs fastapi, uvicorn" in (error := capsys.readouterr().err)
    assert "pip install 'tsrec_jax[serve]'" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--workdir=DIR or --export=FOLDER"]),
        (["--workdir=a", "--export=b"], ["not both"]),
        (["--workdir=WORKDIR"], ["export", "run the verb `export`"]),
        (["--export=WORKDIR/nowhere"], ["nowhere: not there"]),
        (["--export=WORKDIR"], ["sid_catalogue.json"]),
        (["--export=WORKDIR", "--port=70000"], ["--port=70000"]),
        (["--export=WORKDIR", "--queue=0"], ["--queue=0"]),
        (["--export=WORKDIR", "--keep_alive=0"], ["--keep_alive=0"]),
        (["--export=WORKDIR", "--batch_wait_ms=-1"], ["--batch_wait_ms=-1"]),
        (["--export=WORKDIR", "--batch_wait_ms=nan"], ["--batch_wait_ms=nan", "finite"]),
        (["--export=WORKDIR", "--batch_wait_ms=inf"], ["--batch_wait_ms=inf", "finite"]),
        (["--export=WORKDIR/file"], ["file: not a folder"]),
        (["--export=WORKDIR", "--deadline_ms=0"], ["--deadline_ms=0"]),
        (["--export=WORKDIR", "--beams=0"], ["beams"]),
        (["--export=WORKDIR", "--dry_run"], ["describe"]),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(capsys, tmp_path, arguments, words):
    (tmp_path / "file").write_text("no export")
    given = [argument.replace("WORKDIR", str(tmp_path)) for argument in arguments]
    assert main(["serve", *given, *([] if "--port=70000" in given else ["--port=0"])]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tsrec: ") and len(error.splitlines()) == 1
    for word in words:
        assert word in error


def test_export_is_for_serve_only(capsys, tmp_path):
    assert main(["recommend", f"--export={tmp_path}", "--history=1"]) == 2
    assert "--export is for the verb serve" in capsys.readouterr().err


def test_it_listens_on_loopback_unless_told_otherwise():
    assert ServerSettings().host == "127.0.0.1"
    with bind(ServerSettings().host, 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("wait", [float("nan"), float("inf")])
def test_a_wait_without_end_is_refused_from_python_too(wait):
    with pytest.raises(UserError, match="batch_wait_ms"):
        ServerSettings(batch_wait_ms=wait)


def test_a_hang_up_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup leaves it
    try:
        with server.on_signals(lambda number, frame: None):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_loading_warns_of_is_json_where_the_log_is(monkeypatch, tmp_path, capsys):
    from tsrec_jax.serving.recommender import Recommender

    def load(folder, **options):
        logging.getLogger("tsrec_jax.programs").warning("a program is thrown away")
        raise UserError("that is all")

    monkeypatch.setattr(Recommender, "load", load)
    with pytest.raises(UserError, match="that is all"):
        server.serve(tmp_path, ServerSettings(port=0, log="json"), {})
    assert json.loads(capsys.readouterr().err)["message"] == "a program is thrown away"


def test_a_signal_while_loading_ends_quietly(monkeypatch, tmp_path, capsys):
    from tsrec_jax.serving.recommender import Recommender

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Recommender, "load", lambda folder, **options: signal.raise_signal(signal.SIGTERM))
    server.serve(tmp_path, ServerSettings(port=0), {})
    assert "stopped while loading" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_token_that_is_guessed_is_refused_before_anything_is_loaded(monkeypatch, tmp_path):
    monkeypatch.setenv("TSREC_ADMIN_TOKEN", "secret")
    with pytest.raises(UserError, match="TSREC_ADMIN_TOKEN has 6 characters: a token has at least 16"):
        serve(tmp_path, ServerSettings(port=0), {})
