"""The host side of decoding: prompts in, ranked SIDs out, in full batches of bucketed lengths."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jax.sharding import Mesh

from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.decoding.beam_search import BeamResult, SearchSettings, beam_search
from tsrec_jax.decoding.filters import FilterRows, SidFilter
from tsrec_jax.decoding.prior import DenseScores, Prior, PriorNodes
from tsrec_jax.decoding.score_sids import score_sids
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.models.inference import InferenceModel, Prefix, make_prefix, prefill
from tsrec_jax.models.sharding import mesh_of, named_sharding
from tsrec_jax.processes import gather, several
from tsrec_jax.programs import Programs
from tsrec_jax.progress import Progress

BUCKETS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
RankedSids = list[tuple[str, float]]  # (SID, score), best first
WINDOW_BATCHES = 16  # this many batches of prompts are read, sorted by length and searched at a time
WIDENING = 4


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The live beams of one request, best first.

    Attributes:
      codes_WC: int32.
      scores_W: float32 log-probabilities in nats, each plus its prior if there is one.
      totals_WC: float32 log-probabilities of the first 1, 2, ... C codes, without the prior.
      dropped: the best score that the search dropped; -inf: it dropped nothing.
    """

    codes_WC: np.ndarray
    scores_W: np.ndarray
    totals_WC: np.ndarray
    dropped: float

    def exact(self, k: int) -> bool:
        """Whether the search proves that its first k are the k best SIDs (all of them, if there are fewer)."""
        if k > len(self.scores_W):
            return self.dropped == -np.inf
        return bool(self.scores_W[k - 1] > self.dropped)


