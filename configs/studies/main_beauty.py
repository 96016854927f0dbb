"""The main study on Amazon Beauty, with the same training except for its length and its dropout.

    python -m tsrec_jax study --config=configs/studies/main_beauty.py --workdir=runs/main_beauty \
        --config.dataset.path=runs/beauty/prepared \
        --config.index.given_sids=../shared/data/beauty/Beauty.index.letter.json

The folder is made by the verb prepare with configs/beauty.py. An epoch has nine times the tokens of one on Industrial:
three epochs are 4,500 steps, and with fewer passes the model needs less dropout. A training takes about an hour on one
core.

`tsrec-dense-long` is a second attempt at a model that ranks by itself, named after the first had been tested: the
dense head was still learning after three epochs, and a third of the items that it ranked first were in the history,
which never holds a target in train. `tsrec-fusion-long` fuses the same training with the parts. Among the arms without
a dense head, those with few of TS-Align's examples and those with words of paths are left out.
"""

import pathlib
import runpy

from ml_collections import ConfigDict

MAIN = pathlib.Path(__file__).with_name("main.py")
LEFT_OUT = {"tsrec", "tsrec-shuffled", "tsrec-paths", "tsrec-paths-shuffled"}


def get_config() -> ConfigDict:
    """The main study with three epochs and a dropout of .1, and a longer training for the dense head."""
    config = runpy.run_path(str(MAIN))["get_config"]()
    config.train.epochs = 3.0
    config.train.dropout = 0.1
    longer = {"train": {"epochs": 6.0, "select_by": "dense_hr@10"}, "dense": {"weight": 1.0}}
    parts = config.study.arms["parts-alone"].fusion.parts
    config.study.arms["tsrec-dense-long"] = ConfigDict({**longer, "fusion": {"parts": ("dense", "seen")}})
    config.study.arms["tsrec-fusion-long"] = ConfigDict({**longer, "fusion": {"parts": (*parts, "dense")}})
    for name in LEFT_OUT:
        del config.study.arms[name]
    for key in ("comparisons", "explored"):
        config.study[key] = tuple(text for text in config.study[key] if not set(text.split(" > ")) & LEFT_OUT)
    config.study.explored += ("tsrec-dense-long > sasrec", "tsrec-fusion-long > parts-alone")
    return config
