"""The files of an exported folder: their names, their checksums, and how each is read and checked."""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.folder_files import sha256_of
from tsrec_jax.data.prompts import PromptBuilder, Templates
from tsrec_jax.data.token_descriptions import described_tokens
from tsrec_jax.decoding.beam_search import SearchSettings
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.errors import UserError
from tsrec_jax.files import EXPORT_AGAIN, read_json, write_json
from tsrec_jax.models.dense_head import DenseScorer
from tsrec_jax.models.written_tokenizer import WrittenTokenizer
from tsrec_jax.serving.words import SidWords

if TYPE_CHECKING:
    from tsrec_jax.fusion.fusion import Fusion

CATALOGUE_FILE = "sid_catalogue.json"
PROMPTS_FILE = "prompts.json"
TRIE_FILE = "sid_trie.npz"
WORDS_FILE = "sid_words.json"  # only if the SID tokens are described
FUSION_FILE = "fusion.npz"  # only in an export with a fusion
DENSE_FILE = "dense_head.npz"  # only if the dense head takes part in it
CHECKSUMS_FILE = "checksums.json"
_FORMER_NORMALISERS = {"vocab": "vocabulary", "catalogue": "constrained"}  # names in earlier exports
# Files that nobody computes with and that people change: the card, and the settings of other programs' searches.
_FREE = ("README.md", "generation_config.json", CHECKSUMS_FILE)
_WEIGHTS = ".safetensors"
_READ = (_WEIGHTS, ".json", ".npz", ".model")  # endings of files that loading may read


def write_checksums(folder: pathlib.Path) -> None:
    """Writes the SHA-256 of every file of a folder but the card and `generation_config.json`."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name not in _FREE)
    facts = {"sha256": {name: _sha256(folder / name) for name in names}}
    write_json(folder / CHECKSUMS_FILE, facts, indent=1)


def exported_names(folder: pathlib.Path) -> list[str]:
    """The names of an export's own files; if it has no checksums, the names of all possible files.

    Raises:
      UserError: the file of checksums is broken.
    """
    there = sorted(path.name for path in folder.iterdir() if path.is_file())
    own = _wanted(folder)
    return [name for name in there if name in _FREE or (name.endswith(_READ) if own is None else name in own)]


@contextlib.contextmanager
def verified(folder: pathlib.Path, but: tuple[str, ...] = ()) -> Iterator[None]:
    """Compares a folder with its checksums while it is read: the weights, whose sums take longest, in threads.

    A folder without checksums, such as an older export, is not compared.

    Args:
      folder: an export.
      but: names of files that may differ.

    Raises:
      UserError: a file is not as it was exported, or was not exported (for weights, raised when the context ends).
    """
    try:
        there = sorted(path for path in folder.iterdir() if path.name.endswith(_READ))
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from None
    for path in there:
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            raise UserError(f"{path}: not a file; {EXPORT_AGAIN}")
    wanted = _wanted(folder)
    if wanted is None:
        yield
        return
    for path in there:
        if path.name not in wanted and path.name not in _FREE:
            raise UserError(f"{path}: not among the files in {CHECKSUMS_FILE}; take it out, or {EXPORT_AGAIN}")
    names = [name for name in wanted if name not in but]
    with ThreadPoolExecutor() as pool:
        sums = {name: pool.submit(_sha256, folder / name) for name in names if name.endswith(_WEIGHTS)}
        for name in names:
            if name not in sums:
                _compare(folder / name, _sha256(folder / name), wanted[name])
        yield
        for name, found in sums.items():
            _compare(folder / name, found.result(), wanted[name])


def version_of(folder: pathlib.Path) -> str:
    """A short name for the contents of a folder, which changes whenever one of its files does.

    It is made from the checksums; for an older export without them, from sizes and times.
    """
    if (folder / CHECKSUMS_FILE).is_file():
        return _sha256(folder / CHECKSUMS_FILE)[:12]
    facts = sorted((path.name, *_size_and_time(path)) for path in folder.iterdir())
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]


def _size_and_time(path: pathlib.Path) -> tuple[int, int]:
    """Bytes, and the modification time in nanoseconds; 0 for a link that leads nowhere, which the readers refuse."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def _wanted(folder: pathlib.Path) -> dict[str, str] | None:
    """{file name: SHA-256 in hexadecimal}; None if there is no file of checksums."""
    path = folder / CHECKSUMS_FILE
    if not path.exists() and not path.is_symlink():
        return None
    facts = read_json(path, EXPORT_AGAIN)
    sums = facts.get("sha256") if isinstance(facts, dict) else None
    if not sums or not isinstance(sums, dict) or not all(isinstance(value, str) for value in sums.values()):
        raise UserError(f"{path}: holds no checksums; {EXPORT_AGAIN}")
    for name in sums:
        if pathlib.PurePath(name).name != name:
            raise UserError(f"{path}: {name!r} is not a file of this folder; {EXPORT_AGAIN}")
    return sums