class Searcher:
    """A model and a trie, ready to search; the constant beginning of the prompts is computed once.

    Args:
      model: the weights.
      trie: the valid SIDs; its changes are followed.
      settings: width and scores.
      batch_size: requests per batch, rounded up to a multiple of the mesh's data x fsdp size.
      buckets: padded prompt lengths, rising; a longer prompt is padded to a multiple of the last one.
      prefix: token ids that prompts begin with; a prompt that does not begin with them, or has nothing else, is
        searched whole.
      filtering: whether requests may bring filters (the search then has the inputs for them).
      mesh: requests are laid over its data and fsdp axes; None: the mesh the model lies on, if any.
      programs: keeps the compiled programs of `run`; None: none is kept.
    """

    def __init__(
        self,
        model: InferenceModel,
        trie: Trie,
        settings: SearchSettings,
        *,
        batch_size: int,
        buckets: Sequence[int] = BUCKETS,
        prefix: Sequence[int] = (),
        filtering: bool = False,
        mesh: Mesh | None = None,
        programs: Programs | None = None,
    ):
        self.model, self.trie, self.settings = model, trie, settings
        self.mesh = mesh or mesh_of(model.embedding_VD)
        if self.mesh is not None:
            batch_size += -batch_size % (self.mesh.shape["data"] * self.mesh.shape["fsdp"])
        self.batch_size, self.buckets = batch_size, tuple(buckets)
        self._prefix_ids = list(prefix)
        self._programs = programs or Programs()
        self._prefix = make_prefix(model, tuple(prefix), self._programs) if self._prefix_ids else None
        self._rows = FilterRows(trie, batch_size, self._programs) if filtering else None

    def run(
        self,
        prompts: Iterable[Sequence[int]],
        filters: Sequence[SidFilter] | None = None,
        *,
        prior: Callable[[Sequence[int]], Prior] | None = None,
        progress: Callable[[str], None] | None = None,
        total: int | None = None,
    ) -> list[SearchResult]:
        """Searches for every prompt; the order of the results is that of the prompts.

        Prompts are read ahead by a thread, so that a generator that tokenises works while the device does. Each window
        of prompts is sorted into buckets by length and padded to full batches: one compilation per bucket.

        Args:
          prompts: token ids, at least one each.
          filters: for each prompt what it leaves out; needs `filtering`.
          prior: maps the numbers of a batch's prompts, some of them perhaps repeated, to what is added to their scores.
          progress: receives a line now and then, if `total` is given too.
          total: number of prompts.

        Returns:
          For each prompt min(W, SIDs) distinct SIDs of the catalogue, fewer if a filter leaves fewer.

        Raises:
          ValueError: an empty prompt.
          FloatingPointError: a score is NaN or infinite; such scores rank nothing.
        """
        results: dict[int, SearchResult] = {}
        told = None if progress is None or total is None else Progress(total, progress, unit="rows")
        # Dispatch one batch ahead: the host reads batch n while the device works on batch n + 1.
        pending: tuple[list[int], BeamResult] | None = None
        for rows, tokens_BS, lengths_B, prefixed in self._batches(prompts):
            batch = [filters[row] for row in rows] if filters is not None else []
            # A short batch repeats its first prompt.
            known = None if prior is None else prior(rows + rows[:1] * (len(tokens_BS) - len(rows)))
            found = self._search(tokens_BS, lengths_B, prefixed, batch, known)
            if pending is not None:
                results |= self._collect(*pending, filters is not None)
                if told is not None:
                    told.tick("search", len(pending[0]))
            pending = (rows, found)
        if pending is not None:
            results |= self._collect(*pending, filters is not None)
        return [results[row] for row in range(len(results))]

    def score(self, prompts: Sequence[Sequence[int]], codes_RWC: np.ndarray) -> np.ndarray:
        """float32 (R, W): log P(SID | prompt) in nats of W given SIDs for each of R prompts; see `score_sids`."""
        scores_RW = np.zeros(codes_RWC.shape[:2], np.float32)
        for rows, tokens_BS, lengths_B, prefixed in self._batches(prompts):
            filled = rows + rows[:1] * (len(tokens_BS) - len(rows))
            arrays = tokens_BS, lengths_B, codes_RWC[filled].astype(np.int32)
            if self.mesh is not None:
                arrays = jax.device_put(arrays, named_sharding(self.mesh, "batch"))
            prefix = self._prefix if prefixed else None
            found_BW = score_sids(self.model, self.trie.arrays, *arrays, self.settings, prefix)
            scores_RW[rows] = np.asarray(found_BW)[: len(rows)]
        return scores_RW

    def states(self, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        """float32 (R, D): the hidden state of each prompt's last token after the final norm."""
        found: dict[int, np.ndarray] = {}
        for rows, tokens_BS, lengths_B, prefixed in self._batches(prompts):
            x_DB = _last_states(self.model, tokens_BS, lengths_B, self._prefix if prefixed else None)
            found |= dict(zip(rows, np.asarray(x_DB, np.float32).T, strict=False))
        return np.stack([found[row] for row in range(len(prompts))])

    def run_exact(
        self,
        prompts: Sequence[Sequence[int]],
        k: int,
        filters: Sequence[SidFilter] | None = None,
        *,
        prior: Callable[[Sequence[int]], Prior] | None = None,
        most: int | None = None,
    ) -> list[SearchResult]:
        """Like `run`, but each answer's first k are the k best SIDs: unproven requests are searched again, wider.

        The last search has as many beams as there are valid prefixes, so that every SID's score is known; or `most`
        beams, and then an answer may remain unproven.
        """
        widest = max(self.trie.prefixes(level) for level in range(self.trie.num_levels))
        limit = widest + -widest % 128
        if most is not None:
            limit = min(limit, most)
        results = self.run(prompts, filters, prior=prior)
        beams = self.settings.beams
        while beams < min(widest, limit):
            open_rows = [row for row, found in enumerate(results) if not found.exact(k)]
            if not open_rows:
                break
            beams = min(beams * WIDENING, limit)
            again = self._wider(beams).run(
                [prompts[row] for row in open_rows],
                None if filters is None else [filters[row] for row in open_rows],
                prior=None if prior is None else _of_rows(prior, open_rows),
            )
            for row, found in zip(open_rows, again, strict=True):
                results[row] = found
        if beams < widest:
            return results
        return [dataclasses.replace(found, dropped=-np.inf) if not found.exact(k) else found for found in results]

    def bucket(self, length: int) -> int:
        """The length that a prompt of `length` tokens, without the prefix, is padded to."""
        found = next((size for size in self.buckets if size >= length), None)
        return found or length + -length % self.buckets[-1]

    def _wider(self, beams: int) -> Searcher:
        """A searcher with more beams and, so that it needs no more memory, fewer requests at once."""
        wider = Searcher(
            self.model,
            self.trie,
            dataclasses.replace(self.settings, beams=beams),
            batch_size=max(1, self.batch_size * self.settings.beams // beams),
            buckets=self.buckets,
            filtering=self._rows is not None,
            mesh=self.mesh,
            programs=self._programs,
        )
        wider._prefix_ids, wider._prefix = self._prefix_ids, self._prefix
        return wider

    def _search(
        self,
        tokens_BS: np.ndarray,
        lengths_B: np.ndarray,
        prefixed: bool,
        batch: Sequence[SidFilter],
        prior: Prior | None,
    ) -> BeamResult:
        arrays, filters = (self.trie.arrays, None) if self._rows is None else self._rows.prepare(batch)
        if self.mesh is not None:
            sharding = named_sharding(self.mesh, "batch")
            tokens_BS, lengths_B, filters = jax.device_put((tokens_BS, lengths_B, filters), sharding)
            if prior is not None:
                prior = dataclasses.replace(prior, scores_BE=jax.device_put(prior.scores_BE, sharding))
        prefix = self._prefix if prefixed else None
        return self._programs.call(
            beam_search,
            self.model,
            arrays,
            tokens_BS,
            lengths_B,
            static={"settings": self.settings},
            prefix=prefix,
            filters=filters,
            prior=prior,
        )

    def _batches(self, prompts: Iterable[Sequence[int]]) -> Iterator[tuple[list[int], np.ndarray, np.ndarray, bool]]:
        """(row numbers, tokens_BS, lengths_B, whether the prefix stands before) of full batches.

        Prompts that do not fill a batch wait for the next window. Those left at the end share batches whatever their
        lengths, in the bucket of the longest, because a batch costs the same however few of its rows are wanted. A
        short last batch repeats its first prompt.
        """
        members: dict[tuple[bool, int], list[tuple[int, Sequence[int]]]] = {}
        row = 0
        for window in _read_ahead(prompts, WINDOW_BATCHES * self.batch_size):
            for prompt in window:
                kind, rest = self._kind(row, prompt)
                members.setdefault(kind, []).append((row, rest))
                row += 1
            for kind, waiting in sorted(members.items()):
                while len(waiting) >= self.batch_size:
                    yield self._padded(kind, waiting[: self.batch_size])
                    del waiting[: self.batch_size]
        for prefixed in (False, True):
            left = [
                (bucket, member)
                for (kind, bucket), waiting in sorted(members.items())
                if kind == prefixed
                for member in waiting
            ]
            for start in range(0, len(left), self.batch_size):
                chunk = left[start : start + self.batch_size]
                yield self._padded((prefixed, chunk[-1][0]), [member for _, member in chunk])

    def _kind(self, row: int, prompt: Sequence[int]) -> tuple[tuple[bool, int], Sequence[int]]:
        """(whether the prefix stands before, bucket) of a prompt, and the part of it that is left to compute."""
        if not len(prompt):
            raise ValueError(f"prompt {row} is empty")
        shared = len(self._prefix_ids)
        prefixed = 0 < shared < len(prompt) and list(prompt[:shared]) == self._prefix_ids
        rest = prompt[shared:] if prefixed else prompt
        return (prefixed, self.bucket(len(rest))), rest

    def _padded(
        self, kind: tuple[bool, int], members: Sequence[tuple[int, Sequence[int]]]
    ) -> tuple[list[int], np.ndarray, np.ndarray, bool]:
        prefixed, bucket = kind
        rows = [row for row, _ in members]
        filled = [rest for _, rest in members]
        filled += [filled[0]] * (self.batch_size - len(filled))
        tokens_BS = np.zeros((self.batch_size, bucket), np.int32)
        for place, rest in enumerate(filled):
            tokens_BS[place, : len(rest)] = rest
        return rows, tokens_BS, np.array([len(rest) for rest in filled], np.int32), prefixed

    def _collect(self, rows: list[int], result: BeamResult, filtered: bool) -> dict[int, SearchResult]:
        """The live beams of a batch's requests, checked."""
        codes_BWC, scores_BW, totals_BWC, dropped_B = (
            np.asarray(array)[: len(rows)]
            for array in (result.codes_BWC, result.scores_BW, result.totals_BWC, result.dropped_B)
        )
        alive_BW = np.isfinite(scores_BW)
        # Every SID of finite log-probability is reachable, so if there are fewer, a number has gone wrong.
        expected = 0 if filtered else min(self.settings.beams, self.trie.num_sids)
        if not (alive_BW | np.isneginf(scores_BW)).all() or (alive_BW.sum(axis=1) < expected).any():
            raise FloatingPointError(
                "beam search: a score is NaN or infinite; the model's weights or activations are not finite"
            )
        invalid = (~self.trie.contains(codes_BWC[alive_BW])).sum()
        if invalid:
            raise AssertionError(f"beam search: {invalid} generated code sequences are not SIDs of the catalogue")
        return {
            row: SearchResult(
                codes_BWC[place][alive], scores_BW[place][alive], totals_BWC[place][alive], float(dropped)
            )
            for place, (row, alive, dropped) in enumerate(zip(rows, alive_BW, dropped_B, strict=True))
        }


def _of_rows(prior: Callable[[Sequence[int]], Prior], rows: Sequence[int]) -> Callable[[Sequence[int]], Prior]:
    """The priors of some prompts, by their new numbers."""
    return lambda numbers: prior([rows[number] for number in numbers])


def _read_ahead(prompts: Iterable[Sequence[int]], size: int) -> Iterator[list[Sequence[int]]]:
    """Windows of at most `size` prompts; the next one is read by a thread while this one is in use."""
    source = iter(prompts)
    with ThreadPoolExecutor(1) as reader:
        upcoming = reader.submit(lambda: list(itertools.islice(source, size)))
        while window := upcoming.result():
            upcoming = reader.submit(lambda: list(itertools.islice(source, size)))
            yield window


def search_all(
    model: InferenceModel,
    trie: Trie,
    catalogue: Catalogue,
    prompts: Iterable[Sequence[int]],
    *,
    beams: int,
    batch_size: int,
    buckets: Sequence[int] = BUCKETS,
    prefix: Sequence[int] = (),
    normaliser: str = "vocabulary",
    item_scores: Callable[[Sequence[int]], np.ndarray] | None = None,
    dense: Callable[[Sequence[int]], DenseScores] | None = None,
    progress: Callable[[str], None] | None = None,
    total: int | None = None,
) -> list[RankedSids]:
    """The ranked SIDs of every prompt as texts; arguments as in `Searcher`, `Searcher.run` and `SearchSettings`.

    If given, `item_scores` maps numbers of prompts to float32 scores_BI of the catalogue's items, in nats. The best
    score among a SID's items is added to its log-probability during the search; `dense` says what the model's dense
    head adds to these scores.

    Several processes search a share of the prompts each, on their own devices, and every one gets all results.
    """
    settings = SearchSettings(beams, normaliser)
    searcher = Searcher(model, trie, settings, batch_size=batch_size, buckets=buckets, prefix=prefix)
    rank, count = (jax.process_index(), jax.process_count()) if several() else (0, 1)
    mine = itertools.islice(prompts, rank, None, count)
    prior = None
    if item_scores is not None:
        nodes = PriorNodes(trie, catalogue.codes_IC)

        def prior(rows: Sequence[int]) -> Prior:
            rows = [rank + count * row for row in rows]
            return nodes.prior(item_scores(rows), None if dense is None else dense(rows))

    found = searcher.run(
        mine, prior=prior, progress=progress, total=None if total is None else len(range(rank, total, count))
    )
    ranked = [list(zip(sid_texts(catalogue, one.codes_WC), one.scores_W.tolist(), strict=True)) for one in found]
    shares = gather(ranked)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*shares))
    return [[(sid, score) for sid, score in row] for row in turns if row is not None]


