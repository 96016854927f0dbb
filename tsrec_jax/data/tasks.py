"""The training tasks as tokenised examples: three of SFT, both directions of TS-Align, two that add histories."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.chains import Chain, chains, distilled_chains, varied_chains
from tsrec_jax.data.dataset import Dataset
from tsrec_jax.data.prompts import PromptBuilder
from tsrec_jax.errors import UserError

# Task ids are positions in this tuple. `title_sid` and `ts_align` hold both of their directions.
TASKS = ("next_sid", "next_title", "title_sid", "ts_align", "augmented_sid", "distilled_sid")


@dataclasses.dataclass(frozen=True)
class Example:
    """One tokenised row.

    Attributes:
      task: task id.
      tokens: int32 prompt and completion.
      prompt_length: tokens that carry no loss; at least 1.
      key: where the row comes from, as in `train/123` or `item/42/title_to_sid`.
      ranked: int32, for each SID that is learned the SIDs that it was drawn from, best first and equally many for each:
        their tokens, by place in `Catalogue.tokens`, one after the other; empty where only the row itself is right.
    """

    task: int
    tokens: np.ndarray
    prompt_length: int
    key: str
    ranked: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))


@dataclasses.dataclass(frozen=True)
class ChainSettings:
    """How histories make examples.

    Attributes:
      whole: `next_sid` learns all rows of a chain in one example instead of one by one.
      varied, distilled: copies of each chain for `augmented_sid`, of each row for `distilled_sid`.
      distilled_history: items of its histories at most, the last ones.
      distilled_targets: items that `distilled_sid` learns of a history.
      distilled_any: `any_item` of `distilled_chains`.
      nearest_IN, chances_IN: like items and how likely each is chosen, for `distilled_sid`.
      rank: the teacher of `distilled_sid`, as in `distilled_chains`.
      soft: `distilled_sid` learns all that its teacher ranks, not only the items drawn from it.
      seed: of the choices.
    """

    whole: bool = False
    varied: int = 0
    distilled: int = 0
    distilled_history: int = 0
    distilled_targets: int = 1
    distilled_any: float = 0.0
    nearest_IN: np.ndarray | None = None
    chances_IN: np.ndarray | None = None
    rank: Callable[[Sequence[Sequence[int]]], np.ndarray] | None = None
    soft: bool = False
    seed: int = 0


ROW_BY_ROW = ChainSettings()


def build_examples(
    dataset: Dataset,
    split: str,
    builder: PromptBuilder,
    tasks: Sequence[str],
    settings: ChainSettings = ROW_BY_ROW,
) -> dict[str, list[Example]]:
    """Tokenises the rows of some tasks.

    Args:
      dataset: the data; `title_sid` reads its catalogue, `ts_align` its descriptions, whatever the split.
      split: `train`, `valid`, `test` or `select`, for `next_sid` and `next_title`.
      builder: the prompts.
      tasks: names out of TASKS.
      settings: of the tasks that learn histories.

    Returns:
      {task: examples in row order}.
    """
    catalogue, rows = dataset.catalogue, dataset.splits[split]
    histories = [builder.history([catalogue.sid(item) for item in history]) for history in rows.histories]
    keys = [f"{split}/{row}" for row in range(len(rows))]
    titles = [item.title for item in catalogue.items]
    sids = [catalogue.sid(item) for item in range(catalogue.num_items)]
    descriptions = [
        dataset.token_descriptions[token] for token in catalogue.tokens if token in dataset.token_descriptions
    ]
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
                [entry.token for entry in descriptions],
                [entry.description for entry in descriptions],
                [f"token/{entry.token}/to_description" for entry in descriptions],
            ),
            (
                "description_to_token",
                [entry.description for entry in descriptions],
                [entry.token for entry in descriptions],
                [f"token/{entry.token}/from_description" for entry in descriptions],
            ),
        ],
    }
    sequences: dict[str, Callable[[], list[Chain]]] = {
        "augmented_sid": lambda: varied_chains(rows, settings.varied, settings.seed),
        "distilled_sid": lambda: distilled_chains(
            rows,
            settings.rank,
            settings.nearest_IN,
            settings.chances_IN,
            copies=settings.distilled,
            longest=settings.distilled_history,
            targets=settings.distilled_targets,
            any_item=settings.distilled_any,
            soft=settings.soft,
            seed=settings.seed,
        ),
    }
    if settings.whole:
        sequences["next_sid"] = lambda: chains(rows)
    return {
        task: _sequence_examples(TASKS.index(task), builder, sequences[task](), catalogue, split)
        if task in sequences
        else [example for part in sources[task] for example in _examples(TASKS.index(task), builder, *part)]
        for task in tasks
    }


def _examples(
    task: int, builder: PromptBuilder, template: str, inputs: Sequence[str], answers: Sequence[str], keys: Sequence[str]
) -> Iterable[Example]:
    prompts, completions = builder.prompts(template, inputs), builder.completions(template, answers)
    for prompt, completion, key in zip(prompts, completions, keys, strict=True):
        tokens = np.array([*prompt, *completion][-builder.max_length :], np.int32)
        yield Example(task, tokens, max(1, len(tokens) - len(completion)), key)


def _sequence_examples(
    task: int, builder: PromptBuilder, sequences: Sequence[Chain], catalogue: Catalogue, split: str
) -> list[Example]:
    texts = [[catalogue.sid(item) for item in chain.items] for chain in sequences]
    pairs = builder.chains(texts, [chain.first for chain in sequences])
    found = []
    for number, (chain, (prompt, completion)) in enumerate(zip(sequences, pairs, strict=True)):
        tokens = np.array([*prompt, *completion][-builder.max_length :], np.int32)
        key = f"{split}/{','.join(map(str, chain.rows))}/{number}"
        ranked = catalogue.tokens_IC[chain.ranked.reshape(-1)].reshape(-1)
        if len(ranked) and len(completion) >= builder.max_length:
            raise UserError(
                f"{key}: {len(completion)} tokens are to be learned at once, and a row holds {builder.max_length}; "
                "lower config.tasks.distilled_sid.targets"
            )
        found.append(Example(task, tokens, max(1, len(tokens) - len(completion)), key, ranked))
    return found
