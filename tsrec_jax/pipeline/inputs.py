"""What a run starts from: a dataset with SIDs and words for their tokens, and a pretrained model."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from collections.abc import Callable

from tsrec_jax.data.catalogue import Catalogue, TokenDescription
from tsrec_jax.data.dataset import DESCRIPTIONS_FILE, Dataset, read_dataset, write_dataset
from tsrec_jax.data.folder_files import find_name
from tsrec_jax.data.folder_rows import SPLITS
from tsrec_jax.data.folder_sids import read_sids
from tsrec_jax.data.prepared import SUMMARY
from tsrec_jax.data.text_folder import TextFolder, read_texts, texts_of
from tsrec_jax.errors import UserError
from tsrec_jax.pipeline.describe import describe_tokens
from tsrec_jax.pipeline.index import index_together, make_index
from tsrec_jax.pipeline.prepare import prepared_folder
from tsrec_jax.pipeline.pretrain import pretrained_model
from tsrec_jax.pipeline.shop import is_embedded, shop_folder
from tsrec_jax.pipeline.vectors import need_base
from tsrec_jax.pipeline.workdir import Workdir
from tsrec_jax.processes import Made, several
from tsrec_jax.progress import report
from tsrec_jax.settings import Settings
from tsrec_jax.teacher.groups import refuse_other_unit


@dataclasses.dataclass(frozen=True)
class Source:
    """A folder of texts and interactions, and the stages that it needs to become a dataset folder.

    Attributes:
      folder, name: the folder and the NAME of its files.
      own_sids: whether the folder's own SIDs are used; otherwise the run makes them, or another file gives them.
      needs_index, needs_describe: whether the run makes the SIDs, and the words for their tokens.
      numbered: whether the last level of the SIDs that the run makes only counts the items with the same code.
    """

    folder: pathlib.Path
    name: str
    own_sids: bool
    needs_index: bool
    needs_describe: bool
    numbered: bool

    @property
    def complete(self) -> bool:
        """Whether it is a dataset folder that is used as it is."""
        return self.own_sids and not self.needs_describe


def make_inputs(settings: Settings, path: pathlib.Path) -> tuple[Dataset, str]:
    """The dataset with SIDs and words and the pretrained model, both made in `path` if they are not given.

    There is no model if `fusion.model` says that none takes part, unless it embeds the items for the SIDs or for a
    fusion's parts.
    """
    workdir = Workdir(path)
    source = workdir.first_makes(lambda: open_source(settings, path))
    if source.complete:
        dataset = read_dataset(source.folder, source.name, settings.dataset)
        texts = texts_of(dataset, source.folder)
        _report_notes(texts)
    else:
        dataset, texts = in_turn(make_dataset, settings, path, source)
    return dataset, pretrained_model(settings, path, texts) if need_base(settings, source.needs_index) else ""


def in_turn(
    make: Callable[[Settings, pathlib.Path, Source], Made], settings: Settings, path: pathlib.Path, source: Source
) -> Made:
    """The result of `make_dataset` or `make_catalogue` in every process of a run: the first makes it, the others find
    it.

    Before that, all processes together make what is worth sharing: the model that embeds the items, their vectors and
    the codebooks. Only the first process asks the teacher, so that there is one queue with one rate, one cap and one
    file of answers.
    """
    if several() and source.needs_index:
        index_together(settings, path, open_texts(settings, source))
    return Workdir(path).first_makes(lambda: make(settings, path, source))


def open_source(settings: Settings, path: pathlib.Path) -> Source:
    """The folder that the settings name, or one made in `path` from raw data or the embedded shop.

    Raises:
      UserError: the raw data cannot be prepared, `path` holds a folder of other settings, or as in `source_of`.
    """
    if is_embedded(settings):
        return source_of(settings, shop_folder(settings, path))
    given = settings.dataset.path
    return source_of(settings, pathlib.Path(given) if given else prepared_folder(settings.prepare, path))


def source_folder(settings: Settings, path: pathlib.Path) -> pathlib.Path:
    """The folder that `open_source` takes or makes; nothing is made, so it may be missing."""
    if settings.dataset.path:
        return pathlib.Path(settings.dataset.path)
    return path / ("shop" if is_embedded(settings) else "prepared")


def source_of(settings: Settings, folder: pathlib.Path) -> Source:
    """What `index.sids` and `describe.words` mean for a folder.

    Raises:
      UserError: the folder lacks something that the settings call given; or given words are for other SIDs than this
        run's, or for tokens while `describe.unit` says paths, or the reverse.
    """
    name = find_name(folder, settings.dataset.name)
    has_sids = (folder / f"{name}.index.json").is_file()
    has_words = (folder / f"{name}{DESCRIPTIONS_FILE}").is_file()
    other_sids = bool(settings.index.given_sids)
    if settings.index.sids == "given" and not (has_sids or other_sids):
        raise UserError(f"{folder}/{name}.index.json is not there; set config.index.sids=make, or auto")
    needs_index = settings.index.sids == "make" or not (has_sids or other_sids)
    own_sids = not needs_index and not other_sids
    words = settings.describe.words
    if words == "given" and not (own_sids and has_words):
        why = "its keywords are for other SIDs than those of this run" if has_words else "it holds no keyword file"
        raise UserError(f"config.describe.words=given, but {folder}: {why}; set config.describe.words=make")
    needs_describe = words == "make" or (words == "auto" and not (own_sids and has_words))
    if words != "none" and not needs_describe:
        refuse_other_unit(folder / f"{name}{DESCRIPTIONS_FILE}", settings.describe.unit)
    numbered = needs_index and settings.index.collisions == "extra_level"
    return Source(folder, name, own_sids, needs_index, needs_describe, numbered)


def open_texts(settings: Settings, source: Source) -> TextFolder:
    """The texts and interactions of a folder; nothing is made."""
    if source.own_sids:
        return texts_of(read_dataset(source.folder, source.name, settings.dataset), source.folder)
    return read_texts(source.folder, source.name, settings.dataset)


def make_dataset(settings: Settings, path: pathlib.Path, source: Source) -> tuple[Dataset, TextFolder]:
    """The dataset folder of a run whose SIDs or words are made here, `dataset/` in `path`, and what it is made from.

    Raises:
      UserError: a gate of the SID report failed, the teacher failed, or the workdir has results of other settings.
    """
    catalogue, texts = make_catalogue(settings, path, source)
    words: tuple[TokenDescription, ...] = ()
    if source.needs_describe:
        words = describe_tokens(settings.describe, path, catalogue, source.numbered)
    made = path / "dataset"
    if not made.exists():
        write_dataset(source.name, catalogue, texts.splits, words, made)
    summary = source.folder / SUMMARY
    if summary.exists() and not (made / SUMMARY).exists():  # what it says about the rows is true here too
        shutil.copyfile(summary, made / SUMMARY)
    dataset = read_dataset(made, source.name)
    parts = {
        "items or SIDs": dataset.catalogue != catalogue,
        "words": tuple(dataset.token_descriptions.values()) != words,
        **{f"{split}.csv": dataset.splits.get(split) != texts.splits.get(split) for split in SPLITS},
    }
    changed = [part for part, differs in parts.items() if differs]
    if changed:
        raise UserError(
            f"{made} was made of other {', '.join(changed)} than those of {source.folder} and this run; give another "
            "--workdir"
        )
    return dataset, texts


def make_catalogue(settings: Settings, path: pathlib.Path, source: Source) -> tuple[Catalogue, TextFolder]:
    """The catalogue with the SIDs that are given or made in `path`, and the folder's texts and interactions."""
    if source.own_sids:
        dataset = read_dataset(source.folder, source.name, settings.dataset)
        texts = texts_of(dataset, source.folder)
        _report_notes(texts)
        return dataset.catalogue, texts
    texts = read_texts(source.folder, source.name, settings.dataset)
    _report_notes(texts)
    if not source.needs_index:
        sids, notes = read_sids(pathlib.Path(settings.index.given_sids), texts.items, settings.dataset.ragged_sids)
        for note in notes:
            report(f"index: {note}")
        return Catalogue(texts.items, sids), texts
    return Catalogue(texts.items, make_index(settings, path, texts).sids()), texts


def _report_notes(texts: TextFolder) -> None:
    """Reports what a person should know about the folder of a run."""
    for note in texts.notes:
        report(f"data: {note}")
