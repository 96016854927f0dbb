"""Does a second stage help: its objectives and their controls, all from the same training, on the embedded shop.

    python -m tsrec_jax study --config=configs/studies/rl.py --workdir=runs/rl

On a real folder: --config.dataset.path=FOLDER --config.rl.prompts=64 --config.rl.group=32. Arms of one seed share their
training. What the arms are is in docs/rl.md; `sft` is the control that every other must beat: as many steps at the same
rate on the same rows.
"""

from typing import Any

from ml_collections import ConfigDict

from tsrec_jax.settings import default_config

STEPS = 60
ARMS: dict[str, dict[str, Any]] = {
    "utility": {"objective": "utility"},
    "list": {"objective": "list"},
    "grpo": {"objective": "grpo", "reward": "ranking"},
    "grpo-sampled": {"objective": "grpo", "reward": "ranking", "sampled": True},
    "dpo": {"objective": "dpo"},
    "utility-prefix": {"objective": "utility", "reward": "prefix"},
    # Controls.
    "sft": {"objective": "sft"},
    "random-rewards": {"objective": "grpo", "reward": "random", "nll": 0.0},
    "utility-no-kl": {"objective": "utility", "kl": 0.0},
}


def get_config() -> ConfigDict:
    """The shop, training without a second stage, and an arm for each objective and control."""
    config = default_config()
    config.model.remat = False
    config.pretrain.max_steps = 250
    config.pretrain.batch_tokens = 1024
    config.index.sids = "make"
    config.index.sizes = (32, 16, 16)
    config.index.whiten = 32
    config.train.max_steps = 360
    config.train.valid_beam_rows = 512
    config.train.log_every = 40
    config.eval.batch_size = 64
    config.rl.prompts = 32
    config.rl.group = 16
    config.rl.learning_rate = 1e-4
    config.study.seeds = (1, 2, 3)
    second = {name: {"rl": {"steps": STEPS, **arm}} for name, arm in ARMS.items()}
    config.study.arms = ConfigDict({"trained": {}, **second})
    config.study.comparisons = (*(f"{name} > sft" for name in ARMS if name != "sft"), "sft > trained")
    return config
