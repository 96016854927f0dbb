"""Finders of the best SIDs for requests: a model, with or without a fusion, or a fusion alone."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from tsrec_jax.data.prompts import PromptBuilder
from tsrec_jax.decoding.beam_search import SearchSettings
from tsrec_jax.decoding.filters import SidFilter
from tsrec_jax.decoding.generate import Searcher, SearchResult
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.models.inference import InferenceModel
from tsrec_jax.programs import Programs
from tsrec_jax.serving.answers import MAX_BEAMS, Request
from tsrec_jax.serving.live_catalogue import LiveCatalogue
from tsrec_jax.serving.live_fusion import LiveFusion


class Finder(Protocol):
    """Finds SIDs while the catalogue is held."""

    def find(
        self, requests: Sequence[Request], filters: Sequence[SidFilter], beams: int, exact: bool
    ) -> list[tuple[SearchResult, int]]:
        """Returns, for each request, what the search finds and how many items of the history it read.

        Args:
          requests: all of whose items are in the catalogue.
          filters: for each request, which SIDs may be found.
          beams: width of the search.
          exact: widen the search until it proves its answer or is as wide as allowed.
        """

    def warm_up(
        self,
        report: Callable[[str], None],
        *,
        max_history: int,
        widths: Sequence[int],
        opened: Callable[[int], None],
    ) -> None:
        """Compiles what `find` will need, while others may use it.

        Args:
          report: told what is compiled next.
          max_history: most items; a longer history is compiled when it arrives.
          widths: the widths of searches, rising; the first is the usual one.
          opened: called with a width once requests for it no longer compile anything.
        """


class ModelFinder:
    """A search by a model's probabilities.

    Args:
      model: the weights.
      catalogue: the items; it may change at any time.
      builder: makes the prompts.
      beams: width of the usual search.
      max_batch: requests that are searched together.
      normaliser: what scores are normalised over, as in `SearchSettings`.
      fusion: the fusion added to the model's scores; None: nothing.
      programs: stores the compiled searches; None: none is stored.
    """

    def __init__(
        self,
        model: InferenceModel,
        catalogue: LiveCatalogue,
        builder: PromptBuilder,
        *,
        beams: int,
        max_batch: int,
        normaliser: str,
        fusion: LiveFusion | None = None,
        programs: Programs | None = None,
    ):
        self.model, self.catalogue, self.builder, self.normaliser = model, catalogue, builder, normaliser
        self._beams, self._max_batch, self._fusion, self._programs = beams, max_batch, fusion, programs
        self._prefix = builder.prefix("next_sid")
        first, size = int(catalogue.trie.token_ids[0][0]), catalogue.trie.level_sizes[0]
        self._first_tokens = range(first, first + size)
        self._searchers: dict[int, Searcher] = {}

    def find(
        self, requests: Sequence[Request], filters: Sequence[SidFilter], beams: int, exact: bool
    ) -> list[tuple[SearchResult, int]]:
        """As `Finder`."""
        prompts = self._prompts(requests)
        prior = None if self._fusion is None else self._fusion.prior([request.history for request in requests])
        searcher = self._searcher(beams)
        if exact:
            k = max(request.k for request in requests)
            found = searcher.run_exact(prompts, k, filters, prior=prior, most=MAX_BEAMS)
        else:
            found = searcher.run(prompts, filters, prior=prior)
        used = (self._used(request, prompt) for request, prompt in zip(requests, prompts, strict=True))
        return list(zip(found, used, strict=True))

    def warm_up(
        self,
        report: Callable[[str], None],
        *,
        max_history: int,
        widths: Sequence[int],
        opened: Callable[[int], None],
    ) -> None:
        """As `Finder`.

        The longest prompts come first, including those that were cut and so begin differently. From then on every
        request can be answered, with more padding than it needs; shorter prompts get their own programs as these become
        ready. Wide searches are compiled for the longest prompts only. With a fusion everything is compiled before the
        first answer, since its histories have lengths of their own. Warming up uses a SID of the vocabulary, which need
        not belong to an item.
        """
        usual, *wide = widths
        with self.catalogue.held():  # its own trie, since searching must not coincide with a change of the other one
            trie = copy.deepcopy(self.catalogue.trie)
        lengths: dict[tuple[int, bool, int], int] = {}
        for length in range(1, max_history + 1):
            prompt = self._prompt_of_length(length)
            whole = prompt[: len(self._prefix)] == self._prefix
            bucket = self._searcher(usual).bucket(len(prompt) - whole * len(self._prefix))
            history = 0 if self._fusion is None else self._fusion.padded_length(length)
            lengths.setdefault((bucket, whole, history), length)
        longest, *_ = max(lengths)
        if self._fusion is None:
            lengths |= {(longest, whole, 0): length for (_, whole, _), length in lengths.items()}
        firsts = sorted(shape for shape in lengths if shape[0] == longest)
        programs = [(usual, shape) for shape in (*firsts, *sorted(set(lengths).difference(firsts), reverse=True))]
        programs += [(beams, shape) for beams in wide for shape in firsts if self._fusion is None]
        for number, (beams, shape) in enumerate(programs, 1):
            report(f"warm-up: program {number} of {len(programs)}: {beams} beams, {shape[0]} prompt tokens")
            self._compile(beams, lengths[shape], trie, shape[0])
            if self._fusion is None and shape not in firsts[:-1]:
                searcher = self._searcher(beams)
                searcher.buckets = tuple(sorted({shape[0], *(() if shape == firsts[-1] else searcher.buckets)}))
                if shape == firsts[-1]:
                    opened(beams)
        if self._fusion is not None:
            opened(usual)  # wide searches would compile within the request, while the catalogue is held

    def _compile(self, beams: int, length: int, trie: Trie, bucket: int) -> None:
        """Searches once with a history of `length` items, padded to `bucket`; with a fusion the catalogue is held."""
        filters = [SidFilter(allowed_NC=np.zeros((1, self.catalogue.num_levels), np.int64))]
        searcher = self._new_searcher(beams, trie)
        searcher.buckets = (bucket,)
        with contextlib.nullcontext() if self._fusion is None else self.catalogue.held():
            prior = None if self._fusion is None else self._fusion.prior_of_length(length)
            searcher.run([self._prompt_of_length(length)], filters, prior=prior)

    def _prompt_of_length(self, items: int) -> list[int]:
        sid = "".join(tokens[0] for tokens in self.catalogue.level_tokens)
        (prompt,) = self.builder.prompts_next_sid([[sid] * items], self.catalogue.num_levels)
        return list(prompt)

    def _searcher(self, beams: int) -> Searcher:
        if beams not in self._searchers:
            self._searchers[beams] = self._new_searcher(beams, self.catalogue.trie)
        return self._searchers[beams]

    def _new_searcher(self, beams: int, trie: Trie) -> Searcher:
        return Searcher(
            self.model,
            trie,
            SearchSettings(beams, self.normaliser),
            batch_size=self._max_batch if beams <= self._beams else max(1, self._max_batch * self._beams // beams),
            prefix=self._prefix,
            filtering=True,
            programs=self._programs,
        )

    def _prompts(self, requests: Sequence[Request]) -> list[list[int]]:
        sids = [["".join(self.catalogue.item(item).sid) for item in request.history] for request in requests]
        return self.builder.prompts_next_sid(sids, self.catalogue.num_levels)

    def _used(self, request: Request, prompt: Sequence[int]) -> int:
        """The number of complete SIDs of a history in its prompt, so without one whose first token was cut off."""
        return min(len(request.history), sum(token in self._first_tokens for token in prompt))


class FusionFinder:
    """A fusion without a language model, such as one baseline.

    Args:
      fusion: the fusion, which follows the catalogue.
    """

    def __init__(self, fusion: LiveFusion):
        self._fusion = fusion

    def find(
        self, requests: Sequence[Request], filters: Sequence[SidFilter], beams: int, exact: bool
    ) -> list[tuple[SearchResult, int]]:
        """As `Finder`; every answer is exact."""
        histories = [request.history for request in requests]
        return list(zip(self._fusion.rank(histories, filters, beams), map(len, histories), strict=True))

    def warm_up(
        self,
        report: Callable[[str], None],
        *,
        max_history: int,
        widths: Sequence[int],
        opened: Callable[[int], None],
    ) -> None:
        """As `Finder`; nothing is compiled."""
        for beams in widths:
            opened(beams)
