"""A process that serves the fake recommender: `python fake_server.py SECONDS_A_BATCH [SETTING=VALUE ...]`.

With TSREC_FAKE_FAILS its thread that answers fails at the first batch; TSREC_FAKE_HEAD_SECONDS is how long the head of
a request may take.
"""

import ast
import itertools
import os
import sys

from tests.serving.fakes import FakeRecommender
from tsrec_jax.serving.connections import Config
from tsrec_jax.serving.metrics import Metrics
from tsrec_jax.serving.server import bind, run
from tsrec_jax.serving.settings import ServerSettings


def value(text):
    """A number or a truth value where it is one."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


if __name__ == "__main__":
    seconds, *given = sys.argv[1:]
    settings = ServerSettings(**{"port": 0} | {name: value(text) for name, text in (pair.split("=") for pair in given)})
    if "TSREC_FAKE_FAILS" in os.environ:
        Metrics.batch = lambda metrics, size, seconds: 1 / 0
    if limit := os.environ.get("TSREC_FAKE_HEAD_SECONDS"):
        Config.head_seconds = float(limit)
    versions = itertools.count(1)

    def load():
        return FakeRecommender(seconds=float(seconds), version=f"version {next(versions)}")

    listener = bind(settings.host, settings.port, shared=settings.reuse_port)
    run(load(), settings, listener, load)
