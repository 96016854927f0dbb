"""A process that serves the fake recommender: `python fake_server.py SECONDS_A_BATCH QUEUE`.

With TSREC_FAKE_FAILS its thread that answers fails at the first batch.
"""

import os
import sys

from tests.serving.fakes import FakeRecommender
from tsrec_jax.serving.metrics import Metrics
from tsrec_jax.serving.server import bind, run
from tsrec_jax.serving.settings import ServerSettings

if __name__ == "__main__":
    seconds, queue = sys.argv[1:]
    settings = ServerSettings(port=0, queue=int(queue))
    if "TSREC_FAKE_FAILS" in os.environ:
        Metrics.batch = lambda metrics, size, seconds: 1 / 0
    run(FakeRecommender(seconds=float(seconds)), settings, bind(settings.host, settings.port))
