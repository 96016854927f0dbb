"""Where a run starts: texts and interactions (given, raw or embedded) and the pretrained model (given or made here)."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from flax import nnx

from tsrec_jax.baselines.ranking import rank_sids
from tsrec_jax.data.dataset import Dataset, write_dataset
from tsrec_jax.data.input import packed_batches, train_batches
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.outside_text import encode_outside
from tsrec_jax.data.target_ranks import find_targets
from tsrec_jax.data.tasks.task import Example
from tsrec_jax.data.text_folder import TextFolder, read_texts
from tsrec_jax.errors import UserError
from tsrec_jax.files import write_json
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.hf import save_hf
from tsrec_jax.models.sharding import parts_of, process_rows, rounded_rows
from tsrec_jax.models.tokenizer import load_tokenizer
from tsrec_jax.pipeline.assemble import open_mesh
from tsrec_jax.pipeline.workdir import Workdir, input_facts
from tsrec_jax.prepare.settings import columns_of
from tsrec_jax.processes import first
from tsrec_jax.settings import Settings
from tsrec_jax.shop.shop import Shop, make_shop
from tsrec_jax.shop.shop_lm import item_texts, lm_config, train_tokenizer
from tsrec_jax.training.checkpoints import refuse_differences
from tsrec_jax.training.loop import Run, train
from tsrec_jax.training.loss import SftLoss
from tsrec_jax.training.settings import TrainSettings
from tsrec_jax.training.step import first_step_and_state
from tsrec_jax.training.validation import validation_loss

if TYPE_CHECKING:
    from tsrec_jax.prepare.raw import RawSource

SHOP_NAME = "shop"
PREPARED = "prepared.json"  # in the workdir: what `prepared/` was made with
PREPARE_LIMITS = ("max_unreadable", "max_unmatched")  # what they allow is made alike with any value of them
IDENTITY = "pretraining.json"  # in the pretrained folder: what it was trained on
VALID_SHARE = 20  # every n-th text is kept for the validation loss


def embedded_shop(config: Settings) -> Shop:
    """The generated shop of this config; the same config gives the same shop.

    Raises:
      UserError: sizes that no shop can have.
    """
    try:
        return make_shop(seed=config.seed, num_items=config.shop.num_items, num_users=config.shop.num_users)
    except ValueError as error:
        raise UserError(f"config.shop: {error}") from None


def is_embedded(config: Settings) -> bool:
    """Whether the run is on the embedded shop: neither a folder nor raw data is named."""
    return not config.dataset.path and not config.prepare.source


def open_folder(config: Settings, workdir: pathlib.Path, report: Callable[[str], None]) -> pathlib.Path:
    """The folder of texts and interactions: the config's, or one that is made in the workdir (raw data or the shop).

    Raises:
      UserError: the raw data cannot be prepared, or the workdir holds a folder of other settings.
    """
    if config.dataset.path:
        return pathlib.Path(config.dataset.path)
    if config.prepare.source:
        return prepared_folder(config, workdir, report)
    folder = workdir / "shop"
    shop = embedded_shop(config)
    if not folder.exists():
        write_dataset(SHOP_NAME, shop.catalogue, shop.splits, shop.token_descriptions, folder)
    there = read_texts(folder)
    if there.items != shop.catalogue.items or there.splits != shop.splits:
        raise UserError(f"{folder}: a shop of another seed, num_items or num_users; give another --workdir")
    return folder


def prepared_folder(config: Settings, workdir: pathlib.Path, report: Callable[[str], None]) -> pathlib.Path:
    """The stage `prepare`: `prepared/` in the workdir, made of the raw data once.

    Raises:
      UserError: no source is named, raw files are missing or broken, nothing is left, or it was made otherwise.
    """
    from tsrec_jax.prepare.preparation import prepare  # with polars, which nothing else needs
    from tsrec_jax.prepare.raw import RawSource
    from tsrec_jax.prepare.summary import summary_tables

    settings = config.prepare
    if not settings.source:
        raise UserError("config.prepare.source is empty; set amazon2018, amazon2023 or tables")
    tables = ("interactions_file", "items_file") if settings.source == "tables" else ()
    folder, identity = workdir / "prepared", input_facts(settings, tables, ("base_url", *PREPARE_LIMITS))
    if folder.exists():
        refuse_differences(folder, json.loads((workdir / PREPARED).read_text(encoding="utf-8")), identity)
        report("prepare: finished before, skipped")
        return folder
    if settings.source == "tables":
        for key in tables:
            if not getattr(settings, key):
                raise UserError(f"config.prepare.{key} is empty; name a CSV or Parquet file")
        columns = columns_of(settings.columns)
        source = RawSource("tables", settings.interactions_file, settings.items_file, columns, settings.encoding)
    else:
        source = download_raw(config, report)
    write_json(workdir / PREPARED, identity)
    name = settings.name or settings.category or "data"
    summary = prepare(source, settings, name, folder, lambda line: report(f"prepare: {line}"))
    report(f"\n{summary_tables(summary)}\n")
    return folder


def download_raw(config: Settings, report: Callable[[str], None]) -> RawSource:
    """The raw files of an Amazon category; those that are in the folder already are checked and not fetched.

    Raises:
      UserError: the settings name no category or folder, or the files cannot be had; the message says where from and
        where to they can be brought by hand.
    """
    from tsrec_jax.prepare.download import download  # with polars

    settings = config.prepare
    if not settings.source.startswith("amazon"):
        raise UserError(f"config.prepare.source={settings.source!r}: only amazon2018 and amazon2023 can be downloaded")
    for key in ("category", "raw"):
        if not getattr(settings, key):
            raise UserError(f"config.prepare.{key} is empty; {settings.source} needs it")
    return download(settings.source, settings.category, settings.raw, report, base_url=settings.base_url)


def upper_bound(config: Settings, dataset: Dataset, rows: Interactions, metrics: Sequence[str]) -> dict[str, float]:
    """SID-level metrics of the embedded shop's own process: SIDs ranked by their true probability."""
    shop, numbers_I = embedded_shop(config), dataset.catalogue.sid_numbers_I
    ranked = []
    for history in rows.histories:
        of_sids_I = np.bincount(numbers_I, weights=shop.next_item_probabilities(history))[numbers_I]
        ranked += rank_sids(of_sids_I[None], dataset.catalogue, config.eval.beams)
    return find_targets(ranked, rows.targets, dataset.catalogue).means(metrics)["sid"]


