"""What eight bits cost: the recommender of the main study, evaluated with its weights as they are and in eight bits.

    python -m tsrec_jax study --config=configs/studies/weights.py --workdir=runs/weights \
        --config.dataset.path=../shared/data/amazon/Industrial_rebuilt

Both arms are one training (about a quarter of an hour on one core); only the search differs.
"""

import pathlib
import runpy

from ml_collections import ConfigDict

MAIN = pathlib.Path(__file__).with_name("main.py")


def get_config() -> ConfigDict:
    """The main study's config with these arms and one seed."""
    config = runpy.run_path(str(MAIN))["get_config"]()
    config.study.seeds = (1,)
    config.study.arms = ConfigDict({"tsrec": {}, "tsrec-int8": {"eval": {"weights": "int8"}}})
    config.study.baselines = ()
    config.study.comparisons = ("tsrec > tsrec-int8",)
    return config
