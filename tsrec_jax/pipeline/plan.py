"""The verb `plan`: what a training costs on machines that need not be here, from its settings alone."""

from __future__ import annotations

import dataclasses
import math
import pathlib

import numpy as np

from tsrec_jax.data.dataset import Dataset, read_dataset
from tsrec_jax.data.held_out import hold_out_users
from tsrec_jax.data.prompts import PromptBuilder
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.errors import UserError
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.hf import read_config
from tsrec_jax.models.small_lm import lm_shape
from tsrec_jax.pipeline.batches import batches_of, training_data
from tsrec_jax.pipeline.dense import dense_shape
from tsrec_jax.pipeline.earlier import going_on
from tsrec_jax.pipeline.inputs import open_texts, source_of
from tsrec_jax.pipeline.sid_tokens import add_sid_tokens, base_tokenizer
from tsrec_jax.planning.accounting import DenseShape, MeshShape, step_flops
from tsrec_jax.planning.chips import CHIPS
from tsrec_jax.planning.estimate import estimate_lines, memory_by_trained, second_stage_line, step_shape
from tsrec_jax.planning.feasibility import Setup, refuse_memory, refuse_mesh
from tsrec_jax.planning.second_stage import SecondStageShape
from tsrec_jax.progress import report
from tsrec_jax.rl.batches import longest_prompt
from tsrec_jax.settings import Settings
from tsrec_jax.sid.sizes import MOST_SIZES
from tsrec_jax.text_table import aligned

ASSUMED_MFU = 0.4
ASSUMED_LOSS_SHARE = 0.25  # share of a row's tokens, if there are no rows to count


@dataclasses.dataclass(frozen=True)
class PlanOptions:
    """The machine to plan for.

    Attributes:
      chip: a name in CHIPS; empty: one line for each chip.
      devices: number of devices; 0: as many as the mesh's fixed axes need.
      mfu: share of the peak that a step is assumed to reach.
    """

    chip: str = ""
    devices: int = 0
    mfu: float = ASSUMED_MFU


@dataclasses.dataclass(frozen=True)
class _Data:
    """What the plan knows about the data.

    Attributes:
      num_tokens: ids in use.
      new_rows: how many of these are SID tokens.
      loss_slots: loss slots per group.
      sid_tokens: SID tokens scored everywhere.
      dense: the dense head.
      steps: steps of the training; 0: unknown.
      source: how all this is known, in words.
      codes: the number of codes of each level of a SID.
      widths: for each level, how many codes the search reads after a prefix.
      prompt: tokens of the longest prompt of the second stage; 0: unknown.
    """

    num_tokens: int
    new_rows: int
    loss_slots: int
    sid_tokens: int
    dense: DenseShape | None
    steps: int
    source: str
    codes: tuple[int, ...]
    widths: tuple[int, ...]
    prompt: int = 0


def plan(settings: Settings, options: PlanOptions) -> None:
    """Prints parameters, memory per device, FLOPs, and the time of a step and of the whole training.

    Raises:
      UserError: the mesh does not divide the model or the batch, or a step does not fit on the chip; the message says
        what would.
    """
    if options.chip and options.chip not in CHIPS:
        raise UserError(f"--chip={options.chip} is not one of {', '.join(CHIPS)}")
    if not 0 < options.mfu <= 1:
        raise UserError(f"--mfu={options.mfu} must lie above 0 and be 1 at most")
    settings = going_on(settings)
    base = _base_shape(settings)
    data = _data(settings, base)
    step = step_shape(
        settings.train,
        settings.model,
        settings.sid_init,
        data.loss_slots,
        data.new_rows,
        data.sid_tokens,
        dense=data.dense,
    )
    setup = Setup(base, data.num_tokens, step, _mesh(settings, options.devices))
    refuse_mesh(setup)
    for line in estimate_lines(settings.model.path, setup):
        report(f"plan: {line}")
    stage = None
    if settings.rl.steps:
        length = data.prompt or step.sequence_length
        stage = SecondStageShape(step, settings.rl, length, data.codes, data.widths)
        bound = "" if data.prompt else "; an upper bound, since the prompts are not here to be measured"
        report(f"plan: {second_stage_line(setup, stage)}{bound}")
    report(f"plan: {data.source}")
    report("\n" + _table(setup, stage, data.steps, options) + "\n")
    report("\n".join(aligned(memory_by_trained(setup))) + "\n")
    report(
        f"assumed: {options.mfu:.0%} of the bfloat16 peak (--mfu), the time between chips included; validation and "
        "compilation come on top. Memory is an estimate."
    )
    if settings.model.dtype == "float32":
        report("config.model.dtype is float32, which accelerators compute several times slower than this peak.")
    if options.chip:
        refuse_memory(setup, CHIPS[options.chip], stage)


def _table(setup: Setup, stage: SecondStageShape | None, steps: int, options: PlanOptions) -> str:
    """A line for each chip."""
    flops = step_flops(setup.model, setup.step).model
    header = ("chip", "memory", "fits", "s/step", "tokens/s", "training")
    rows = []
    for chip in [CHIPS[options.chip]] if options.chip else CHIPS.values():
        seconds = flops / (setup.mesh.devices * chip.tflops * 1e12 * options.mfu)
        rows.append(
            (
                f"{setup.mesh.devices} x {chip.name}",
                f"{chip.memory_gib:.0f} GiB",
                "yes" if setup.fits(chip, stage) else "no",
                f"{seconds:.3g}",
                f"{setup.step.token_slots / seconds:,.0f}",
                _duration(seconds * steps) if steps else "?",
            )
        )
    return "\n".join(aligned([header, *rows]))


