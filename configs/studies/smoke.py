"""A study small enough to try out the machinery: two arms with two seeds on the embedded shop.

    python -m tsrec_jax study --config=configs/studies/smoke.py --workdir=runs/smoke

Needs no data, no weights and no accelerator. Its trainings are far too short to say anything about the arms, but it
shows the report: `study.md`, `study.csv`, `study.tex`, `study.json` and `plots/` in the workdir.
About two minutes on one CPU core.
"""

from ml_collections import ConfigDict

from tsrec_jax.settings import paper_config


def get_config() -> ConfigDict:
    """TS-Rec, the same model without SA-Init and TS-Align, and two baselines."""
    config = paper_config()
    config.shop.num_items = 120
    config.shop.num_users = 200
    config.model.remat = False
    config.pretrain.max_steps = 40
    config.pretrain.batch_tokens = 1024
    config.index.sids = "make"
    config.index.sizes = (16, 8, 8)
    config.index.whiten = 32
    config.tasks.next_title.rate = 0.25
    config.train.max_steps = 40
    config.train.batch_tokens = 1024
    config.train.sequence_length = 256
    config.train.learning_rate = 2e-3
    config.train.validations = 4
    config.train.patience = 0
    config.train.valid_rows = 64
    config.train.valid_beam_rows = 32
    config.train.log_every = 10
    config.eval.batch_size = 64
    config.eval.bootstrap = 100
    config.study.seeds = (1, 2)
    plain = {"sid_init": {"mode": "hf"}, "tasks": {"ts_align": {"weight": 0.0}}}
    config.study.arms = ConfigDict({"tsrec": {}, "plain": plain})
    config.study.baselines = ("popularity", "repeat last")
    config.study.comparisons = ("tsrec > plain", "tsrec > popularity")
    return config
