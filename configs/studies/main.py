"""The main study: does TS-Rec beat the same model without it, the hybrid and published work, and which part does it.

    python -m tsrec_jax study --config=configs/studies/main.py --workdir=runs/main_industrial \
        --config.dataset.path=../shared/data/amazon/Industrial_rebuilt

Any complete dataset folder will do; main_beauty.py is the same study on Amazon Beauty.

The language model is intact: the study itself pretrains all of it, 2.6 million parameters, on the folder's item texts,
and nothing is distilled. With --config.model.path=smollm2 it is SmolLM2-135M with all its layers. Ten arms, three
seeds, one pretraining; arms that differ only in their fusion share their trainings. Models are selected on valid, and
each arm ranks test once. The comparisons were named, in this order, before any cell was run; docs/results.md has the
findings. A training takes about a quarter of an hour on one core.

The arms `tsrec-aligned` and `tsrec-paths`, their `-shuffled` partners and their comparisons were named after the others
had been tested. In the others an epoch shows a twentieth of TS-Align's examples, so that a training shows each .45
times; in `tsrec-aligned` it shows all of them, as published. In `tsrec-paths` the words distinguish the items below
each beginning of a SID, so that there are ten times as many examples, of which an epoch shows a fifth.
"""

from ml_collections import ConfigDict

from tsrec_jax.settings import default_config

PARTS = ("transitions", "tfidf", "recent popularity", "ease", "seen")
PLAIN = {"sid_init": {"mode": "normal"}, "tasks": {"ts_align": {"weight": 0.0}}}
DENSE = {"dense": {"weight": 0.5}, "train": {"select_by": "dense_hr@10"}}
ALIGNED = {"tasks": {"ts_align": {"rate": 1.0}}}
PATHS = {"tasks": {"ts_align": {"rate": 0.2}}, "describe": {"unit": "path", "words": "make"}}
SHUFFLED = {"sid_init": {"mode": "sa_shuffled"}}


def get_config() -> ConfigDict:
    """A small intact model, users' sequences and variants of them, scores of SID tokens scaled by level."""
    config = default_config()
    config.model.remat = False
    config.pretrain.vocab_size = 4096
    config.pretrain.hidden_size = 192
    config.pretrain.max_steps = 0  # as many as `epochs` takes
    config.pretrain.epochs = 2.0
    config.sid_init.head = "scaled"
    config.tasks.distilled_sid.rate = 0.0
    config.tasks.next_sid.rate = 1.0
    config.tasks.augmented_sid.copies = 8
    config.train.epochs = 9.0
    config.train.batch_tokens = 2048
    config.train.learning_rate = 2e-3
    config.train.dropout = 0.3
    config.train.validations = 3
    config.train.checkpoint_every = 100
    config.eval.batch_size = 64
    config.study.arms = ConfigDict(
        {
            "sft": PLAIN,
            "tsrec": {},
            "tsrec-shuffled": SHUFFLED,
            "tsrec-dense": {**DENSE, "fusion": {"parts": ("dense",)}},
            "tsrec-fusion": {**DENSE, "fusion": {"parts": (*PARTS, "dense")}},
            "parts-alone": {"fusion": {"parts": PARTS, "model": False}},
            "tsrec-aligned": ALIGNED,
            "tsrec-aligned-shuffled": {**ALIGNED, **SHUFFLED},
            "tsrec-paths": PATHS,
            "tsrec-paths-shuffled": {**PATHS, **SHUFFLED},
        }
    )
    config.study.baselines = ("popularity", "transitions", "tfidf", "ease", "hybrid", "sasrec")
    config.study.comparisons = (
        "tsrec > sft",
        "tsrec > tsrec-shuffled",
        "tsrec-fusion > hybrid",
        "tsrec-fusion > parts-alone",
    )
    config.study.explored = (
        "tsrec-aligned > sft",
        "tsrec-aligned > tsrec-aligned-shuffled",
        "tsrec-paths > sft",
        "tsrec-paths > tsrec-paths-shuffled",
    )
    return config
