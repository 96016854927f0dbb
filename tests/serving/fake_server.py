"""A process that serves the fake recommender: `python fake_server.py SECONDS_A_BATCH QUEUE`."""

import sys

from tests.serving.fakes import FakeRecommender
from tsrec_jax.serving.http import run
from tsrec_jax.serving.server import ServerSettings, bind

if __name__ == "__main__":
    seconds, queue = sys.argv[1:]
    settings = ServerSettings(port=0, queue=int(queue))
    run(FakeRecommender(seconds=float(seconds)), settings, bind(settings.host, settings.port))
