"""The upstream half: a folder of texts gets semantic IDs and words, and becomes a dataset folder in the workdir."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import shutil

from tsrec_jax.data.catalogue import Catalogue, TokenDescription
from tsrec_jax.data.dataset import DESCRIPTIONS_FILE, Dataset, read_dataset, write_dataset
from tsrec_jax.data.folder_rows import SPLITS
from tsrec_jax.data.folder_sids import read_sids
from tsrec_jax.data.prepared import SUMMARY
from tsrec_jax.data.text_folder import TextFolder, read_texts, texts_of
from tsrec_jax.data.token_descriptions import read_token_descriptions, write_token_descriptions
from tsrec_jax.errors import UserError
from tsrec_jax.files import write_json
from tsrec_jax.pipeline.indexing import Base, Report, make_index
from tsrec_jax.pipeline.workdir import input_facts
from tsrec_jax.settings import Settings
from tsrec_jax.teacher.cost import Plan
from tsrec_jax.teacher.describe import describe, plan
from tsrec_jax.teacher.groups import refuse_other_unit
from tsrec_jax.training.checkpoints import refuse_differences

IDENTITY = "identity.json"
# Settings that do not shape the words, only how fast and how dearly they come.
LOGISTICS = ("words", "concurrency", "requests_per_minute", "max_attempts", "timeout_seconds", "input_price",
             "output_price", "max_questions", "max_cost")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Upstream:
    """What a run has to make itself, and what its folder gives.

    Attributes:
      make_sids, make_words: whether the run makes them.
      other_sids: whether a file beside the folder gives the SIDs.
      numbered: whether the last level that it makes only counts the items of one code.
    """

    make_sids: bool
    other_sids: bool
    make_words: bool
    numbered: bool

    @property
    def own_sids(self) -> bool:
        """Whether the folder's own SIDs are used."""
        return not self.make_sids and not self.other_sids

    @property
    def given(self) -> bool:
        """Whether the folder is a dataset folder that is used as it is."""
        return self.own_sids and not self.make_words


def what_to_make(config: Settings, folder: pathlib.Path, name: str) -> Upstream:
    """Resolves `index.sids` and `describe.words` for a folder.

    Raises:
      UserError: something is to be given that the folder has not; given words are for other SIDs than the run makes, or
        of tokens where `describe.unit` says paths, or the reverse.
    """
    has_sids = (folder / f"{name}.index.json").is_file()
    has_words = (folder / f"{name}{DESCRIPTIONS_FILE}").is_file()
    other_sids = bool(config.index.given_sids)
    if config.index.sids == "given" and not (has_sids or other_sids):
        raise UserError(f"{folder}/{name}.index.json is not there; set config.index.sids=make, or auto")
    make_sids = config.index.sids == "make" or not (has_sids or other_sids)
    words = config.describe.words
    if words == "given" and (make_sids or other_sids or not has_words):
        why = "its keywords are for other SIDs than those of this run" if has_words else "it holds no keyword file"
        raise UserError(f"config.describe.words=given, but {folder}: {why}; set config.describe.words=make")
    make_words = words == "make" or (words == "auto" and (make_sids or other_sids or not has_words))
    if words != "none" and not make_words:
        refuse_other_unit(folder / f"{name}{DESCRIPTIONS_FILE}", config.describe.unit)
    return Upstream(make_sids, other_sids, make_words, make_sids and config.index.collisions == "extra_level")