def _sha256(path: pathlib.Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {EXPORT_AGAIN}") from None


def _compare(path: pathlib.Path, found: str, wanted: str) -> None:
    if found != wanted:
        taken = "; `tsrec_jax.serving.export.accept_catalogue` takes an edited one over"
        edited = taken if path.name == CATALOGUE_FILE else ""
        raise UserError(f"{path}: not as it was exported (see {CHECKSUMS_FILE}); {EXPORT_AGAIN}{edited}")


def read_catalogue(folder: pathlib.Path) -> Catalogue:
    """The items.

    Raises:
      UserError: the file is absent, broken or inconsistent.
    """
    path = folder / CATALOGUE_FILE
    try:
        return Catalogue.from_json(read_json(path, EXPORT_AGAIN))
    except ValueError as error:
        raise UserError(f"{path}: {error}; {EXPORT_AGAIN}") from None


def read_words(folder: pathlib.Path, catalogue: Catalogue) -> SidWords:
    """What the SID tokens mean; nothing if the export does not say.

    Raises:
      UserError: the file is broken, or describes other tokens.
    """
    path = folder / WORDS_FILE
    if not path.exists() and not path.is_symlink():
        return SidWords()
    try:
        return SidWords(described_tokens(read_json(path, EXPORT_AGAIN), catalogue.tokens))
    except ValueError as error:
        raise UserError(f"{path}: {error}; {EXPORT_AGAIN}") from None


def read_prompts(folder: pathlib.Path) -> tuple[Templates, int, str]:
    """The wording, the length of the longest prompt in tokens, and what scores are normalised over.

    Raises:
      UserError: the file is absent, broken or inconsistent.
    """
    path = folder / PROMPTS_FILE
    facts = read_json(path, EXPORT_AGAIN)
    try:
        if not isinstance(facts, dict) or not isinstance(facts["templates"], dict):
            raise ValueError("it holds no templates")
        if not isinstance(facts["templates"].get("separator", ""), str):
            raise ValueError("templates.separator is not a text")
        max_length = facts["max_length"]
        if type(max_length) is not int or max_length < 1:
            raise ValueError(f"max_length={max_length!r} is not a whole number from 1")
        stated: Any = facts.get("normaliser", "vocabulary")  # the first exports do not say
        normaliser = _FORMER_NORMALISERS.get(str(stated), stated)
        SearchSettings(beams=1, normaliser=normaliser)
        return Templates.from_mapping(facts["templates"]), max_length, normaliser
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]!r} is missing; {EXPORT_AGAIN}") from None
    except (ValueError, UserError) as error:
        raise UserError(f"{path}: {error}; {EXPORT_AGAIN}") from None


def read_fusion(folder: pathlib.Path, catalogue: Catalogue) -> tuple[Fusion | None, DenseScorer | None]:
    """The fusion added to the model's scores, and the dense head that takes part in it; None if there is none.

    Raises:
      UserError: a file is broken or belongs to another catalogue.
    """
    if not (folder / FUSION_FILE).exists():
        return None, None
    from tsrec_jax.fusion.fusion import Fusion  # with SciPy

    fusion = Fusion.load(folder / FUSION_FILE, catalogue.num_items)
    if fusion.dense_3 is None:
        return fusion, None
    path = folder / DENSE_FILE
    try:
        with np.load(path, allow_pickle=False) as stored:
            scorer = DenseScorer.from_arrays(dict(stored))
    except Exception as error:  # a broken archive fails anywhere in zipfile, zlib or NumPy
        raise UserError(f"{path}: not a dense head that this program wrote ({error}); {EXPORT_AGAIN}") from None
    if len(scorer.item_vectors_ID) != catalogue.num_items:
        raise UserError(f"{path}: not of a catalogue of {catalogue.num_items} items; {EXPORT_AGAIN}")
    return fusion, scorer


def first_sid_id(folder: pathlib.Path, tokenizer: WrittenTokenizer, catalogue: Catalogue) -> int:
    """The id of the catalogue's first token; its tokens have the last ids of the vocabulary.

    Raises:
      UserError: the tokenizer does not end with the catalogue's tokens.
    """
    known = tokenizer.get_vocab()
    first = len(tokenizer) - len(catalogue.tokens)
    if [known.get(token) for token in catalogue.tokens] != list(range(first, len(tokenizer))):
        raise UserError(f"{folder}: its tokenizer does not end with the tokens of {CATALOGUE_FILE}; {EXPORT_AGAIN}")
    return first


def read_trie(folder: pathlib.Path, catalogue: Catalogue, first_id: int) -> Trie:
    """The valid SIDs, which are those of the catalogue.

    Raises:
      UserError: the file is absent, broken or belongs to another catalogue.
    """
    path = folder / TRIE_FILE
    trie = Trie.load(path)
    if not trie.same_as(Trie.of_catalogue(catalogue, first_id)):
        raise UserError(f"{path}: not of the SIDs in {CATALOGUE_FILE}; {EXPORT_AGAIN}")
    return trie


def prompt_builder(
    folder: pathlib.Path, tokenizer: WrittenTokenizer, catalogue: Catalogue, templates: Templates, length: int
) -> PromptBuilder:
    """The builder of the prompts.

    Raises:
      UserError: `length` leaves no room for a prompt and its completion.
    """
    builder = PromptBuilder(tokenizer, templates, length)
    least = catalogue.num_levels + len(builder.end) + 1
    if length < least:
        raise UserError(
            f"{folder / PROMPTS_FILE}: max_length={length} is below {least}, a completion's; {EXPORT_AGAIN}"
        )
    return builder
