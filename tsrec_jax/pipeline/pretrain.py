"""The stage `pretrain`: the small language model that a run begins with where it names none."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from tsrec_jax.data.input import packed_batches, train_batches
from tsrec_jax.data.outside_text import encode_outside
from tsrec_jax.data.tasks.task import Example
from tsrec_jax.data.text_folder import TextFolder
from tsrec_jax.errors import UserError
from tsrec_jax.files import write_json
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.hf import save_hf
from tsrec_jax.models.sharding import parts_of, process_rows, rounded_rows
from tsrec_jax.models.tokenizer import load_tokenizer
from tsrec_jax.pipeline.mesh import open_mesh
from tsrec_jax.pipeline.workdir import Workdir
from tsrec_jax.processes import first
from tsrec_jax.progress import report
from tsrec_jax.settings import Settings
from tsrec_jax.shop.shop_lm import item_texts, lm_config, train_tokenizer
from tsrec_jax.training.checkpoints import refuse_differences
from tsrec_jax.training.loop import Run, train
from tsrec_jax.training.loss import SftLoss
from tsrec_jax.training.settings import TrainSettings
from tsrec_jax.training.step import first_step_and_state
from tsrec_jax.training.validation import validation_loss

IDENTITY = "pretraining.json"  # in the pretrained folder: what it was trained on
VALID_SHARE = 20  # every n-th text is kept for the validation loss


def pretrained_model(settings: Settings, workdir: pathlib.Path, texts: TextFolder) -> str:
    """The pretrained model of a run: the one that the settings name, or one that is trained here on the item texts."""
    return settings.model.path or str(pretrain(settings, workdir, texts))


def pretraining_identity(settings: Settings, texts: TextFolder) -> dict[str, Any]:
    """What decides the model that `pretrain` makes."""
    wording = settings.templates.wording()
    return {"seed": settings.seed, "data": texts.data_hash, "wording": wording, **dataclasses.asdict(settings.pretrain)}


def pretrain(settings: Settings, workdir: pathlib.Path, texts: TextFolder) -> pathlib.Path:
    """Trains a tokenizer and a small language model on the item texts; returns its HF folder.

    The tokenizer also sees the prompts' wording, which it would spell out letter by letter otherwise.

    The folder appears only when it is complete; a killed run resumes from its checkpoints.

    Raises:
      UserError: the workdir holds a model that was pretrained with other settings, or the rows do not divide.
    """
    folder, wanted = workdir / "pretrained", settings.pretrain
    identity = pretraining_identity(settings, texts)
    if folder.exists():
        refuse_differences(folder, json.loads((folder / IDENTITY).read_text(encoding="utf-8")), identity)
        return folder
    place, scratch = Workdir(workdir), workdir / "pretraining"
    sentences = item_texts(texts.items)

    def tokenizer_folder() -> pathlib.Path:
        if not (scratch / "model").exists():
            train_tokenizer([*sentences, *identity["wording"]], scratch / "model", vocab_size=wanted.vocab_size)
        return scratch / "model"

    tokenizer = load_tokenizer(place.first_makes(tokenizer_folder))
    end = tokenizer.eos_token_id
    encoded = encode_outside(tokenizer, sentences)
    length = wanted.sequence_length
    rows = [
        Example("text", np.asarray([end, *ids, end][:length], np.int32), 1, f"text/{index}")
        for index, ids in enumerate(encoded)
    ]
    held_out = rows[::VALID_SHARE]
    source = [row for index, row in enumerate(rows) if index % VALID_SHARE]
    mesh = open_mesh(settings)
    per_step = wanted.batch_tokens // length
    if not per_step or per_step % parts_of(mesh, "batch"):
        raise UserError(
            f"config.pretrain.batch_tokens={wanted.batch_tokens} makes {per_step} rows a step, which do not divide "
            f"over data x fsdp = {parts_of(mesh, 'batch')}; use a multiple of {length * parts_of(mesh, 'batch')}"
        )
    batches = train_batches(
        {"text": source},
        rates={"text": 1.0},
        sequence_length=length,
        rows=per_step,
        loss_slots=length,
        accumulation=1,
        seed=settings.seed,
        part=process_rows(mesh, per_step),
    )
    valid = list(packed_batches(held_out, length, per_step, length, part=process_rows(mesh, per_step)))
    shape = ModelConfig.from_hf(lm_config(tokenizer))
    model = Decoder(
        dataclasses.replace(shape, vocab_rows=rounded_rows(shape.vocab_rows, mesh)),
        dtype=settings.model.dtype,
        param_dtype="float32",
        rngs=nnx.Rngs(settings.seed),
        mesh=mesh,
        remat=settings.model.remat,
        attention=settings.model.attention,
        num_tokens=shape.vocab_rows,
    )

    def validate(model: Decoder) -> Mapping[str, float]:
        return {"valid/loss": validation_loss(model, valid)}

    tokens = sum(len(row.tokens) for row in rows)
    report(f"pretrain: {len(sentences)} texts, {tokens} tokens, vocabulary {len(tokenizer)}")
    training = TrainSettings(
        max_steps=wanted.max_steps,
        learning_rate=wanted.learning_rate,
        warmup_steps=min(20, wanted.max_steps),
        validations=0,
        select_by="loss",
        checkpoint_every=0,
        log_every=max(1, wanted.max_steps // 10),
    )
    step, state = first_step_and_state(model, SftLoss({"text": 1.0}, training), training)
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
            report,
            checkpoints_at=place.checkpoints(scratch),
            before_save=place.push,
        ),
    )
    save_hf(result.model, scratch / "model", dtype="float32")

    def finish() -> pathlib.Path:
        if not folder.exists():
            write_json(scratch / "model" / IDENTITY, identity)
            os.replace(scratch / "model", folder)
        if scratch.exists():
            shutil.rmtree(scratch)
        return folder

    made = place.first_makes(finish)
    if first():
        place.checkpoints(scratch).rmtree(missing_ok=True)
    return made
