"""TS-Rec on MiniOneRec's Industrial folder, or any Amazon folder of the same form, without third-party weights.

    python -m tsrec_jax run --config=configs/industrial.py \
        --config.dataset.path=../shared/data/amazon/Industrial_rebuilt --workdir=runs/industrial

The language model is pretrained on the folder's own item texts: 5 million parameters, small enough to be trained whole
on a CPU. A twentieth of the items is held out of the pretraining for its validation loss, which the report gives. SIDs
and words are the folder's own; --config.index.sids=make makes both. For a third-party model, see amazon_smollm2.py.
"""

from ml_collections import ConfigDict

from tsrec_jax.settings import default_config


def get_config() -> ConfigDict:
    """The default recipe on a small language model pretrained on the folder's texts."""
    config = default_config()
    config.model.remat = False  # small batches: the activations fit
    config.pretrain.vocab_size = 8192
    config.pretrain.hidden_size = 256
    config.pretrain.num_layers = 4
    config.pretrain.max_steps = 0  # as many as `epochs` takes
    config.pretrain.validations = 5
    config.pretrain.held_out = 0.05
    return config
