"""A small catalogue, a clock that does not wait, and the local server with settings for each backend."""

import threading
import warnings

import pytest

from tests.teacher.server import MODULES, Server, network_settings
from tsrec_jax.data.catalogue import Catalogue, Item
from tsrec_jax.teacher.pace import Clock


@pytest.fixture
def catalogue():
    """Six items on two levels: <a_1> and <a_2> are kinds, <b_1> is steel and <b_2> is wood."""
    return Catalogue(
        (
            Item("p1", "Steel hand drill", "A drill made of stainless steel.", "Acme"),
            Item("p2", "Wooden hand drill", "A drill with an oak handle.", "Borer"),
            Item("p3", "Steel pipe clamp", "A clamp made of stainless steel.", "Acme"),
            Item("p4", "Wooden bar clamp", "A clamp of oak.", "Borer"),
            Item("p5", "Steel drill bits", "Bits of stainless steel.", "Acme", "Tools"),
            Item("p6", "Wooden spring clamp", "A small clamp of oak.", ""),
        ),
        (
            ("<a_1>", "<b_1>"),
            ("<a_1>", "<b_2>"),
            ("<a_2>", "<b_1>"),
            ("<a_2>", "<b_2>"),
            ("<a_1>", "<b_1>"),
            ("<a_2>", "<b_2>"),
        ),
    )


class VirtualTime:
    """Seconds that pass only when somebody waits."""

    def __init__(self):
        self.seconds = 0.0
        self.waits = []
        self._lock = threading.Lock()

    def now(self):
        return self.seconds

    def wait(self, event, seconds):
        with self._lock:
            self.seconds += seconds
            self.waits.append(seconds)

    @property
    def clock(self):
        return Clock(self.now, self.wait)


@pytest.fixture
def virtual_time():
    return VirtualTime()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture(params=list(MODULES))
def backend(request):
    """The name of a network backend whose SDK is here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # google-generativeai says on import that its support has ended
        pytest.importorskip(MODULES[request.param], reason=f"needs the SDK of the backend {request.param!r}")
    return request.param


@pytest.fixture
def settings(backend, server, monkeypatch):
    """Settings that send the backend's questions to the local server, one at a time."""
    return network_settings(backend, server, monkeypatch)