def make_dataset(
    config: Settings, workdir: pathlib.Path, folder: pathlib.Path, name: str, base: Base, report: Report
) -> tuple[Dataset, TextFolder]:
    """The dataset folder of a run whose SIDs or words are made here, `dataset/` in the workdir, and what it is made of.

    Raises:
      UserError: a gate of the SID report, the teacher's failures, or a workdir with results of other settings.
    """
    catalogue, texts = make_catalogue(config, workdir, folder, name, base, report)
    token_descriptions: tuple[TokenDescription, ...] = ()
    wanted = what_to_make(config, folder, name)
    if wanted.make_words:
        token_descriptions = make_words(config, workdir, catalogue, wanted.numbered, report)
    made = workdir / "dataset"
    if not made.exists():
        write_dataset(name, catalogue, texts.splits, token_descriptions, made)
    if (folder / SUMMARY).exists() and not (made / SUMMARY).exists():  # what it says of the rows holds here too
        shutil.copyfile(folder / SUMMARY, made / SUMMARY)
    dataset = read_dataset(made, name)
    parts = {
        "items or SIDs": dataset.catalogue != catalogue,
        "words": tuple(dataset.token_descriptions.values()) != token_descriptions,
        **{f"{split}.csv": dataset.splits.get(split) != texts.splits.get(split) for split in SPLITS},
    }
    changed = [part for part, differs in parts.items() if differs]
    if changed:
        raise UserError(
            f"{made} was made of other {', '.join(changed)} than those of {folder} and this run; give another --workdir"
        )
    return dataset, texts


def open_texts(config: Settings, folder: pathlib.Path, name: str) -> TextFolder:
    """The texts and interactions of a folder, as `make_catalogue` returns them, without making anything."""
    wanted, reading = what_to_make(config, folder, name), config.dataset
    if wanted.own_sids:
        return texts_of(read_dataset(folder, name, reading), folder)
    return read_texts(folder, name, reading)


def make_catalogue(
    config: Settings, workdir: pathlib.Path, folder: pathlib.Path, name: str, base: Base, report: Report
) -> tuple[Catalogue, TextFolder]:
    """The catalogue with the SIDs that are given or made, and the folder's texts and interactions."""
    wanted, reading = what_to_make(config, folder, name), config.dataset
    if wanted.own_sids:
        dataset = read_dataset(folder, name, reading)
        texts = texts_of(dataset, folder)
        report_notes(texts, report)
        return dataset.catalogue, texts
    texts = read_texts(folder, name, reading)
    report_notes(texts, report)
    if wanted.other_sids:
        sids, notes = read_sids(pathlib.Path(config.index.given_sids), texts.items, reading.ragged_sids)
        for note in notes:
            report(f"index: {note}")
        return Catalogue(texts.items, sids), texts
    return Catalogue(texts.items, make_index(config, workdir, texts, base, report).sids()), texts


def report_notes(texts: TextFolder, report: Report) -> None:
    """Says what a person should know of the folder of a run."""
    for note in texts.notes:
        report(f"data: {note}")


def make_words(
    config: Settings, workdir: pathlib.Path, catalogue: Catalogue, numbered: bool, report: Report
) -> tuple[TokenDescription, ...]:
    """The stage `describe`: `describe/` in the workdir, with the teacher's answers and the keyword file."""
    folder = workdir / "describe"
    files = ("path",) if config.describe.backend == "file" else ()
    identity = {"data": _catalogue_hash(catalogue), **input_facts(config.describe, files, LOGISTICS)}
    file = folder / DESCRIPTIONS_FILE.lstrip(".")
    if file.exists():
        refuse_differences(folder, json.loads((folder / IDENTITY).read_text(encoding="utf-8")), identity)
        report("describe: finished before, skipped")
    else:
        token_descriptions = describe(catalogue, config.describe, folder, report, numbered=numbered)
        write_json(folder / IDENTITY, identity)
        write_token_descriptions(file, token_descriptions)
    return tuple(read_token_descriptions(file, catalogue).values())


def plan_words(config: Settings, workdir: pathlib.Path, catalogue: Catalogue, numbered: bool) -> Plan:
    """What `make_words` would ask and what it might cost; asks nothing."""
    return plan(catalogue, config.describe, workdir / "describe", numbered=numbered)


def _catalogue_hash(catalogue: Catalogue) -> str:
    digest = hashlib.sha256()
    for item, sid in zip(catalogue.items, catalogue.sids, strict=True):
        digest.update(json.dumps([*vars(item).values(), *sid]).encode())
    return digest.hexdigest()
