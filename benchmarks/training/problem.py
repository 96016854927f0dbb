"""The same weights, rows and optimiser for every system that trains."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from tsrec_jax.data.dataset import read_dataset
from tsrec_jax.data.prompts import PromptBuilder, Templates
from tsrec_jax.data.tasks import TASKS, Example, build_examples
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.hf import load_hf
from tsrec_jax.models.tokenizer import load_tokenizer
from tsrec_jax.models.vocabulary import extend_vocabulary, sid_init_rows
from tsrec_jax.pipeline.assemble import add_sid_tokens

LEARNING_RATE, CLIP_NORM, WARMUP, HORIZON = 3e-4, 1.0, 20, 1000
LONG_HEADER = 74  # tokens of the constant header in the reference's prompts
SEED = 42


@dataclasses.dataclass(frozen=True)
class Request:
    """What to measure.

    Attributes:
      dataset: a dataset folder with SIDs and words.
      base: the pretrained model.
      layers: its first layers; 0: all.
      rows: examples of a batch.
      dtype: compute type; parameters and moments are float32 in ours, and as torch keeps them in the peer.
      long_header: prompts that begin with a constant header as long as the reference's.
    """

    dataset: str
    base: str = "smollm2"
    layers: int = 6
    rows: int = 32
    dtype: str = "float32"
    long_header: bool = False


@dataclasses.dataclass(frozen=True)
class Problem:
    """Examples of every task, {task: rows}, the model with its SID rows, and where those begin."""

    examples: Mapping[str, Sequence[Example]]
    model: Decoder
    old_size: int


def shuffled(examples: Mapping[str, Sequence[Example]], rows: int) -> Iterator[list[Example]]:
    """Batches of `rows` examples of the whole mix, epoch after epoch."""
    pool = [example for part in examples.values() for example in part]
    for epoch in itertools.count():
        order = np.random.default_rng([SEED, epoch]).permutation(len(pool))
        for first in range(0, len(pool) - rows + 1, rows):
            yield [pool[number] for number in order[first : first + rows]]


def make_problem(request: Request, remat: bool = False) -> Problem:
    """Tokenises the real task mix and loads the weights."""
    dataset = read_dataset(pathlib.Path(request.dataset))
    tokenizer = load_tokenizer(request.base)
    keywords = [" ".join(dataset.clusters[token].keywords) for token in dataset.catalogue.tokens]
    keyword_ids = tokenizer(keywords, add_special_tokens=False)["input_ids"]
    old_size = add_sid_tokens(tokenizer, dataset.catalogue.tokens)
    builder = PromptBuilder(tokenizer, Templates(), 512)
    examples = build_examples(dataset, "train", builder, TASKS)
    if request.long_header:
        header = np.asarray(tokenizer("word " * LONG_HEADER)["input_ids"][:LONG_HEADER], np.int32)
        examples = {task: [_longer(row, header) for row in rows] for task, rows in examples.items()}
    model = load_hf(
        request.base, dtype=request.dtype, param_dtype="float32", num_layers=request.layers or None, remat=remat
    )
    rows_nD = sid_init_rows(
        np.asarray(model.embedding[...], np.float32),
        keyword_ids=keyword_ids,
        levels_n=dataset.catalogue.token_levels,
        init_levels=(),
        mode="sa",
        target_norm=1.0,
        old_size=old_size,
        seed=SEED,
    )
    return Problem(examples, extend_vocabulary(model, old_size=old_size, input_rows_nD=rows_nD), old_size)


def _longer(example: Example, header: np.ndarray) -> Example:
    """The example behind a header of more tokens than its own has."""
    short = 6  # about what the default headers take
    tokens = np.concatenate([header, example.tokens[min(short, example.prompt_length - 1) :]])
    return dataclasses.replace(
        example,
        tokens=tokens,
        prompt_length=example.prompt_length + len(tokens) - len(example.tokens),
    )
