"""Recommendations from an exported folder."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn

import numpy as np

from tsrec_jax.data.catalogue import Catalogue, Item, UnknownItem
from tsrec_jax.data.prompts import PromptBuilder
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.errors import UserError
from tsrec_jax.files import EXPORT_AGAIN
from tsrec_jax.models.hf import load_hf
from tsrec_jax.models.inference import InferenceModel
from tsrec_jax.models.int8 import WEIGHTS
from tsrec_jax.models.written_tokenizer import WrittenTokenizer
from tsrec_jax.programs import Programs
from tsrec_jax.section import refuse_other
from tsrec_jax.serving.answers import MAX_BEAMS, Answer, Coding, Recommendation, Request
from tsrec_jax.serving.arguments import item_ids, listed, whole
from tsrec_jax.serving.catalogue_changes import Changes
from tsrec_jax.serving.catalogue_items import LiveItem
from tsrec_jax.serving.codebooks import NO_CODEBOOKS, Codebooks, read_codebooks
from tsrec_jax.serving.coder import Coder
from tsrec_jax.serving.export_files import (
    PROMPTS_FILE,
    first_sid_id,
    prompt_builder,
    read_catalogue,
    read_fusion,
    read_prompts,
    read_trie,
    read_words,
    verified,
    version_of,
)
from tsrec_jax.serving.finders import Finder, FusionFinder, ModelFinder
from tsrec_jax.serving.hub import local_export, push_export
from tsrec_jax.serving.item_answers import answer_of, sid_filter, without_unknown
from tsrec_jax.serving.live_catalogue import LiveCatalogue
from tsrec_jax.serving.live_fusion import LiveFusion
from tsrec_jax.serving.words import SidWords

MAX_BATCH = 8
BEAMS = 20


class Recommender:
    """A loaded export; create one with `Recommender.load`. Safe for several threads, which take turns.

    Attributes:
      folder: the folder that it was loaded from.
      finder: does the searches.
      catalogue: the items; it may change at any time.
      max_batch: most requests that are searched together.
      beams: width of a search unless a call gives another.
      version: the version of the export that it was loaded from; empty: none.
      words: what the SID tokens mean.
      coder: codes items from their texts; None: the export has no codebooks.
    """

    folder: pathlib.Path

    def __init__(
        self,
        finder: Finder,
        catalogue: LiveCatalogue,
        *,
        beams: int,
        max_batch: int,
        words: SidWords,
        codebooks: Codebooks | None,
        version: str,
    ):
        self.finder = finder
        self.catalogue = catalogue
        self.beams = beams
        self.max_batch = max_batch
        self.words = words
        self.version = version
        self.coder = None if codebooks is None else Coder(codebooks, catalogue)

    def __getstate__(self) -> NoReturn:
        raise UserError(
            "a Recommender cannot be pickled or copied: its weights lie on a device and its catalogue changes under a "
            "lock; load it in each process with Recommender.load(folder)"
        )

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        *,
        dtype: str = "float32",
        weights: str = "full",
        beams: int = BEAMS,
        max_batch: int = MAX_BATCH,
        encoder: str | None = None,
        revision: str | None = None,
        changes: str | os.PathLike[str] | Changes | None = None,
        programs: str | os.PathLike[str] | None = None,
    ) -> Recommender:
        """Loads an exported folder.

        Args:
          folder: what the verb `export` wrote, or OWNER/NAME of an export on the Hugging Face hub.
          dtype: compute and parameter type.
          weights: one of `models.int8.WEIGHTS`: matrices in that type (`full`), or in eight bits (`int8`).
          beams: width of a search, 1 to 512; at most this many items can be requested.
          max_batch: most requests that are searched together.
          encoder: folder or hub id of the model that made vectors of the item texts, if it is not available under the
            name in the export. It is loaded when the first item is coded.
          revision: branch, tag or commit on the hub; None: the newest.
          changes: the file that keeps the changes of the catalogue (docs/catalogue.md), such as `changes_file(folder)`,
            or the changes themselves; None: they live as long as the recommender.
          programs: folder for compiled searches, which the next process loads from there, unless others may write
            there. None: only JAX's own cache is used, if it is set up.

        Raises:
          UserError: the folder is not a complete export, or the changes belong to another one.
        """
        folder = local_export(folder, revision)
        kept = changes if isinstance(changes, Changes) else Changes(changes)
        recommender = cls._loaded(
            folder,
            kept,
            dtype=dtype,
            weights=weights,
            beams=beams,
            max_batch=max_batch,
            encoder=encoder,
            programs=None if programs is None else Programs(pathlib.Path(programs)),
        )
        recommender.folder = folder
        return recommender

    @classmethod
    def _loaded(
        cls,
        folder: pathlib.Path,
        changes: Changes,
        *,
        dtype: str,
        weights: str,
        beams: int,
        max_batch: int,
        encoder: str | None,
        programs: Programs | None,
    ) -> Recommender:
        refuse_other("weights", weights, WEIGHTS)
        if not 1 <= whole("beams", beams) <= MAX_BEAMS:
            raise UserError(f"beams={beams}: must be from 1 to {MAX_BEAMS}")
        if whole("max_batch", max_batch) < 1:
            raise UserError(f"max_batch={max_batch}: must be at least 1")
        with verified(folder):
            version = version_of(folder)
            catalogue = read_catalogue(folder)
            fusion, scorer = read_fusion(folder, catalogue)
            codebooks = read_codebooks(folder, [len(tokens) for tokens in catalogue.level_tokens], encoder)
            alone = fusion is not None and not (folder / PROMPTS_FILE).exists()
            parts = None if alone else _model_parts(folder, catalogue, dtype, weights, programs)
        trie = Trie.of_catalogue(catalogue, 0) if parts is None else parts.trie
        live = LiveCatalogue(catalogue, trie, changes)
        fused = None if fusion is None else LiveFusion(fusion, scorer, catalogue, live)
        finder: Finder
        if parts is None:
            assert fused is not None
            finder = FusionFinder(fused)
        else:
            finder = ModelFinder(
                parts.model,
                live,
                parts.builder,
                beams=beams,
                max_batch=max_batch,
                normaliser=parts.normaliser,
                fusion=fused,
                programs=programs,
            )
        return cls(
            finder,
            live,
            beams=beams,
            max_batch=max_batch,
            words=SidWords() if parts is None else parts.words,
            codebooks=codebooks,
            version=version,
        )

    def push_to_hub(self, repo_id: str, *, private: bool = True) -> str:
        """Uploads the loaded export to the Hugging Face hub as it was exported, without changes of its catalogue.

        Args:
          repo_id: OWNER/NAME, which `load` accepts afterwards; the repository is created if it does not exist.
          private: whether a new repository is private.

        Returns:
          the address of the commit.

        Raises:
          UserError: nobody is logged in (`hf auth login`), or the hub refuses.
        """
        return push_export(self.folder, repo_id, private=private)

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        *,
        beams: int | None = None,
        exclude_history: bool = False,
        exclude: Sequence[str] = (),
        allow: Sequence[str] | None = None,
        exact: bool = False,
    ) -> list[list[Recommendation]]:
        """The k best items for each history.

        To learn whether a search proves its answer and how much of a history it read, use `answer` (`Answer.exact`,
        `.used`).

        Args:
          histories: item ids, oldest first. If the prompt has no room for all of a history, the newest part is read,
            with a warning.
          k: number of items wanted, at most 512; fewer are returned only if the catalogue, or what the filters leave of
            it, has fewer.
          beams: width of the search, at least k. None: that of `load`, or the next power of two if k is larger, so that
            not every k compiles its own search.
          exclude_history: leave out the items of the history.
          exclude: items to leave out.
          allow: the only items that may be recommended; None: all.
          exact: widen the search where it does not prove its answer, until it does or has 512 beams.

        Returns:
          For each history, the best items first; items with the same SID share its score and come in catalogue order.

        Raises:
          UserError: an empty history, something other than a list of item ids where one is wanted, an unknown item, k
            below 1 or beams below k.
        """
        out = item_ids("exclude", exclude)
        allowed = None if allow is None else item_ids("allow", allow)
        requests = []
        for number, history in enumerate(listed("histories", histories, "histories, each a list of item ids"), 1):
            ids = item_ids(f"history {number}", history)
            if not ids:
                raise UserError(f"history {number} is empty: give at least one item id")
            requests.append(Request(ids, k, exclude_history, out, allowed))
        if beams is None:
            k = whole("k", k)
            beams = self.beams if k <= self.beams else min(1 << (k - 1).bit_length(), max(k, MAX_BEAMS))
        answers = self.answer(requests, beams=beams, exact=exact)
        cut = [
            number for number, (r, a) in enumerate(zip(requests, answers, strict=True), 1) if a.used < len(r.history)
        ]
        if cut:
            warnings.warn(
                f"{len(cut)} of {len(requests)} histories, number {cut[0]} first, are longer than a prompt has room "
                "for: only their newest items are read (`answer` says how many, as `used`)",
                stacklevel=2,
            )
        return [list(answer.items) for answer in answers]

    def answer(self, requests: Sequence[Request], *, beams: int | None = None, exact: bool = False) -> list[Answer]:
        """Answers any number of requests, in batches; the catalogue does not change meanwhile.

        Args:
          requests: what is wanted.
          beams: width of the search; None: that of `load`.
          exact: widen the search where it does not prove its answer, until it does or has 512 beams.

        Raises:
          UserError: a request that `check` refuses.
        """
        beams = self.beams if beams is None else whole("beams", beams)
        with self.catalogue.held():
            for request in requests:
                self.check(request, beams=beams)
            if not requests:
                return []
            wanted, skipped = zip(*(without_unknown(self.catalogue, request) for request in requests), strict=True)
            filters = [sid_filter(self.catalogue, request) for request in wanted]
            return [
                dataclasses.replace(answer_of(self.catalogue, self.words, request, one, read), skipped=out)
                for request, (one, read), out in zip(
                    wanted, self.finder.find(wanted, filters, beams, exact), skipped, strict=True
                )
            ]

    def put(
        self,
        item: Item,
        sid: Sequence[str] | None = None,
        *,
        vector_K: np.ndarray | None = None,
        blocked: bool | None = None,
        only_new: bool = False,
        who: str = "",
    ) -> tuple[bool, Coding | None]:
        """Adds or replaces an item. It can be recommended from the next search on.

        Args:
          item: its texts; the description is not kept.
          sid: its tokens; None: those that it has, or for a new item a SID of its own, made from its texts.
          vector_K: the result of `vector` for it, if that was called before; None: it is called here.
          blocked: whether it is only for histories; None: as before, and a new item is not.
          only_new: do not replace an item.
          who: for the journal.

        Returns:
          whether it is new, and how its SID was made; None if it was given or is as before.

        Raises:
          UserError: the item or its SID is not possible, or the export cannot code.
          AlreadyThere: the item exists, and only a new one is wanted.
        """
        if sid is None and vector_K is None:
            vector_K = self.vector(item)
        if sid is None and vector_K is not None:
            assert self.coder is not None
            return self.coder.put(item, vector_K, blocked=blocked, only_new=only_new, who=who)

        def tokens(_: LiveItem | None) -> Sequence[str]:
            return self.catalogue.item(item.id).sid if sid is None else sid

        try:
            return self.catalogue.put_texts(item, tokens, blocked=blocked, only_new=only_new, who=who)[1], None
        except UnknownItem:  # another process has just removed it: it is new
            return self.put(item, blocked=blocked, only_new=only_new, who=who)

    def vector(self, item: Item) -> np.ndarray | None:
        """float32 (K,): the vector from which `put` makes an item's SID; None: it is in the catalogue and has a SID.

        The first item that needs the encoder loads it, which may take long.

        Raises:
          UserError: the export cannot code, or as `Coder.vectors`.
        """
        if self.catalogue.get(item.id) is not None:
            return None
        if self.coder is None:
            raise UserError(NO_CODEBOOKS)
        return self.coder.vectors([item])[0]

    def check(self, request: Request, *, beams: int | None = None) -> None:
        """Refuses a request that cannot be answered.

        Raises:
          UserError: an empty history, something other than a list of item ids where one is wanted, an unknown item, or
            a k that is not a number, below 1 or above the beams.
        """
        beams = self.beams if beams is None else beams
        if whole("k", request.k) < 1:
            raise UserError(f"k={request.k}: must be at least 1")
        if not request.k <= beams <= MAX_BEAMS:
            raise UserError(f"beams={beams}: must be at least k={request.k} and at most {MAX_BEAMS}")
        history, excluded = item_ids("history", request.history), item_ids("exclude", request.exclude)
        if not history:
            raise UserError("the history is empty: give at least one item id")
        allowed = () if request.allow is None else item_ids("allow", request.allow)
        if not request.skip_unknown:
            for item_id in (*history, *excluded, *allowed):
                self.catalogue.item(item_id)
        elif all(self.catalogue.get(str(item_id)) is None for item_id in history):
            raise UserError("no item of the history is in the catalogue")

    def warm_up(
        self,
        report: Callable[[str], None],
        *,
        max_history: int,
        wide: Sequence[int] = (),
        opened: Callable[[int], None] = lambda beams: None,
    ) -> None:
        """Compiles the searches for histories of up to `max_history` items, while others may use the recommender.

        Args:
          report: told what will be compiled next.
          max_history: most items; a longer history is compiled when it arrives.
          wide: further widths of searches.
          opened: called with a width once requests for it no longer compile anything.
        """
        self.catalogue.search.prepare()
        self.finder.warm_up(report, max_history=max_history, widths=(self.beams, *wide), opened=opened)


@dataclasses.dataclass(frozen=True)
class _ModelParts:
    """The loaded parts of a model from an export."""

    model: InferenceModel
    builder: PromptBuilder
    trie: Trie
    normaliser: str
    words: SidWords


def _model_parts(
    folder: pathlib.Path, catalogue: Catalogue, dtype: str, weights: str, programs: Programs | None
) -> _ModelParts:
    templates, max_length, normaliser = read_prompts(folder)
    tokenizer = WrittenTokenizer(folder)
    trie = read_trie(folder, catalogue, first_sid_id(folder, tokenizer, catalogue))
    builder = prompt_builder(folder, tokenizer, catalogue, templates, max_length)
    words = read_words(folder, catalogue)
    model = InferenceModel.of(load_hf(folder, dtype=dtype, remat=False), weights, programs)
    if model.config.vocab_rows != len(tokenizer):
        raise UserError(
            f"{folder}: the weights have {model.config.vocab_rows} vocabulary rows, the tokenizer has "
            f"{len(tokenizer)} tokens; {EXPORT_AGAIN}"
        )
    return _ModelParts(model, builder, trie, normaliser, words)
