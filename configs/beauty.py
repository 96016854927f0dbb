"""TS-Rec on Amazon Beauty (2014) as the literature splits it, from two tables, without third-party weights.

    python -m tsrec_jax run --config=configs/beauty.py --workdir=runs/beauty \
        --config.prepare.interactions_file=../shared/data/beauty/interactions.csv \
        --config.prepare.items_file=../shared/data/beauty/items.csv

Each user's last item is for test, the one before it for valid, and histories have up to 20 items. Nothing is filtered
out: the tables are a 5-core already, with 22,363 users, 12,101 items and 198,502 interactions. SIDs are made from the
texts; --config.index.given_sids=FILE uses published ones instead. The language model is as in industrial.py. Published
figures are at item level and from a ranking of all items; the report has these too.
"""

from ml_collections import ConfigDict

from tsrec_jax.settings import default_config


def get_config() -> ConfigDict:
    """The default recipe on leave-one-out rows and a small language model pretrained on the items' own texts."""
    config = default_config()
    config.prepare.source = "tables"
    config.prepare.k_core = 1
    config.prepare.max_history = 20
    config.prepare.split = "leave_one_out"
    config.model.remat = False  # small batches: the activations fit
    config.pretrain.vocab_size = 8192
    config.pretrain.hidden_size = 256
    config.pretrain.num_layers = 4
    config.pretrain.max_steps = 0  # as many as `epochs` takes
    config.pretrain.held_out = 0.05
    return config
