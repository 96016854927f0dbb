"""Does what helps on Industrial help elsewhere: a few arms of the ablation on Amazon Office, whose test is set aside.

    python -m tsrec_jax study --config=configs/studies/office.py \
        --config.dataset.path=../shared/data/amazon/Office_Products --workdir=runs/office

Arms are measured on valid, and models selected on a tenth of train's users. Outcome and what was run:
docs/results/office/study.md.
"""

import pathlib
import runpy

from ml_collections import ConfigDict

ABLATION = pathlib.Path(__file__).with_name("ablation.py")
ARMS = ("sft", "tsrec", "tsrec-centred", "tsrec-centred-wide-walks")


def get_config() -> ConfigDict:
    """The ablation's config with these arms and one seed."""
    config = runpy.run_path(str(ABLATION))["get_config"]()
    config.train.held_out = 0.1
    config.eval.split = "valid"
    config.study.seeds = (1,)
    config.study.arms = ConfigDict({name: config.study.arms[name] for name in ARMS})
    config.study.baselines = ("popularity", "recent popularity", "repeat last", "transitions", "tfidf", "hybrid")
    config.study.comparisons = (
        "tsrec > sft",
        "tsrec-centred > tsrec",
        "tsrec-centred-wide-walks > tsrec-centred",
        "tsrec-centred-wide-walks > hybrid",
    )
    return config
