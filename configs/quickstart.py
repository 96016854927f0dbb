"""The embedded default: a generated shop, a small language model pretrained on its texts, and TS-Rec on top.

    python -m tsrec_jax run --config=configs/quickstart.py --workdir=runs/quickstart

Needs no data, no weights and no accelerator. The run makes everything from the item texts: the language model, the
semantic IDs, and the offline teacher's words for them (--config.index.sids=given takes the shop's own SIDs and words).
It prints the result next to popularity and the upper bound of the generating process, in a few minutes on 2 CPU cores.
To compare TS-Rec with the same model without SA-Init and TS-Align (the arm `plain`), each trained once:

    python -m tsrec_jax study --config=configs/quickstart.py --workdir=runs/quickstart_study

Outcome of a run: docs/results/quickstart.md.
"""

from ml_collections import ConfigDict

from tsrec_jax.settings import paper_config


def get_config() -> ConfigDict:
    """A small model on the embedded shop."""
    config = paper_config()
    config.model.remat = False
    config.pretrain.max_steps = 250
    config.pretrain.batch_tokens = 1024
    config.index.sids = "make"
    config.index.sizes = (32, 16, 16)
    config.index.whiten = 32
    config.tasks.next_title.rate = 0.25
    config.train.max_steps = 360
    config.train.batch_tokens = 1024
    config.train.sequence_length = 256
    config.train.learning_rate = 2e-3
    config.train.validations = 6
    config.train.patience = 0
    config.train.valid_rows = 256
    config.train.valid_beam_rows = 128
    config.train.log_every = 40
    config.eval.batch_size = 64
    plain = {"sid_init": {"mode": "hf"}, "tasks": {"ts_align": {"weight": 0.0}}}
    config.study.arms = ConfigDict({"tsrec": {}, "plain": plain})
    config.study.seeds = (42,)
    config.study.baselines = ("popularity", "repeat last")
    config.study.comparisons = ("tsrec > plain", "tsrec > popularity")
    return config
