"""The stage `index`: turns item texts into embeddings, codes and the SID report, in `index/` of the workdir."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tsrec_jax.data.text_folder import TextFolder
from tsrec_jax.errors import UserError
from tsrec_jax.files import read_facts, write_json, write_text
from tsrec_jax.models.sharding import one_device
from tsrec_jax.pipeline.mesh import open_mesh
from tsrec_jax.pipeline.provenance import commit, input_facts, machine, versions
from tsrec_jax.pipeline.vectors import ItemVectors
from tsrec_jax.pipeline.workdir import Workdir
from tsrec_jax.processes import first, several, share
from tsrec_jax.progress import report, stage
from tsrec_jax.settings import Settings, section_facts
from tsrec_jax.sid.given import refuse_equal
from tsrec_jax.sid.index import SidIndex, build_index, fit_on_mesh, load_index
from tsrec_jax.sid.quality import SidReport, measure
from tsrec_jax.sid.report import counting_levels, failed_gates, to_json, to_markdown
from tsrec_jax.sid.sizes import fitting_sizes, refuse_too_few
from tsrec_jax.training.checkpoints import differences, refuse_differences

INDEX_FILE = "sid_index.npz"
IDENTITY = "identity.json"  # what a finished index was made with
LEVELS = "levels.npz"  # the finished levels of an index that is being made
# Settings that do not shape the SIDs.
LOGISTICS = ("sids", "given_sids", "batch_rows", "max_collision_rate", "min_code_use", "min_perplexity")


def make_index(settings: Settings, path: pathlib.Path, texts: TextFolder) -> SidIndex:
    """Embeds and codes the items of a folder; a finished index is read back and never changed.

    Args:
      settings: `seed` and the sections `index`, `model`, `mesh` and those of pretraining are read.
      path: receives the folder `index`, and the pretrained model if the one that embeds the items is made here.
      texts: the items.

    Raises:
      UserError: `path` holds an index made with other settings, there are fewer SIDs than items, the index to extend
        does not fit, or a gate of the SID report failed.
    """
    folder = path / "index"
    earlier = load_index(settings.index.extend) if settings.index.extend else None
    settings = _with_sizes(settings, len(texts.items), earlier)
    index, x_ID = _open_or_make(settings, folder, texts, earlier)
    _judge(settings, folder, texts, index, x_ID)
    return index


def index_together(settings: Settings, path: pathlib.Path, texts: TextFolder) -> None:
    """Makes, with all processes of a run, the parts of its index that `make_index` then finds in the first process.

    They are the vectors of the items and, if there are many items, the codebooks.

    Args:
      settings, path, texts: as in `make_index`.
    """
    vectors = ItemVectors.before_training(settings, path, texts)
    vectors.make_together()
    Workdir(path).first_makes(vectors.file)
    folder = path / "index"
    if not settings.index.extend and not share(first() and (folder / INDEX_FILE).exists()):
        folder.mkdir(parents=True, exist_ok=True)
        settings = _with_sizes(settings, len(texts.items), None)
        refuse_too_few(settings.index.sizes, len(texts.items), settings.index.collisions)
        _fit_on_mesh(settings, vectors(), folder)


def _fit_on_mesh(settings: Settings, x_ID: np.ndarray, folder: pathlib.Path) -> None:
    """Fits the codebooks of many items on all devices; writes them to the file from which `build_index` continues."""
    mesh = open_mesh(settings)
    if mesh is not None:
        with stage("index"):
            fit_on_mesh(x_ID, settings.index, settings.seed, folder / LEVELS, mesh)


def _open_or_make(
    settings: Settings, folder: pathlib.Path, texts: TextFolder, earlier: SidIndex | None
) -> tuple[SidIndex, np.ndarray]:
    """The finished index of the folder, or a new one that is written there; and float32 x_ID of the items."""
    vectors = ItemVectors.before_training(settings, folder.parent, texts)
    made_with = {"seed": settings.seed, **_index_facts(settings, settings.index.code_fields), **vectors.encoder}
    files = input_facts(settings.index, ("embeddings", "extend"), LOGISTICS)
    identity = {"data": texts.data_hash, **files, **made_with}
    finished = (folder / INDEX_FILE).exists()
    if finished:
        made_from = read_facts(folder / IDENTITY, f"delete {folder}, and the SIDs are made again")
        refuse_differences(folder, made_from, identity)
    else:
        if earlier is not None:
            _refuse_to_extend(earlier, settings.index.extend, made_with)
        refuse_too_few(settings.index.sizes, len(texts.items), settings.index.collisions)
    x_ID = vectors()
    if finished:
        report("index: finished before, skipped")
        return load_index(folder / INDEX_FILE), x_ID
    folder.mkdir(parents=True, exist_ok=True)
    if earlier is None and not several():  # several processes have already done it together
        _fit_on_mesh(settings, x_ID, folder)
    with one_device():
        index = _coded(settings, tuple(item.id for item in texts.items), x_ID, earlier, folder / LEVELS)
    index = dataclasses.replace(index, made_with=made_with)
    write_json(folder / IDENTITY, identity)
    index.save(folder / INDEX_FILE)
    (folder / LEVELS).unlink(missing_ok=True)
    return index, x_ID


def _judge(settings: Settings, folder: pathlib.Path, texts: TextFolder, index: SidIndex, x_ID: np.ndarray) -> None:
    """Measures the SIDs, writes their report if there is none, and refuses SIDs that fail a gate."""
    with one_device():
        sid_report = measure(
            index.codes_IC,
            index.sizes,
            index.sids(),
            texts.items,
            embeddings_ID=index.whitening(x_ID),
            reconstruct=index.reconstruction,
            seed=settings.seed,
            numbered=settings.index.collisions == "extra_level",
        )
    if not (folder / "report.json").exists():
        _write_report(settings, folder, texts, index, sid_report)
    report(f"index: {sid_report.summary}; see {folder / 'report.md'}")
    if line := counting_levels(sid_report):
        report(f"index: {line}")
    failed = failed_gates(sid_report, settings.index)
    if failed:
        raise UserError(f"the SIDs fail {len(failed)} gate(s): {'; '.join(failed)}")


def _index_facts(settings: Settings, keys: Sequence[str]) -> dict[str, Any]:
    facts = section_facts(settings.index)
    return {f"index.{key}": facts[f"index.{key}"] for key in keys}


def _with_sizes(settings: Settings, items: int, earlier: SidIndex | None) -> Settings:
    """The settings, with the sizes filled in if they are open: those of the index to extend, or by the rule."""
    if settings.index.sizes:
        return settings
    sizes = fitting_sizes(items) if earlier is None else earlier.quantiser.sizes
    return settings.changed({"index": {"sizes": sizes}})


def _refuse_to_extend(earlier: SidIndex, path: str, made_with: Mapping[str, Any]) -> None:
    """Refuses to extend an index with other settings or another encoder, before any text is embedded."""
    known = {key: value for key, value in earlier.made_with.items() if key in made_with}  # older code may have made it
    changes = differences(known, made_with)
    if changes:
        raise UserError(
            f"{path} was made with other settings ({changes}); set them as they were, and "
            "config.index.model=ITS_WORKDIR/pretrained where its run pretrained the model"
        )


def _coded(
    settings: Settings,
    item_ids: tuple[str, ...],
    x_ID: np.ndarray,
    earlier: SidIndex | None,
    kept: pathlib.Path,
) -> SidIndex:
    """A new index, each level saved once it is fitted, or the earlier one with new items coded by its codebooks."""
    if earlier is None:
        refuse_equal(x_ID, repr(settings.index.embeddings) if settings.index.embeddings else "their texts")
        with stage("index"):
            return build_index(item_ids, x_ID, settings.index, settings.seed, kept)
    if len(earlier.whitening.mean_D) != x_ID.shape[1]:
        raise UserError(
            f"{settings.index.extend} was made of embeddings with {len(earlier.whitening.mean_D)} features and these "
            f"have {x_ID.shape[1]}; use the encoder it was made with"
        )
    known = len(set(item_ids) & set(earlier.item_ids))
    report(f"index: {known} items keep their SIDs, {len(item_ids) - known} are coded by {settings.index.extend}")
    return earlier.extended(item_ids, x_ID)


def _write_report(
    settings: Settings, folder: pathlib.Path, texts: TextFolder, index: SidIndex, measured: SidReport
) -> None:
    """Writes `plots/`, `report.md` and, after everything else, `report.json` of the SIDs."""
    facts: Mapping[str, Any] = {
        "dataset": texts.name,
        "settings": section_facts(settings.index, LOGISTICS),
        "encoder": settings.index.embeddings
        or settings.index.model
        or settings.model.path
        or dataclasses.asdict(settings.pretrain),
        "seed": settings.seed,
        "data_hash": texts.data_hash,
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
    }
    from tsrec_jax.sid import plots  # imports matplotlib

    plots.plot_sids(measured, index.codes_IC, index.sizes, folder / "plots" / "codes.png")
    write_text(folder / "report.md", to_markdown(measured, facts))
    write_json(folder / "report.json", {**to_json(measured), **facts})
