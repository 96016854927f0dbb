"""The same weights, rows and optimiser for every system that trains: those of a run with the default recipe."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np

from tsrec_jax.data.dataset import read_dataset
from tsrec_jax.data.packing import epoch_of_task
from tsrec_jax.data.prompts import Templates
from tsrec_jax.data.tasks.task import Example
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.pipeline.batches import TrainingData, training_data
from tsrec_jax.pipeline.recommender_parts import load_parts
from tsrec_jax.settings import Settings, paper_config, settings_of

LEARNING_RATE, CLIP_NORM, WARMUP, HORIZON = 3e-4, 1.0, 20, 1000
LONG_HEADER = 74  # tokens of the constant header in the reference's prompts
ROW = 256  # token slots of a packed row, and the longest example
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
    """The settings of a training, what it learns from, the model with its SID rows, and where those begin."""

    config: Settings
    data: TrainingData
    model: Decoder
    base_vocab_size: int

    def epoch(self) -> dict[str, list[Example]]:
        """{task: rows of one epoch}: each task as often as its rate says."""
        return {
            task: [part[int(place)] for place in epoch_of_task(len(part), self.data.mix.rates[task], 0, (SEED,))]
            for task, part in self.data.examples.items()
        }


def training_config(request: Request, remat: bool = False) -> Settings:
    """The recipe of the paper, for the requested model and rows of ROW tokens."""
    config = paper_config()
    config.model.path = request.base
    config.model.num_layers = request.layers
    config.model.dtype = request.dtype
    config.model.remat = remat
    config.train.sequence_length = ROW
    if request.long_header:
        header = " ".join(["word"] * (LONG_HEADER - 1)) + "\n"
        for template in Templates().by_name:
            config.templates[template].header = header
    return settings_of(config)


def make_problem(request: Request, remat: bool = False) -> Problem:
    """Loads the weights and tokenises the task mix, as a run does before it trains.

    Raises:
      SystemExit: this process has more than one device.
    """
    if jax.device_count() > 1:
        raise SystemExit(f"one device is measured, not {jax.device_count()}: hide the others (CUDA_VISIBLE_DEVICES=0)")
    config = training_config(request, remat)
    dataset = read_dataset(pathlib.Path(request.dataset))
    parts = load_parts(config, dataset, request.base)
    data = training_data(config, dataset, parts.builder, parts.base_vocab_size)
    return Problem(config, data, parts.model, parts.base_vocab_size)


def shuffled(examples: Mapping[str, Sequence[Example]], rows: int) -> Iterator[list[Example]]:
    """Batches of `rows` examples of the whole mix, epoch after epoch."""
    pool = [example for part in examples.values() for example in part]
    for epoch in itertools.count():
        order = np.random.default_rng([SEED, epoch]).permutation(len(pool))
        for first in range(0, len(pool) - rows + 1, rows):
            yield [pool[number] for number in order[first : first + rows]]
