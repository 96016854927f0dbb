"""What earlier versions called the settings, and what replaced those that have gone."""

from __future__ import annotations

RENAMED = {
    "tasks.varied_sid": "tasks.augmented_sid",
    "tasks.distilled_sid.soft": "tasks.distilled_sid.soft_labels",
    "tasks.distilled_sid.history": "tasks.distilled_sid.history_length",
    "tasks.distilled_sid.any_item": "tasks.distilled_sid.random_items",
    "tasks.next_sid.chains": "tasks.next_sid.user_sequences",
    "train.slot_rows": "train.rows_per_group",
    "ts_align": "tasks.ts_align",
}
RENAMED_VALUES = {"train.freeze": {"old_rows": "pretrained_rows"}}
_OBJECTIVE = "config.objective decides it: 'constrained' for 'catalogue', 'vocabulary' for 'vocab'"
GONE = {
    "train.sid_loss": _OBJECTIVE,
    "eval.normaliser": _OBJECTIVE,
    "eval.score_end": "a SID has a fixed length, so the score of its end said nothing",
    "train.new_rows_rate": "it gained nothing (p = .87); config.train.learning_rate holds for all rows",
    "tasks.similar_sid": "config.tasks.distilled_sid took its place",
    "tasks.distilled_sid.throughout": "it gained nothing (p = .31)",
    "eval.prior_weights": "config.fusion took its place, whose weights are fitted and not tried",
    "eval.prior_rows": "config.fusion.rows took its place",
    "eval.prior": "config.fusion.parts took its place; give --config.fusion.parts=\"('hybrid',)\" for 'hybrid'",
    "run.arms": "config.study.arms took its place, with the verb study",
}
OLD_MODULE = "tsrec_jax.configuration"  # where experiment files found default_config()
OLD_MODULE_NOW = (
    "tsrec_jax.settings took its place; the recipe that default_config() returned there is now paper_config(), and "
    "default_config() is another recipe"
)


def what_became_of(key: str) -> str:
    """A line about an old key, such as `train.slot_rows`, or a key of an old section; empty for any other key."""
    for old, new in RENAMED.items():
        if _is_in(key, old):
            return f"config.{key} is now called config.{new}{key.removeprefix(old)}"
    for old, why in GONE.items():
        if _is_in(key, old):
            return f"config.{key} is no longer a key: {why}"
    return ""


def what_became_of_last(name: str) -> str:
    """The same as `what_became_of` for a key of which only the last part is known, such as `slot_rows`."""
    for key in (*RENAMED, *GONE):
        if key.rpartition(".")[2] == name:
            return what_became_of(key)
    return ""


def _is_in(key: str, old: str) -> bool:
    return key == old or key.startswith(f"{old}.")
