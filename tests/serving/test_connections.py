"""What the service does with connections: broken requests, slow ones, too many, and those that are there at its end."""

import contextlib
import json
import socket
import sys
import threading
import time

import pytest

pytest.importorskip("uvicorn", reason="needs the extra [serve]")
pytest.importorskip("fastapi", reason="needs the extra [serve]")

from tests.serving import processes
from tests.serving.clients import until
from tsrec_jax.serving import server

GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def running():
    with processes.fake(settings=["connections=8", "reuse_port=True"], TSREC_FAKE_HEAD_SECONDS="0.5") as started:
        yield started


def connect(running):
    return socket.create_connection(("127.0.0.1", running.port), timeout=20)


def one(connection):
    """One answer in JSON."""
    answer = connection.recv(65_536)
    while not answer.endswith(b"}") and (more := connection.recv(65_536)):
        answer += more
    return answer


def rest(connection):
    """What is said on a connection up to its end."""
    received = b""
    while chunk := connection.recv(65_536):
        received += chunk
    return received


def raw(running, content, more=b""):
    """What the server says to these bytes, up to the end of the connection."""
    with connect(running) as connection:
        connection.sendall(content)
        connection.sendall(more)
        return rest(connection)


@pytest.mark.parametrize(
    "content",
    [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 100_000],
    ids=["no request", "no host", "a header without end"],
)
def test_what_is_no_http_request_is_a_json_error_too(running, content):
    head, body = raw(running, content).split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and b"application/json" in head
    assert list(json.loads(body)) == ["error"]


def test_a_client_that_goes_on_sending_reads_its_refusal_and_is_cut_off_later(running):
    with connect(running) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        received = connection.recv(1)
        connection.sendall(b"a" * 1_000_000)
        while chunk := connection.recv(65_536):
            received += chunk
        assert received.startswith(b"HTTP/1.1 400 ") and received.endswith(b"}")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            for _ in range(200):  # 10 s
                connection.sendall(b"a")
                time.sleep(0.05)


def test_a_chunked_body_beyond_the_limit_is_refused_on_the_wire(running):
    head = (
        b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    answer = raw(running, head, chunk * 17 + b"0\r\n\r\n")
    assert b" 413 " in answer.splitlines()[0] and b'{"error": "the body is larger than' in answer


def test_a_body_whose_length_is_said_twice_is_refused_and_ends_the_connection(running):
    head = (
        b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    answer = raw(running, head, b"0\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ") and b"length is said once" in answer
    assert answer.count(b"HTTP/1.1") == 1


def test_an_announced_body_beyond_the_limit_is_refused_before_it_is_sent(running):
    head = b"POST /recommend HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2000000\r\n\r\n"
    answer = raw(running, head)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_web_socket_is_not_offered(running):
    head = b"GET /recommend HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n"
    assert raw(running, head).startswith(b"HTTP/1.1 405 ")


@pytest.mark.parametrize("before", [b"", GET], ids=["at once", "after a request"])
def test_a_head_that_does_not_end_in_time_is_408_whatever_comes_meanwhile(running, before):
    with connect(running) as connection:
        if before:
            connection.sendall(before)
            assert one(connection).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nA: ")
        sender = threading.Thread(target=trickle, args=(connection,), daemon=True)
        sender.start()
        answer = rest(connection)
        sender.join()
    assert answer.startswith(b"HTTP/1.1 408 ") and answer.endswith(b'did not arrive within 0.5 s"}')


def trickle(connection):
    """A byte now and then, until nobody takes it any more."""
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(b"a")
            time.sleep(0.05)


def test_a_request_that_takes_longer_than_its_head_may_is_answered(running):
    body = json.dumps({"history": ["B001"], "k": 49}).encode()  # a second of work
    head = f"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with connect(running) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + body)
        assert one(connection).startswith(b"HTTP/1.1 200 ")
        time.sleep(0.6)
        connection.sendall(GET)  # an idle one is kept
        assert one(connection).startswith(b"HTTP/1.1 200 ")


def test_connections_beyond_the_limit_are_refused_until_one_ends(running):
    until(lambda: running.request("GET", "/livez")[0] == 200)
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(running)) for _ in range(8)]
        for connection in held:
            connection.sendall(GET)
            assert one(connection).startswith(b"HTTP/1.1 200 ")
        for sent in (b"", GET, GET + b"a" * 100_000):  # what has been sent already is read, or its client is reset
            with connect(running) as ninth:
                ninth.sendall(sent)
                time.sleep(0.1)
                ninth.sendall(sent)
                assert rest(ninth).startswith(b"HTTP/1.1 503 ")
        held[0].close()
        until(lambda: running.request("GET", "/livez")[0] == 200)
        held[1].sendall(GET)  # those that are there are served
        assert one(held[1]).startswith(b"HTTP/1.1 200 ")
    until(lambda: sum("8 connections are open" in line for line in running.logged) == 1)


