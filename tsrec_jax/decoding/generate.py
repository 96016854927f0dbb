"""The host side of decoding: prompts in, ranked SIDs out, in full batches of bucketed lengths."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.decoding.beam_search import BeamResult, beam_search
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.sharding import mesh_of, named_sharding

BUCKETS = (32, 64, 96, 128, 192, 256, 384, 512)
Ranked = list[tuple[str, float]]  # (SID, score), best first
REPORT_SECONDS = 10.0


def search_all(
    model: Decoder,
    trie: Trie,
    catalogue: Catalogue,
    prompts: Sequence[Sequence[int]],
    *,
    beams: int,
    batch_size: int,
    buckets: Sequence[int] = BUCKETS,
    mesh: Mesh | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Ranked]:
    """Searches for every prompt; the order of the results is that of the prompts.

    Prompts are sorted into buckets of lengths and padded to full batches, so that there is one compile a bucket.

    Args:
      model, trie, catalogue: the recommender.
      prompts: token ids, at least one each.
      beams: W.
      batch_size: requests of a batch; rounded up to a multiple of the mesh's data x fsdp size.
      buckets: padded prompt lengths, rising; a longer prompt is padded to a multiple of the last one.
      mesh: requests are laid over its data and fsdp axes; None: the mesh the model lies on, if any.
      progress: receives a line now and then.

    Returns:
      For each prompt min(W, SIDs) distinct SIDs of the catalogue with their log-probabilities in nats.

    Raises:
      ValueError: an empty prompt.
      FloatingPointError: a score is NaN or infinite; such scores rank nothing.
    """
    texts = sid_texts(trie, catalogue)
    codes_NC = np.asarray(trie.sid_codes_NC)
    mesh = mesh or mesh_of(model.embedding[...])
    if mesh is not None:
        batch_size += -batch_size % (mesh.shape["data"] * mesh.shape["fsdp"])
    results: list[Ranked] = [[] for _ in prompts]
    started = last = time.perf_counter()
    done = 0

    def collect(rows: list[int], found: BeamResult) -> int:
        for row, ranked in zip(rows, _ranked(found, len(rows), codes_NC), strict=True):
            results[row] = [(texts[leaf], score) for leaf, score in ranked]
        return len(rows)

    # Dispatch one batch ahead: the host reads batch n while the device works on batch n + 1.
    pending: tuple[list[int], BeamResult] | None = None
    for rows, tokens_BS, lengths_B in _batches(prompts, batch_size, buckets):
        if mesh is not None:
            tokens_BS, lengths_B = jax.device_put((tokens_BS, lengths_B), named_sharding(mesh, "batch"))
        found = beam_search(model, trie, tokens_BS, lengths_B, beams)
        if pending is not None:
            done += collect(*pending)
        pending = (rows, found)
        now = time.perf_counter()
        if progress is not None and done and now - last > REPORT_SECONDS:
            last = now
            rate = done / (now - started)
            progress(f"{done}/{len(prompts)} rows, {rate:.1f} rows/s, {(len(prompts) - done) / rate:.0f} s left")
    if pending is not None:
        collect(*pending)
    return results


def sid_texts(trie: Trie, catalogue: Catalogue) -> list[str]:
    """The text of every SID by its number in the trie."""
    codes_NC = np.asarray(trie.sid_codes_NC)
    return ["".join(catalogue.level_tokens[c][code] for c, code in enumerate(codes)) for codes in codes_NC]


def _batches(
    prompts: Sequence[Sequence[int]], batch_size: int, buckets: Sequence[int]
) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """(row numbers, tokens_BS, lengths_B) of full batches; a short last batch repeats its first prompt."""
    members_of: dict[int, list[int]] = {}
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {row} is empty")
        bucket = next((size for size in buckets if size >= len(prompt)), len(prompt) + -len(prompt) % buckets[-1])
        members_of.setdefault(bucket, []).append(row)
    for bucket, members in sorted(members_of.items()):
        for start in range(0, len(members), batch_size):
            rows = members[start : start + batch_size]
            filled = rows + [rows[0]] * (batch_size - len(rows))
            tokens_BS = np.zeros((batch_size, bucket), np.int32)
            for place, row in enumerate(filled):
                tokens_BS[place, : len(prompts[row])] = prompts[row]
            yield rows, tokens_BS, np.array([len(prompts[row]) for row in filled], np.int32)


def _ranked(found: BeamResult, count: int, codes_NC: np.ndarray) -> list[list[tuple[int, float]]]:
    """(SID number, score) of the live beams of the first `count` requests, checked."""
    codes_BWC, scores_BW, leaf_BW = (
        np.asarray(array)[:count] for array in (found.codes_BWC, found.scores_BW, found.leaf_BW)
    )
    alive_BW = np.isfinite(scores_BW)
    # Every SID of finite log-probability is reachable, so anything less than this many is a number gone wrong.
    expected = min(scores_BW.shape[1], len(codes_NC))
    if not (np.isfinite(scores_BW) | np.isneginf(scores_BW)).all() or (alive_BW.sum(axis=1) != expected).any():
        raise FloatingPointError(
            "beam search: a score is NaN or infinite; the model's weights or activations are not finite"
        )
    invalid = (codes_BWC[alive_BW] != codes_NC[leaf_BW[alive_BW]]).any(axis=-1).sum()
    if invalid:
        raise AssertionError(f"beam search: {invalid} generated code sequences are not SIDs of the catalogue")
    return [
        list(zip(leaf_W[alive_W].tolist(), scores_W[alive_W].tolist(), strict=True))
        for leaf_W, scores_W, alive_W in zip(leaf_BW, scores_BW, alive_BW, strict=True)
    ]
