"""Servers as processes of their own, for tests: started, asked, signalled, and always ended."""

import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
FAKE = ROOT / "tests" / "serving" / "fake_server.py"


class Server:
    """A running process with what it printed."""

    def __init__(self, command, python=sys.executable, **environment):
        self.process = subprocess.Popen(
            [str(python), *map(str, command)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.printed = []
        self.logged = []
        self._readers = [
            threading.Thread(target=lambda pipe=pipe, into=into: into.extend(iter(pipe.readline, "")), daemon=True)
            for pipe, into in ((self.process.stdout, self.printed), (self.process.stderr, self.logged))
        ]
        for reader in self._readers:
            reader.start()

    def wait_for(self, text, seconds=90.0):
        """Waits for a line with the text and returns it."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            for line in self.printed:
                if text in line:
                    return line
            assert self.process.poll() is None, "".join(self.printed + self.logged)
            time.sleep(0.01)
        raise AssertionError(f"no {text!r} in " + "".join(self.printed + self.logged))

    @property
    def port(self):
        return int(re.search(r":(\d+)", self.wait_for("listening on http://"))[1])

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def request(self, method, path, body=None, headers=None, timeout=60.0):
        """One request on a connection of its own: the status and the JSON (or text) of the answer."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)) as connection:
            given = {"Content-Type": "application/json"} | (headers or {})
            connection.request(method, path, None if body is None else json.dumps(body), given)
            response = connection.getresponse()
            text = response.read().decode()
            is_json = response.headers["Content-Type"] == "application/json"
            return response.status, json.loads(text) if is_json else text

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def ended(self, seconds=60.0):
        """Waits for the end and returns the exit code."""
        code = self.process.wait(seconds)
        for reader in self._readers:
            reader.join(10)
        return code


@contextlib.contextmanager
def running(command, python=sys.executable, **environment):
    """A server that is ended with the block, whatever happens in it."""
    server = Server(command, python, **environment)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.ended()
        server.process.stdout.close()
        server.process.stderr.close()


@contextlib.contextmanager
def fake(seconds=0.0, queue=64, settings=(), **environment):
    """The fake recommender's server, ready; `settings` such as "connections=3"."""
    with running([FAKE, seconds, f"queue={queue}", *settings], **environment) as server:
        server.wait_for("ready")
        yield server
