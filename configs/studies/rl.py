"""Does a second stage help: its objectives and their controls, all from the same training.

    python -m tsrec_jax study --config=configs/studies/rl.py --workdir=runs/rl_shop \
        --config.pretrain.max_steps=250
    python -m tsrec_jax study --config=configs/studies/rl.py --workdir=runs/rl_industrial \
        --config.dataset.path=../shared/data/amazon/Industrial_rebuilt

The first is on the embedded shop, whose few texts the language model reads more often; any complete dataset folder can
take the place of the second's. The training is that of the main study's arm `tsrec`, run once per seed; every arm of
that seed except `trained` continues from it. docs/rl.md says what the arms are; `sft` is the control that every other
must beat: the target's loss on the same rows with the same optimiser, for as many steps, without anything that holds
the model near its start (`sft-kl` adds the divergence that the others have). `random-rewards` must gain nothing;
`utility` against `utility-no-kl` shows what the divergence does, and `utility-fusion` against `utility` what a better
teacher does. With 50 beams the tables have HR@50, where a model that has only become sharper loses. The comparisons
were named, in this order, before any cell was run.

Time on one core, estimated from the FLOPs on Industrial at the speed of the main study: a quarter of an hour for the
pretraining, as much for each training, and five to ten minutes for each of the eleven arms that continue from it, much
of that for searches with 50 beams; so up to two hours per seed. Cells are made seed by seed, and the report has all
finished ones. --seeds=1 makes only one seed, and --arms=trained,sft,utility-fusion only what the main comparison needs.
Giving the same command again starts a second process on the same workdir.
"""

import pathlib
import runpy
from typing import Any

from ml_collections import ConfigDict

MAIN = pathlib.Path(__file__).with_name("main.py")
STEPS = 60
ARMS: dict[str, dict[str, Any]] = {
    "utility-fusion": {"objective": "utility", "teacher": "fusion"},
    "utility": {"objective": "utility"},
    "utility-prefix": {"objective": "utility", "reward": "prefix"},
    "list": {"objective": "list"},
    "grpo": {"objective": "grpo", "reward": "ranking"},
    "grpo-sampled": {"objective": "grpo", "reward": "ranking", "sampled": True},
    "dpo": {"objective": "dpo"},
    # Controls.
    "sft": {"objective": "sft", "kl": 0.0},
    "sft-kl": {"objective": "sft"},
    "random-rewards": {"objective": "grpo", "reward": "random", "nll": 0.0},
    "utility-no-kl": {"objective": "utility", "kl": 0.0},
}


def get_config() -> ConfigDict:
    """The main study's training, alone and followed by each objective and control."""
    config = runpy.run_path(str(MAIN))["get_config"]()
    config.eval.beams = 50
    config.rl.group = 16
    config.rl.teacher_items = 10
    config.rl.learning_rate = 1e-4  # a twentieth of the training's: the model is small
    second = {name: {"rl": {"steps": STEPS, **arm}} for name, arm in ARMS.items()}
    config.study.arms = ConfigDict({"trained": {}, **second})
    config.study.baselines = ("hybrid",)
    rivals = [name for name in ARMS if name not in ("sft", "random-rewards")]
    config.study.explored = ()
    config.study.comparisons = (
        *(f"{name} > sft" for name in rivals),
        "sft > trained",
        "random-rewards > trained",
        "utility > utility-no-kl",
        "utility-fusion > utility",
    )
    return config
