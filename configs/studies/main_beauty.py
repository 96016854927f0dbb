"""The main study on Amazon Beauty, whose training is as the main study's but for its length and its dropout.

    python -m tsrec_jax study --config=configs/studies/main_beauty.py --workdir=runs/main_beauty \
        --config.dataset.path=runs/beauty/prepared \
        --config.index.given_sids=../shared/data/beauty/Beauty.index.letter.json

The folder is made by the verb prepare with configs/beauty.py. An epoch has nine times the tokens of one on Industrial:
three epochs are 4,500 steps, and with fewer passes the model needs less dropout. About an hour a training on one core.
"""

import pathlib
import runpy

from ml_collections import ConfigDict

MAIN = pathlib.Path(__file__).with_name("main.py")


def get_config() -> ConfigDict:
    """The main study with three epochs and a dropout of .1."""
    config = runpy.run_path(str(MAIN))["get_config"]()
    config.train.epochs = 3.0
    config.train.dropout = 0.1
    return config