def test_a_connection_on_which_nothing_comes_is_closed_soon(running):
    with connect(running) as silent:
        assert silent.recv(1) == b""  # after the half second that a head may take


def test_while_it_leaves_it_says_so_and_serves_on():
    with processes.fake(settings=["drain_delay=60"]) as running:
        running.stop()
        until(lambda: running.request("GET", "/readyz")[0] == 503)
        assert running.request("GET", "/livez")[0] == 200
        assert running.request("POST", "/recommend", {"history": ["B001"]})[0] == 200
        with connect(running) as connection:
            connection.sendall(GET)
            assert b"connection: close" in rest(connection).lower()


def test_a_signal_resets_no_connection_on_which_something_was_sent():
    with processes.fake(0.01) as running:
        address, outcomes, begun = ("127.0.0.1", running.port), [], threading.Barrier(9)

        def ask(kept):
            begun.wait()
            while True:
                try:
                    connection = socket.create_connection(address, timeout=20)
                except ConnectionRefusedError:
                    return
                with connection:
                    answered = True
                    while answered:
                        connection.sendall(GET)
                        answer = one(connection)
                        outcomes.append(answer[9:12])
                        answered = kept and b"connection: close" not in answer.lower()

        clients = [threading.Thread(target=ask, args=(number % 2 == 0,)) for number in range(8)]
        for client in clients:
            client.start()
        begun.wait()
        until(lambda: len(outcomes) > 100)
        running.stop()
        for client in clients:
            client.join(20)
        assert not any(client.is_alive() for client in clients)
        assert running.ended(15) == 0
    assert set(outcomes) == {b"200"}, set(outcomes)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux' packet filters")
def test_a_listener_that_drops_what_is_new_has_no_connection_left_to_reset():
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as before:
        assert server.drop_new(listener)
        with pytest.raises(TimeoutError):
            socket.create_connection(listener.getsockname(), timeout=0.2)
        listener.settimeout(0)
        with listener.accept()[0] as accepted:
            accepted.sendall(b"made before")
            assert before.recv(100) == b"made before"
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_two_servers_share_a_port_and_either_may_go(running):
    settings = ["reuse_port=True", f"port={running.port}"]
    with processes.fake(settings=settings) as second:
        served = [set(), set()]
        for number in range(24):  # each on a connection of its own, which the system gives to one of the two
            headers = {"X-Request-ID": f"request-{number}"}
            assert running.request("POST", "/recommend", {"history": ["B001"]}, headers)[0] == 200
        for server, seen in zip((running, second), served, strict=True):
            until(lambda server=server: any("[request-" in line for line in server.logged))
            seen.update(line.rpartition("[")[2] for line in server.logged if "[request-" in line)
        assert not served[0] & served[1]
        second.stop()
        assert second.ended(15) == 0
    for _ in range(10):
        assert running.request("POST", "/recommend", {"history": ["B001"]})[0] == 200
