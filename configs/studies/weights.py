"""What lighter weights cost: one trained recommender, searched in float32, in bfloat16 and with eight-bit weights.

    python -m tsrec_jax study --config=configs/studies/weights.py --workdir=runs/weights \
        --config.dataset.path=../shared/data/amazon/Industrial_rebuilt

Nothing is trained: config.model.path is an export with these SIDs, here that of the main study's arm `tsrec`, made by

    python -m tsrec_jax run --config=configs/studies/main.py --workdir=runs/tsrec \
        --config.dataset.path=../shared/data/amazon/Industrial_rebuilt

Each arm ranks test in a minute or two on one core.
"""

from ml_collections import ConfigDict

from tsrec_jax.settings import default_config


def get_config() -> ConfigDict:
    """One model, three forms of its weights."""
    config = default_config()
    config.model.path = "runs/tsrec/export"
    config.model.trained = True
    config.eval.batch_size = 64
    config.study.seeds = (1,)
    config.study.arms = ConfigDict(
        {
            "float32": {},
            "bfloat16": {"model": {"dtype": "bfloat16"}},
            "int8": {"eval": {"weights": "int8"}},
        }
    )
    config.study.baselines = ()
    config.study.comparisons = ("float32 > int8", "float32 > bfloat16")
    return config
