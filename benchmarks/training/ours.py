"""Our training step, whole and with what makes it fast taken away piece by piece."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.training.problem import CLIP_NORM, HORIZON, LEARNING_RATE, ROW, WARMUP, Problem, shuffled
from tsrec_jax.data.input import choose_loss_slots, packed_batches
from tsrec_jax.data.tasks.task import Example
from tsrec_jax.pipeline.batches import batches_of
from tsrec_jax.training.loss import SftLoss, batch_nll
from tsrec_jax.training.settings import TrainSettings
from tsrec_jax.training.step import first_step_and_state


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the examples of a step are laid out.

    Attributes:
      packed: several examples share a row; else one example a row of the longest one's length.
      slots: logits at the loss slots only; else at every token.
      shared: all rows share their slots; else each has its own.
      remat: layers are computed again in the backward pass.
      chunk: loss slots whose logits exist at one time; 0: all.
    """

    packed: bool = True
    slots: bool = True
    shared: bool = True
    remat: bool = False
    chunk: int = 0


Step = Callable[[], tuple[float, int, float]]


def make_step(problem: Problem, rows: int, layout: Layout) -> tuple[Step, Callable[[], int]]:
    """A function that trains one step and gives (loss, examples, share of useful tokens), and one that counts compiles.

    Args:
      problem: examples and model, whose arrays are donated.
      rows: examples of a batch; a packed batch has as many rows as hold so many examples on average.
      layout: see there.
    """
    settings = TrainSettings(
        learning_rate=LEARNING_RATE,
        warmup_steps=WARMUP,
        max_steps=HORIZON,
        clip_norm=CLIP_NORM,
        loss_normalisation=problem.config.train.loss_normalisation,
        loss_chunk=layout.chunk,
    )
    loss = SftLoss(problem.data.mix.weights, settings)
    train_step, state = first_step_and_state(problem.model, loss, settings, problem.base_vocab_size)
    batches = _packed(problem, rows, layout) if layout.packed else _padded(problem, rows, layout)

    def step() -> tuple[float, int, float]:
        nonlocal state
        batch, examples = next(batches)
        state, metrics = train_step.update(state, {name: jnp.asarray(value) for name, value in batch.items()})
        useful = np.count_nonzero(batch["segment_ids_BT"]) / batch["segment_ids_BT"].size
        return float(metrics["loss"]), examples, float(useful)

    return step, train_step.update._cache_size


def loss_of(problem: Problem, examples: list[Example], rows: int) -> float:
    """The loss of these examples in one packed batch, before any step."""
    (batch,) = packed_batches(examples, ROW, rows, ROW)
    graphdef, weights = nnx.split(problem.model)
    nll = jax.jit(lambda weights: batch_nll(nnx.merge(graphdef, weights), batch))(weights)
    used_GP = batch["loss_task_GP"] >= 0
    return float(np.asarray(nll["loss_task_GP"])[used_GP].mean())


def _packed(problem: Problem, rows: int, layout: Layout) -> Iterator[tuple[Mapping[str, np.ndarray], int]]:
    data = problem.data
    lengths = [len(example.tokens) for part in problem.epoch().values() for example in part]
    count = max(1, round(rows * float(np.mean(lengths)) / (0.98 * ROW)))
    group = count if layout.shared else 1
    slots = ROW * group
    if layout.slots:
        slots = choose_loss_slots(data.examples, data.mix.rates, ROW, group)
    config = problem.config.changed({"train": {"rows_per_group": group}})
    batches = batches_of(config, dataclasses.replace(data, slots=slots), data.examples, count)
    for number, batch in zip(itertools.count(1), batches.from_step(0)):
        keys = len(batches.keys(number))
        yield (batch if layout.slots else everywhere(batch, group)), keys


def _padded(problem: Problem, rows: int, layout: Layout) -> Iterator[tuple[Mapping[str, np.ndarray], int]]:
    """One example a row, all rows as long as the longest example: the shape that needs no second compile."""
    epoch = problem.epoch()
    every = [example for part in epoch.values() for example in part]
    longest = max(len(example.tokens) for example in every)
    longest += -longest % 8
    slots = max(len(example.tokens) - example.prompt_length for example in every) if layout.slots else longest
    for examples in shuffled(epoch, rows):
        parts = [next(packed_batches([example], longest, 1, slots)) for example in examples]
        batch = {name: np.concatenate([part[name] for part in parts])[None] for name in parts[0]}
        yield (batch if layout.slots else everywhere(batch, 1)), rows


def everywhere(batch: Mapping[str, np.ndarray], group: int) -> dict[str, np.ndarray]:
    """The batch with a slot at every token of a group, the loss still at its own tokens only."""
    groups, slots = batch["tokens_BT"].shape[1] // group, batch["tokens_BT"].shape[2] * group
    index, target, task = (np.zeros((1, groups, slots), np.int32) for _ in range(3))
    index[:] = np.arange(slots)
    task[:] = -1
    for number in range(groups):
        used = batch["loss_task_GP"][0, number] >= 0
        places = batch["loss_index_GP"][0, number][used]
        target[0, number, places] = batch["loss_target_GP"][0, number][used]
        task[0, number, places] = batch["loss_task_GP"][0, number][used]
    return {**batch, "loss_index_GP": index, "loss_target_GP": target, "loss_task_GP": task}
