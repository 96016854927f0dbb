"""The rows that the part `train` learns: the real task mix where data and tokenizer are here, else rows as long."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from tsrec_jax.data.dataset import Dataset, read_dataset
from tsrec_jax.data.prompts import PromptBuilder, Templates
from tsrec_jax.data.tasks import TasksSettings, build_examples
from tsrec_jax.data.tasks.next_sid import NextSid
from tsrec_jax.data.tasks.task import Example, TaskInputs
from tsrec_jax.errors import UserError
from tsrec_jax.models.tokenizer import load_tokenizer
from tsrec_jax.pipeline.sid_tokens import add_sid_tokens

MIX = ("next_sid", "next_title", "title_sid", "ts_align")
ROWS = 4096  # of train that are tokenised: more than a measurement sees
TOKENIZER = "smollm2"
# Tokens of a row and of its completion in the generated mix: the ranges of the real one.
LENGTHS, COMPLETION = (85, 221), (5, 60)


@dataclasses.dataclass(frozen=True)
class Mix:
    """Examples by task, and where they come from in words."""

    examples: Mapping[str, list[Example]]
    source: str


def training_mix(data: str, words: int, tiny: bool, kept: pathlib.Path) -> Mix:
    """The mix, whose ids are all below `words` but for the SID tokens, which follow the tokenizer's own.

    Args:
      data: a dataset folder, or empty.
      words: ids of the shape's own vocabulary.
      tiny: a few short generated rows.
      kept: a file in which the real rows are kept for the processes that come later.

    Raises:
      UserError: the dataset folder is there and cannot be read.
    """
    if tiny:
        return _generated(words, 400, (8, 24), (2, 6))
    if not data:
        return _generated(words, ROWS, LENGTHS, COMPLETION)
    if not kept.exists():
        try:
            tokenizer = load_tokenizer(TOKENIZER)
        except UserError as error:
            mix = _generated(words, ROWS, LENGTHS, COMPLETION)
            return dataclasses.replace(mix, source=f"{mix.source}, since {error}")
        keep_rows(_tokenised(read_dataset(data), tokenizer), kept)
    return Mix(kept_rows(kept), f"{pathlib.Path(data).name}, first {ROWS} rows of train, in SmolLM2's spelling")


def _tokenised(dataset: Dataset, tokenizer: Any) -> dict[str, list[Example]]:
    train = dataset.splits["train"]
    part = train.take(range(min(ROWS, len(train))))
    add_sid_tokens(tokenizer, dataset.catalogue.tokens)
    builder = PromptBuilder(tokenizer, Templates(), 512)
    names = [task for task in MIX if task != "ts_align" or dataset.token_descriptions]
    tasks = TasksSettings(next_sid=NextSid(user_sequences=False))
    inputs = TaskInputs(dataclasses.replace(dataset, splits={"train": part}), "train", builder)
    return build_examples({name: getattr(tasks, name) for name in names}, inputs)


def _generated(words: int, rows: int, lengths: tuple[int, int], completion: tuple[int, int]) -> Mix:
    rng = np.random.default_rng(0)
    examples = {}
    for task in MIX:
        sizes = rng.integers(*lengths, rows // len(MIX))
        answers = rng.integers(*completion, len(sizes))
        examples[task] = [
            Example(task, rng.integers(1, words, size).astype(np.int32), int(size - answer), f"{task}/{n}")
            for n, (size, answer) in enumerate(zip(sizes, answers, strict=True))
        ]
    return Mix(examples, f"generated rows of {lengths[0]} to {lengths[1] - 1} tokens")


def keep_rows(examples: Mapping[str, list[Example]], path: pathlib.Path) -> None:
    """Writes the rows to a file that appears whole; their keys are not kept."""
    rows = [(task, row) for task, part in examples.items() for row in part]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"writing-{path.name}")
    np.savez(
        temporary,
        task=np.array([MIX.index(task) for task, _ in rows]),
        prompt=np.array([row.prompt_length for _, row in rows]),
        length=np.array([len(row.tokens) for _, row in rows]),
        tokens=np.concatenate([row.tokens for _, row in rows]),
    )
    temporary.replace(path)


def kept_rows(path: pathlib.Path) -> dict[str, list[Example]]:
    """The rows of `keep_rows`."""
    found = np.load(path)
    starts = np.cumsum(found["length"])[:-1]
    examples: dict[str, list[Example]] = {}
    parts = np.split(found["tokens"], starts)
    for number, (task, prompt, tokens) in enumerate(zip(found["task"], found["prompt"], parts, strict=True)):
        name = MIX[task]
        examples.setdefault(name, []).append(Example(name, tokens, int(prompt), f"{name}/{number}"))
    return examples
