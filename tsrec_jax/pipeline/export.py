"""The stage `export`: the trained recommender as a folder that can be served, `export/` in the workdir."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tsrec_jax.files import read_facts
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.gguf import gguf_path
from tsrec_jax.models.hf import read_config
from tsrec_jax.models.local_devices import on_own_devices
from tsrec_jax.pipeline.evaluate import evaluated_rows
from tsrec_jax.pipeline.fuse import fused, fusion_inputs
from tsrec_jax.pipeline.index import INDEX_FILE
from tsrec_jax.pipeline.job import Job
from tsrec_jax.pipeline.pretrain import IDENTITY, base_words
from tsrec_jax.pipeline.recommender_parts import RecommenderParts
from tsrec_jax.pipeline.rl import final_parts
from tsrec_jax.pipeline.search import ModelSearch
from tsrec_jax.pipeline.workdir import run_facts
from tsrec_jax.processes import first
from tsrec_jax.progress import report
from tsrec_jax.serving.codebooks import Codebooks, Encoder, quantiles
from tsrec_jax.serving.export import export_folder, export_fusion
from tsrec_jax.serving.peft_folder import export_adapter
from tsrec_jax.settings import Settings
from tsrec_jax.sid.embed import item_text
from tsrec_jax.sid.index import load_index

STAGE = "export"


def export_recommender(job: Job) -> None:
    """Writes `export/`, unless it is there; for a model with adapters also `adapter/`, which the library PEFT reads.

    Raises:
      UserError: nothing is trained with these settings.
    """
    settings, folder = job.settings, job.workdir.path / "export"
    inputs = {**fusion_inputs(job), "export.dtype": settings.export.dtype}
    if job.workdir.finished(STAGE, inputs, folder) is not None:
        report("export: finished before, skipped")
        return
    _, rows = evaluated_rows(settings, job.dataset)
    shown = [job.dataset.catalogue.items[item].id for history in rows.histories[:1] for item in history]
    if not settings.fusion.model:
        fusion = fused(job, None)
        assert fusion is not None
        facts = {"data": f"{job.dataset.name} (SHA-256 {job.dataset.data_hash})", **fusion.facts}
        if first():
            catalogue, codebooks = job.dataset.catalogue, _codebooks(job)
            job.workdir.forget(STAGE)
            export_fusion(fusion, catalogue, folder, card_facts=facts, history=shown, codebooks=codebooks)
    else:
        _export_model(job, shown)
    job.workdir.finish(STAGE, inputs, {})
    report(f"export: {folder}")


def _export_model(job: Job, shown: Sequence[str]) -> None:
    settings, parts = job.settings, final_parts(job)
    fusion = dense = None
    if settings.fusion.parts:
        with on_own_devices(parts.model) as model:
            search = ModelSearch.of(parts, settings, model)
            fusion = fused(job, search)
            dense = search.scorer if fusion is not None and fusion.dense_3 is not None else None
    job.workdir.forget(STAGE)
    if parts.model.adapter is not None:
        _export_adapter(job, parts)
    export_folder(
        parts.model,
        parts.tokenizer,
        job.dataset.catalogue,
        parts.templates,
        job.workdir.path / "export",
        max_length=settings.train.sequence_length,
        normaliser=settings.objective,
        card_facts=_card_facts(job),
        history=shown,
        words=job.dataset.token_descriptions.values(),
        codebooks=_codebooks(job) if first() else None,
        dtype=settings.export.dtype,
        fusion=fusion,
        dense=dense,
    )


def beyond_peft(settings: Settings, model: Decoder, place: str) -> list[str]:
    """How a model differs from the base that PEFT would load, apart from adapters and rows of SID tokens.

    Args:
      settings: `model.random` and `sid_init.head` are read.
      model: the trained model.
      place: the base model, any path that `load_hf` takes.
    """
    base = read_config(place)
    faults = [] if base.num_layers == model.config.num_layers else ["config.model.num_layers leaves layers out"]
    if settings.model.random:
        faults.append("config.model.random=True draws a base that is stored nowhere")
    if gguf_path(place) is not None:
        faults.append(f"its base {place} is not a folder of transformers")
    if model.sid_scale is not None or base.tied != model.config.tied:
        faults.append(f"config.sid_init.head={settings.sid_init.head!r} scores by a table that its base does not have")
    return faults


def _export_adapter(job: Job, parts: RecommenderParts) -> None:
    """Writes `adapter/` if PEFT can rebuild the model from it."""
    model, faults = parts.model, beyond_peft(job.settings, parts.model, job.base)
    if faults:
        report(f"export: no folder adapter/ for PEFT, since {' and '.join(faults)}; export/ holds the merged model")
        return
    folder = job.workdir.path / "adapter"
    export_adapter(model, parts.tokenizer, job.base, parts.base_vocab_size, folder)
    report(f"export: {folder}, which PEFT loads; export/ holds the merged model")


def _codebooks(job: Job) -> Codebooks | None:
    """What assigns codes to new items; None if the SIDs were given, or made from given vectors."""
    settings, catalogue, file = job.settings, job.dataset.catalogue, job.workdir.path / "index" / INDEX_FILE
    model = settings.index.model or job.base
    if settings.index.embeddings or not model or not file.exists():
        return None
    index, ids = load_index(file), tuple(item.id for item in catalogue.items)
    if index.item_ids != ids or index.sids() != catalogue.sids:  # other SIDs have replaced those of this index
        return None
    x_ID = job.vectors()
    encoder = Encoder(
        settings.index.encoder,
        model,
        (pathlib.Path(model) / IDENTITY).is_file(),
        settings.model.dtype,
        settings.index.text_fields,
        settings.index.max_tokens,
        item_text(catalogue.items[0], settings.index.text_fields),
        x_ID[0],
    )
    stands_IK = index.reconstruction(len(index.quantiser.sizes))
    errors_I = np.square(index.whitening(x_ID) - stands_IK).sum(axis=1)
    return Codebooks(index.codebooks(catalogue.level_tokens), encoder, quantiles(errors_I))


def _card_facts(job: Job) -> dict[str, Any]:
    """What a model card states: data, base model, recipe and, if they were measured, results."""
    settings, dataset, path = job.settings, job.dataset, job.workdir.path
    centred = ", centred" if settings.sid_init.centred else ""
    facts = {
        "data": f"{dataset.name} (SHA-256 {dataset.data_hash})",
        "base model": base_words(job.base),
        "layers": settings.model.num_layers or "all",
        "SA-Init": f"{settings.sid_init.mode}, target norm {settings.sid_init.target_norm}{centred}",
        "TS-Align weight": settings.tasks.ts_align.weight,
        "seed": settings.seed,
        "commit": run_facts(path)["commit"],
    }
    results = path / "results.json"
    if results.exists():
        measured = read_facts(
            results, "run the verb `evaluate` to write it again", ("metrics", "split", "rows", "beams")
        )
        sid = measured["metrics"]["sid"]
        facts[f"results ({measured['split']}, {measured['rows']} rows, {measured['beams']} beams, SID level)"] = (
            ", ".join(f"{name} {value:.4f}" for name, value in sid.items())
        )
    return facts