def _duration(seconds: float) -> str:
    if seconds < 3600:
        return f"{max(seconds / 60, 0.1):.1f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def _base_shape(settings: Settings) -> ModelConfig:
    """The shape of the pretrained model, with only its first layers if the settings say so."""
    own = settings.sid_init.head == "own"
    if not settings.model.path:
        wanted = settings.pretrain
        shape = ModelConfig.from_hf(lm_shape(wanted.vocab_size, wanted.hidden_size, wanted.num_layers))
        return dataclasses.replace(shape, tied=shape.tied and not own)
    shape = read_config(settings.model.path)
    layers = settings.model.num_layers
    if layers > shape.num_layers:
        raise UserError(f"config.model.num_layers={layers}: {settings.model.path} has {shape.num_layers} layers")
    return dataclasses.replace(shape, num_layers=layers or shape.num_layers, tied=shape.tied and not own)


def _mesh(settings: Settings, devices: int) -> MeshShape:
    """The mesh of the settings on this number of devices; its open axis takes what the others leave."""
    sizes = settings.mesh.sizes
    fixed = math.prod(size for size in sizes if size > 0)
    devices = devices or fixed
    if devices % fixed or (-1 not in sizes and fixed != devices):
        raise UserError(
            f"config.mesh {sizes} (data, fsdp, tensor) does not fit --devices={devices}; set one axis to -1, "
            f"which takes what is left, or give --devices={max(devices // fixed, 1) * fixed if -1 in sizes else fixed}"
        )
    return MeshShape(*(size if size > 0 else devices // fixed for size in sizes))


def _data(settings: Settings, base: ModelConfig) -> _Data:
    """Counts the rows of a dataset folder if it is there with its SIDs; otherwise makes assumptions."""
    dataset = _given_dataset(settings)
    known = pathlib.Path(settings.model.path).exists() or "/" not in settings.model.path
    if dataset is not None and settings.model.path and known:
        return _counted(settings, base, dataset)
    sizes = settings.index.sizes or MOST_SIZES  # the rule gives no more than these up to four million items
    new = sum(sizes) if dataset is None else len(dataset.catalogue.tokens)
    slots = math.ceil(ASSUMED_LOSS_SHARE * settings.train.sequence_length * settings.train.rows_per_group)
    steps = settings.train.max_steps
    without = "; the dense head is left out" if dataset is None and settings.dense.weight else ""
    times = f"{steps:,} steps" if steps else "the number of steps is unknown (config.train.max_steps is 0)"
    return _Data(
        base.vocab_rows + new,
        new,
        slots,
        new if settings.constrained else 0,
        None if dataset is None else dense_shape(settings, dataset.catalogue, base.d_model),
        steps,
        f"the training rows are not here: loss slots taken as {ASSUMED_LOSS_SHARE:.0%} of a row, {new:,} SID tokens; "
        f"{times}{without}",
        *((tuple(sizes), tuple(sizes)) if dataset is None else _codes(dataset)),
    )


def _given_dataset(settings: Settings) -> Dataset | None:
    """The dataset that a run would train on as it is; a folder that lacks SIDs or words is only checked for faults."""
    if not settings.dataset.path:
        return None
    folder = pathlib.Path(settings.dataset.path)
    source = source_of(settings, folder)
    if not source.complete:
        open_texts(settings, source)
        return None
    return hold_out_users(read_dataset(folder, source.name, settings.dataset), settings.train.held_out)


def _counted(settings: Settings, base: ModelConfig, dataset: Dataset) -> _Data:
    tokenizer = base_tokenizer(settings.model.path, dataset.catalogue.tokens).tokenizer
    base_vocab_size = add_sid_tokens(tokenizer, dataset.catalogue.tokens)
    builder = PromptBuilder(tokenizer, settings.templates, settings.train.sequence_length)
    # The items that a teacher names do not change any length, so its neighbours need not be the real ones.
    vectors = np.random.default_rng(settings.seed).normal(size=(dataset.catalogue.num_items, 8)).astype(np.float32)
    data = training_data(settings, dataset, builder, base_vocab_size, lambda: vectors)
    rows = [row for part in data.examples.values() for row in part]
    batches = batches_of(settings, data, data.examples, settings.train.rows_per_microbatch)
    steps = settings.train.max_steps or batches.steps(settings.train.epochs)
    return _Data(
        len(tokenizer),
        len(dataset.catalogue.tokens),
        data.slots,
        data.sid_tokens,
        dense_shape(settings, dataset.catalogue, base.d_model),
        steps,
        f"{len(rows):,} training rows of {dataset.name} with {sum(len(row.tokens) for row in rows):,} tokens; "
        f"{steps:,} steps",
        *_codes(dataset),
        longest_prompt(builder, dataset.catalogue, dataset.splits["train"]) if settings.rl.steps else 0,
    )


def _codes(dataset: Dataset) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """For each level of a SID, the number of codes and how many the search reads after a prefix."""
    trie = Trie.of_catalogue(dataset.catalogue, 0)
    return trie.level_sizes, trie.widths