def score_all(
    model: InferenceModel,
    trie: Trie,
    prompts: Sequence[Sequence[int]],
    codes_RWC: np.ndarray,
    *,
    batch_size: int,
    prefix: Sequence[int] = (),
    normaliser: str = "vocabulary",
) -> np.ndarray:
    """float32 (R, W): log P(SID | prompt) of given SIDs; arguments as in `search_all`, processes share the work."""
    searcher = Searcher(model, trie, SearchSettings(1, normaliser), batch_size=batch_size, prefix=prefix)
    rank, count = (jax.process_index(), jax.process_count()) if several() else (0, 1)
    shares = gather(searcher.score(prompts[rank::count], codes_RWC[rank::count]).tolist())
    scores_RW = np.zeros(codes_RWC.shape[:2], np.float32)
    for number, share in enumerate(shares):
        scores_RW[number::count] = np.asarray(share, np.float32).reshape(-1, codes_RWC.shape[1])
    return scores_RW


def states_of(
    model: InferenceModel, trie: Trie, prompts: Sequence[Sequence[int]], *, batch_size: int, prefix: Sequence[int] = ()
) -> np.ndarray:
    """float32 (R, D): the hidden state at the end of each prompt; arguments as in `search_all`."""
    return Searcher(model, trie, SearchSettings(1), batch_size=batch_size, prefix=prefix).states(prompts)


@jax.jit
def _last_states(model: InferenceModel, tokens_BS: jax.Array, lengths_B: jax.Array, prefix: Prefix | None) -> jax.Array:
    return prefill(model, tokens_BS, lengths_B, prefix)[0]


def sid_texts(catalogue: Catalogue, codes_NC: np.ndarray) -> list[str]:
    """The texts of SIDs by their codes."""
    tokens = catalogue.level_tokens
    return ["".join(tokens[level][code] for level, code in enumerate(codes)) for codes in codes_NC.tolist()]
