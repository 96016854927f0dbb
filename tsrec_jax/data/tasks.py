"""The training tasks: three of SFT and the two directions of TS-Align, as tokenised examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from tsrec_jax.data.dataset import Dataset
from tsrec_jax.data.prompts import PromptBuilder

# Task ids are positions in this tuple. `title_sid` and `ts_align` hold both of their directions.
TASKS = ("next_sid", "next_title", "title_sid", "ts_align")


@dataclasses.dataclass(frozen=True)
class Example:
    """One tokenised row.

    Attributes:
      task: task id.
      tokens: int32 prompt and completion.
      prompt_length: tokens that carry no loss; at least 1.
      key: where the row comes from, as in `train/123` or `item/42/title_to_sid`.
    """

    task: int
    tokens: np.ndarray
    prompt_length: int
    key: str


def build_examples(
    dataset: Dataset, split: str, builder: PromptBuilder, tasks: Sequence[str]
) -> dict[str, list[Example]]:
    """Tokenises the rows of some tasks.

    Args:
      dataset: the data; `title_sid` reads its catalogue, `ts_align` its clusters, whatever the split.
      split: `train`, `valid`, `test` or `select`, for `next_sid` and `next_title`.
      builder: the prompts.
      tasks: names out of TASKS.

    Returns:
      {task: examples in row order}.
    """
    catalogue, rows = dataset.catalogue, dataset.splits[split]
    histories = [builder.history([catalogue.sid(item) for item in history]) for history in rows.histories]
    keys = [f"{split}/{row}" for row in range(len(rows))]
    titles = [item.title for item in catalogue.items]
    sids = [catalogue.sid(item) for item in range(catalogue.num_items)]
    clusters = [dataset.clusters[token] for token in catalogue.tokens if token in dataset.clusters]
    sources = {
        "next_sid": [("next_sid", histories, [sids[item] for item in rows.targets], keys)],
        "next_title": [("next_title", histories, [titles[item] for item in rows.targets], keys)],
        "title_sid": [
            ("title_to_sid", titles, sids, [f"item/{item.id}/title_to_sid" for item in catalogue.items]),
            ("sid_to_title", sids, titles, [f"item/{item.id}/sid_to_title" for item in catalogue.items]),
        ],
        "ts_align": [
            (
                "token_to_description",
                [cluster.token for cluster in clusters],
                [cluster.description for cluster in clusters],
                [f"token/{cluster.token}/to_description" for cluster in clusters],
            ),
            (
                "description_to_token",
                [cluster.description for cluster in clusters],
                [cluster.token for cluster in clusters],
                [f"token/{cluster.token}/from_description" for cluster in clusters],
            ),
        ],
    }
    return {
        task: [example for part in sources[task] for example in _examples(TASKS.index(task), builder, *part)]
        for task in tasks
    }


def _examples(
    task: int, builder: PromptBuilder, template: str, inputs: Sequence[str], answers: Sequence[str], keys: Sequence[str]
) -> Iterable[Example]:
    prompts, completions = builder.prompts(template, inputs), builder.completions(template, answers)
    for prompt, completion, key in zip(prompts, completions, keys, strict=True):
        tokens = np.array([*prompt, *completion][-builder.max_length :], np.int32)
        yield Example(task, tokens, max(1, len(tokens) - len(completion)), key)
