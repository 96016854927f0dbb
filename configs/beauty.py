"""TS-Rec on Amazon Beauty (2014) as the literature splits it, from two tables, without weights of others.

    python -m tsrec_jax run --config=configs/beauty.py --workdir=runs/beauty \
        --config.prepare.interactions_file=../shared/data/beauty/interactions.csv \
        --config.prepare.items_file=../shared/data/beauty/items.csv

The last item of a user is for test, the one before for valid, and histories have up to 20 items. Nothing is filtered
away: the tables are a 5-core already, of 22,363 users, 12,101 items and 198,502 interactions. SIDs are made of the
texts; published ones come in by --config.index.given_sids=FILE. The language model is as in industrial.py. Published
figures are at item level and of a ranking of all items, which the report has too.
"""

from ml_collections import ConfigDict

from tsrec_jax.settings import default_config


def get_config() -> ConfigDict:
    """The default recipe on leave-one-out rows and a small language model of the items' own texts."""
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