def pretraining_identity(config: Settings, texts: TextFolder) -> dict[str, Any]:
    """What decides the model that `pretrain` makes."""
    wording = config.templates.wording()
    return {"seed": config.seed, "data": texts.data_hash, "wording": wording, **dataclasses.asdict(config.pretrain)}


def pretrain(config: Settings, texts: TextFolder, workdir: pathlib.Path, report: Callable[[str], None]) -> pathlib.Path:
    """Trains a tokenizer and a small language model on the item texts; returns its HF folder.

    The tokenizer also sees the prompts' wording, which it would spell out letter by letter otherwise.

    The folder appears only when it is complete; a killed run resumes from its checkpoints.

    Raises:
      UserError: the workdir holds a model that was pretrained with other settings, or the rows do not divide.
    """
    folder, settings = workdir / "pretrained", config.pretrain
    identity = pretraining_identity(config, texts)
    if folder.exists():
        refuse_differences(folder, json.loads((folder / IDENTITY).read_text(encoding="utf-8")), identity)
        return folder
    place, scratch = Workdir(workdir), workdir / "pretraining"
    sentences = item_texts(texts.items)

    def tokenizer_folder() -> pathlib.Path:
        if not (scratch / "model").exists():
            train_tokenizer([*sentences, *identity["wording"]], scratch / "model", vocab_size=settings.vocab_size)
        return scratch / "model"

    tokenizer = load_tokenizer(place.first_makes(tokenizer_folder))
    end = tokenizer.eos_token_id
    encoded = encode_outside(tokenizer, sentences)
    length = settings.sequence_length
    rows = [
        Example("text", np.asarray([end, *ids, end][:length], np.int32), 1, f"text/{index}")
        for index, ids in enumerate(encoded)
    ]
    held_out = rows[::VALID_SHARE]
    source = [row for index, row in enumerate(rows) if index % VALID_SHARE]
    mesh = open_mesh(config)
    per_step = settings.batch_tokens // length
    if not per_step or per_step % parts_of(mesh, "batch"):
        raise UserError(
            f"config.pretrain.batch_tokens={settings.batch_tokens} makes {per_step} rows a step, which do not divide "
            f"over data x fsdp = {parts_of(mesh, 'batch')}; use a multiple of {length * parts_of(mesh, 'batch')}"
        )
    batches = train_batches(
        {"text": source},
        rates={"text": 1.0},
        sequence_length=length,
        rows=per_step,
        loss_slots=length,
        accumulation=1,
        seed=config.seed,
        part=process_rows(mesh, per_step),
    )
    valid = list(packed_batches(held_out, length, per_step, length, part=process_rows(mesh, per_step)))
    shape = ModelConfig.from_hf(lm_config(tokenizer))
    model = Decoder(
        dataclasses.replace(shape, vocab_rows=rounded_rows(shape.vocab_rows, mesh)),
        dtype=config.model.dtype,
        param_dtype="float32",
        rngs=nnx.Rngs(config.seed),
        mesh=mesh,
        remat=config.model.remat,
        attention=config.model.attention,
        num_tokens=shape.vocab_rows,
    )

    def validate(model: Decoder) -> Mapping[str, float]:
        return {"valid/loss": validation_loss(model, valid)}

    tokens = sum(len(row.tokens) for row in rows)
    report(f"pretrain: {len(sentences)} texts, {tokens} tokens, vocabulary {len(tokenizer)}")
    training = TrainSettings(
        max_steps=settings.max_steps,
        learning_rate=settings.learning_rate,
        warmup_steps=min(20, settings.max_steps),
        validations=0,
        select_by="loss",
        checkpoint_every=0,
        log_every=max(1, settings.max_steps // 10),
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
