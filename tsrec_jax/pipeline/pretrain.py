"""The stage `pretrain`: the small language model that a run begins with if it names none."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from flax import nnx
from transformers import PreTrainedTokenizerFast

from tsrec_jax.data.input import Batch, TrainBatches, packed_batches, train_batches
from tsrec_jax.data.text_folder import TextFolder
from tsrec_jax.data.text_rows import TASK, TextRows, item_texts, text_rows
from tsrec_jax.errors import UserError
from tsrec_jax.files import new_folder, read_facts, write_json
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.hf import save_hf
from tsrec_jax.models.sharding import parts_of, process_rows, rounded_rows
from tsrec_jax.models.small_lm import lm_config, train_tokenizer
from tsrec_jax.models.tokenizer import load_tokenizer
from tsrec_jax.pipeline.mesh import open_mesh
from tsrec_jax.pipeline.workdir import Workdir
from tsrec_jax.planning.accounting import parameter_count
from tsrec_jax.processes import first
from tsrec_jax.progress import report
from tsrec_jax.settings import Settings
from tsrec_jax.training.checkpoints import differences, refuse_differences
from tsrec_jax.training.loop import Run, train
from tsrec_jax.training.loss import SftLoss
from tsrec_jax.training.settings import TrainSettings
from tsrec_jax.training.step import first_step_and_state
from tsrec_jax.training.validation import validation_loss

IDENTITY = "pretraining.json"  # in the pretrained folder: what it was trained on
FACTS = "pretraining_facts.json"  # in the same folder: the model's size and how its training ended


def pretrained_model(settings: Settings, path: pathlib.Path, texts: TextFolder) -> str:
    """The pretrained model of a run: the one that the settings name, or one that is trained here on the item texts."""
    return settings.model.path or str(pretrain(settings, path, texts))


def base_words(base: str) -> str:
    """What a report says about a pretrained model: its place or, if a run made it, its size and how training ended."""
    file = pathlib.Path(base) / FACTS
    if not file.is_file():
        return base
    kept = ("parameters", "vocabulary", "tokens", "epochs", "valid loss")
    facts = read_facts(file, "pretrain the model again, or copy its folder again", kept)
    return (
        f"pretrained on the item texts: {facts['parameters']:,} parameters, vocabulary {facts['vocabulary']:,}, "
        f"{facts['tokens']:,} tokens seen {facts['epochs']:.3g} times, valid loss {facts['valid loss']:.4f}"
    )


def pretraining_identity(settings: Settings, texts: TextFolder) -> dict[str, Any]:
    """What determines the model that `pretrain` makes."""
    wording = settings.templates.wording()
    return {"seed": settings.seed, "data": texts.data_hash, "wording": wording, **dataclasses.asdict(settings.pretrain)}


def pretrain(settings: Settings, path: pathlib.Path, texts: TextFolder) -> pathlib.Path:
    """Trains a tokenizer and a small language model on the item texts; returns its HF folder.

    The tokenizer also sees the prompts' wording, which it would otherwise spell out letter by letter.

    The folder appears only when it is complete; a killed run resumes from its checkpoints.

    Raises:
      UserError: the workdir holds a model that was pretrained with other settings, or as in `text_batches`.
    """
    folder, wanted = path / "pretrained", settings.pretrain
    identity = pretraining_identity(settings, texts)
    if folder.exists():
        made_with = read_facts(folder / IDENTITY, f"delete {folder}, and the model is pretrained again")
        refuse_differences(folder, made_with, identity)
        return folder
    workdir, scratch = Workdir(path), path / "pretraining"

    def tokenizer_folder() -> pathlib.Path:
        made_with = scratch / "model" / IDENTITY
        if not made_with.exists() or differences(read_facts(made_with, f"delete {scratch}"), identity):
            sentences = [*item_texts(texts.items), *identity["wording"]]
            with new_folder(scratch / "model", replace=True) as made:
                train_tokenizer(sentences, made, vocab_size=wanted.vocab_size)
                write_json(made / IDENTITY, identity)
        return scratch / "model"

    tokenizer = load_tokenizer(workdir.first_makes(tokenizer_folder))
    rows = text_rows(texts.items, tokenizer, wanted.sequence_length, wanted.held_out)
    batches, valid = text_batches(settings, rows)
    model = new_model(settings, tokenizer)

    def validate(model: Decoder) -> Mapping[str, float]:
        return {"valid/loss": validation_loss(model, valid)}

    steps = wanted.max_steps or batches.steps(wanted.epochs)
    facts = {
        "parameters": parameter_count(dataclasses.replace(model.config, vocab_rows=len(tokenizer))),
        "vocabulary": len(tokenizer),
        "texts": rows.texts,
        "tokens": rows.tokens,
        "epochs": steps / batches.steps(1.0) if wanted.max_steps else wanted.epochs,
    }
    report(
        f"pretrain: {rows.texts:,} texts, {rows.tokens:,} tokens, vocabulary {len(tokenizer):,}, "
        f"{facts['parameters']:,} parameters, {steps:,} steps, {facts['epochs']:.3g} times over all texts"
    )
    training = TrainSettings(
        max_steps=steps,
        learning_rate=wanted.learning_rate,
        warmup_steps=min(20, steps),
        validations=wanted.validations,
        select_by="loss",
        log_every=max(1, steps // 10),
    )
    step, state = first_step_and_state(model, SftLoss({TASK: 1.0}, training), training)
    result = train(
        step,
        state,
        batches,
        validate,
        training,
        Run(
            scratch,
            identity,
            "pretrain",
            checkpoints_at=workdir.checkpoints(scratch),
            before_save=workdir.push,
        ),
    )
    save_hf(result.model, scratch / "model", dtype="float32")
    facts |= {
        "steps": result.steps,
        "best step": result.best_step,
        "valid loss": result.best_value,
        "seconds": result.seconds,
    }

    def finish() -> pathlib.Path:
        if not folder.exists():
            write_json(scratch / "model" / FACTS, facts)
            os.replace(scratch / "model", folder)
        if scratch.exists():
            shutil.rmtree(scratch)
        return folder

    made = workdir.first_makes(finish)
    if first():
        workdir.checkpoints(scratch).rmtree(missing_ok=True)
    return made


def text_batches(settings: Settings, rows: TextRows) -> tuple[TrainBatches, list[Batch]]:
    """The batches for training, and those for validation.

    Raises:
      UserError: the rows of a step do not divide evenly over the devices.
    """
    wanted, mesh = settings.pretrain, open_mesh(settings)
    length = wanted.sequence_length
    per_step = wanted.batch_tokens // length
    if not per_step or per_step % parts_of(mesh, "batch"):
        raise UserError(
            f"config.pretrain.batch_tokens={wanted.batch_tokens} makes {per_step} rows a step, which do not divide "
            f"over data x fsdp = {parts_of(mesh, 'batch')}; use a multiple of {length * parts_of(mesh, 'batch')}"
        )
    part = process_rows(mesh, per_step)
    learned = train_batches(
        {TASK: rows.learned},
        rates={TASK: 1.0},
        sequence_length=length,
        rows=per_step,
        loss_slots=length,
        accumulation=1,
        seed=settings.seed,
        part=part,
    )
    return learned, list(packed_batches(rows.validated, length, per_step, length, part=part))


def new_model(settings: Settings, tokenizer: PreTrainedTokenizerFast) -> Decoder:
    """The model before its first step, on the mesh."""
    wanted, mesh = settings.pretrain, open_mesh(settings)
    shape = ModelConfig.from_hf(lm_config(tokenizer, wanted.hidden_size, wanted.num_layers))
    return Decoder(
        dataclasses.replace(shape, vocab_rows=rounded_rows(shape.vocab_rows, mesh)),
        dtype=settings.model.dtype,
        param_dtype="float32",
        rngs=nnx.Rngs(settings.seed),
        mesh=mesh,
        remat=settings.model.remat,
        attention=settings.model.attention,
        num_tokens=shape.vocab_rows,
    )
