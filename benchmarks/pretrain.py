"""What pretraining a small language model on item texts costs on this machine's CPUs, by the size of the model.

    PYTHONPATH=. python benchmarks/pretrain.py --folder=NAME=FOLDER [--folder=NAME=FOLDER]
        [--sizes=192x4x8192,256x4x8192] [--steps=8] [--out=FILE.md]

A size is `hidden_size x num_layers x vocab_size`. Every size learns the texts of the first folder, in float32 and
without recomputing activations: two steps, of which the first compiles, and then those that are measured. Seconds are
those that the CPU worked for the process, since other programs on the machine change them little; on quiet cores the
wall time is a little more than these, divided by their number. Tokens of a folder are those of a tokenizer of its own.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import tempfile
import time

import jax
from transformers import PreTrainedTokenizerFast

from benchmarks.facts import command
from tsrec_jax.data.input import TrainBatches
from tsrec_jax.data.text_folder import TextFolder, read_texts
from tsrec_jax.data.text_rows import TASK, TextRows, item_texts, text_rows
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.small_lm import train_tokenizer
from tsrec_jax.models.tokenizer import load_tokenizer
from tsrec_jax.pipeline.pretrain import new_model, text_batches
from tsrec_jax.pipeline.provenance import commit, machine
from tsrec_jax.planning.accounting import parameter_count
from tsrec_jax.settings import Settings, default_config, settings_of, update
from tsrec_jax.training.loop import put_batch
from tsrec_jax.training.loss import SftLoss
from tsrec_jax.training.settings import TrainSettings
from tsrec_jax.training.step import first_step_and_state

SIZES = "192x4x8192,256x4x8192,256x6x8192"
HELD_OUT = 0.05
UNMEASURED = 2


def settings_for(size: str) -> Settings:
    """The settings of a size."""
    hidden_size, num_layers, vocab_size = (int(part) for part in size.split("x"))
    wanted = {"hidden_size": hidden_size, "num_layers": num_layers, "vocab_size": vocab_size, "held_out": HELD_OUT}
    config = default_config()
    update(config, {"pretrain": wanted, "model": {"remat": False}})
    return settings_of(config)


@functools.cache
def tokenizer_of(folder: pathlib.Path, vocab_size: int) -> PreTrainedTokenizerFast:
    """A tokenizer of a folder's texts."""
    with tempfile.TemporaryDirectory() as scratch:
        train_tokenizer(item_texts(texts_of(folder).items), scratch, vocab_size)
        return load_tokenizer(scratch)


@functools.cache
def texts_of(folder: pathlib.Path) -> TextFolder:
    """The texts of a folder."""
    return read_texts(folder)


@functools.cache
def learned_of(folder: pathlib.Path, vocab_size: int) -> tuple[TextRows, TrainBatches]:
    """The rows of a folder's texts and the batches to learn, which are the same for every size."""
    settings = settings_for(f"64x1x{vocab_size}")
    tokenizer, wanted = tokenizer_of(folder, vocab_size), settings.pretrain
    rows = text_rows(texts_of(folder).items, tokenizer, wanted.sequence_length, wanted.held_out)
    return rows, text_batches(settings, rows)[0]


def seconds_a_step(model: Decoder, batches: TrainBatches, steps: int) -> float:
    """CPU seconds of a step, over all threads of this process."""
    training = TrainSettings(max_steps=UNMEASURED + steps)
    step, state = first_step_and_state(model, SftLoss({TASK: 1.0}, training), training)
    started = 0.0
    for number in range(1, training.max_steps + 1):
        state, metrics = step.update(state, put_batch(batches.batch(number), None))
        jax.block_until_ready(metrics)
        if number == UNMEASURED:
            started = time.process_time()
    return (time.process_time() - started) / steps


def main() -> None:
    """Prints the report; with --out, writes it too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", action="append", required=True)
    parser.add_argument("--sizes", default=SIZES)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    folders = {name: pathlib.Path(path) for name, _, path in (text.partition("=") for text in arguments.folder)}
    header = ["hidden x layers x vocabulary", "parameters", "CPU s / step", "tokens / CPU s"]
    header += [f"{name}: {what}" for name in folders for what in ("tokens", "steps / epoch", "CPU minutes / epoch")]
    rows = []
    for size in arguments.sizes.split(","):
        settings = settings_for(size)
        vocab_size = settings.pretrain.vocab_size
        learned = [learned_of(path, vocab_size) for path in folders.values()]
        model = new_model(settings, tokenizer_of(next(iter(folders.values())), vocab_size))
        parameters, taken = parameter_count(model.config), seconds_a_step(model, learned[0][1], arguments.steps)
        cells = [size, f"{parameters:,}", f"{taken:.2f}", f"{settings.pretrain.batch_tokens / taken:,.0f}"]
        for texts, batches in learned:
            steps = batches.steps(1.0)
            cells += [f"{texts.tokens:,}", f"{steps:,}", f"{steps * taken / 60:.1f}"]
        rows.append(cells)
    table = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    lines = [
        "# Pretraining a small language model on item texts",
        f"Steps of {settings.pretrain.batch_tokens:,} tokens; {HELD_OUT:.0%} of the items held out; means of "
        f"{arguments.steps} steps on the texts of {next(iter(folders))}, in seconds of the process' CPU time.",
        "\n".join(f"| {' | '.join(cells)} |" for cells in table),
        f"Made by `{command()}`: commit `{commit()}`, machine `{machine()}`.",
    ]
    print("\n\n".join(lines))
    if arguments.out:
        arguments.out.write_text("\n\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
