"""Keys of earlier configs, and what took their place."""

from __future__ import annotations

import re
from typing import Any

RENAMED = {
    "tasks.varied_sid": "tasks.augmented_sid",
    "tasks.distilled_sid.soft": "tasks.distilled_sid.soft_labels",
    "tasks.distilled_sid.history": "tasks.distilled_sid.history_length",
    "tasks.distilled_sid.any_item": "tasks.distilled_sid.random_items",
    "tasks.next_sid.chains": "tasks.next_sid.user_sequences",
    "train.slot_rows": "train.rows_per_group",
    "ts_align": "tasks.ts_align",
}
_OBJECTIVE = "config.objective decides it: 'constrained' for 'catalogue', 'vocabulary' for 'vocab'"
GONE = {
    "train.sid_loss": _OBJECTIVE,
    "eval.normaliser": _OBJECTIVE,
    "eval.score_end": "it is left out: a SID has a fixed length, so that its end says nothing",
    "train.new_rows_rate": "it is left out, since it gained nothing (p = .87); config.train.learning_rate is for all",
    "tasks.similar_sid": "it is left out; config.tasks.distilled_sid took its place",
    "tasks.distilled_sid.throughout": "it is left out, since it gained nothing (p = .31)",
    "run.arms": "config.study.arms took its place, with the verb study",
}
OLD_VALUES = {"train.freeze": {"old_rows": "pretrained_rows"}}


def what_became_of(key: str, value: Any = None) -> str:
    """A line on an old key, such as `train.slot_rows`, or an old value of a key; empty for all others."""
    for old, new in RENAMED.items():
        if key == old or key.startswith(f"{old}."):
            key_now = new + key.removeprefix(old)
            given = "" if value is None or isinstance(value, dict) else f"; give --config.{key_now}={value}"
            return f"config.{key} is config.{key_now} now{given}"
    for old, why in GONE.items():
        if key == old or key.startswith(f"{old}."):
            return f"config.{key} is no longer a key: {why}"
    if isinstance(value, str) and value in OLD_VALUES.get(key, {}):
        return f"config.{key}={value!r} is {OLD_VALUES[key][value]!r} now"
    return ""


def in_message(text: str) -> str:
    """The same for an error whose text names the last part of an old key in quotes; empty where it names none."""
    for key in (*RENAMED, *GONE):
        if re.search(rf"['\"]{re.escape(key.rpartition('.')[2])}['\"]", text):
            return what_became_of(key)
    return ""
