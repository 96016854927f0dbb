"""The host side of decoding: prompts in, ranked SIDs out, in full batches of bucketed lengths."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.decoding.beam_search import BeamResult, beam_search
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.models.decoder import Decoder

BUCKETS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
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
    mesh: Mesh | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Ranked]:
    """Searches for every prompt; the order of the results is that of the prompts.

    Prompts are sorted into buckets of lengths and padded to full batches, so that there is one compile a bucket.

    Args:
      model, trie, catalogue: the recommender.
      prompts: token ids, each at least one and at most as long as the largest bucket.
      beams: W.
      batch_size: requests of a batch; a multiple of the mesh's data x fsdp size.
      mesh: requests are laid over its data and fsdp axes.
      progress: receives a line now and then.

    Raises:
      FloatingPointError: a score is NaN or +inf; such scores rank nothing.
    """
    texts = sid_texts(trie, catalogue)
    results: list[Ranked] = [[] for _ in prompts]
    started = last = time.perf_counter()
    done = 0
    # Dispatch one batch ahead: the host reads batch n while the device works on batch n + 1.
    pending: tuple[list[int], BeamResult] | None = None
    for rows, tokens_BS, lengths_B in _batches(prompts, batch_size):
        if mesh is not None:
            sharding = NamedSharding(mesh, jax.P(("data", "fsdp")))
            tokens_BS, lengths_B = jax.device_put((tokens_BS, lengths_B), sharding)
        found = beam_search(model, trie, tokens_BS, lengths_B, beams)
        if pending is not None:
            done += _collect(*pending, texts, results)
        pending = (rows, found)
        now = time.perf_counter()
        if progress is not None and now - last > REPORT_SECONDS:
            last = now
            rate = done / (now - started)
            progress(f"{done}/{len(prompts)} rows, {rate:.1f} rows/s, left {(len(prompts) - done) / max(rate, 1e-9):.0f} s")
    if pending is not None:
        _collect(*pending, texts, results)
    return results


def sid_texts(trie: Trie, catalogue: Catalogue) -> list[str]:
    """The text of every SID by its number in the trie."""
    codes_NC = np.asarray(trie.sid_codes_NC)
    return ["".join(catalogue.level_tokens[c][code] for c, code in enumerate(codes)) for codes in codes_NC]


def _batches(
    prompts: Sequence[Sequence[int]], batch_size: int
) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """(row numbers, tokens_BS, lengths_B) of full batches; a short last batch repeats its first prompt."""
    buckets: dict[int, list[int]] = {}
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {row} is empty")
        fitting = [bucket for bucket in BUCKETS if bucket >= len(prompt)]
        bucket = fitting[0] if fitting else -(-len(prompt) // BUCKETS[-1]) * BUCKETS[-1]
        buckets.setdefault(bucket, []).append(row)
    for bucket, members in sorted(buckets.items()):
        for start in range(0, len(members), batch_size):
            rows = members[start : start + batch_size]
            filled = rows + [rows[0]] * (batch_size - len(rows))
            tokens_BS = np.zeros((batch_size, bucket), np.int32)
            for place, row in enumerate(filled):
                tokens_BS[place, : len(prompts[row])] = prompts[row]
            yield rows, tokens_BS, np.array([len(prompts[row]) for row in filled], np.int32)


def _collect(rows: list[int], found: BeamResult, texts: Sequence[str], results: list[Ranked]) -> int:
    """Puts a batch's results in their places; returns how many."""
    sids_BW, scores_BW = np.asarray(found.sids_BW), np.asarray(found.scores_BW)
    if np.isnan(scores_BW).any() or np.isposinf(scores_BW).any():
        raise FloatingPointError("beam search: a score is not finite; the model's weights or activations have overflowed")
    for place, row in enumerate(rows):
        alive = np.isfinite(scores_BW[place])
        results[row] = [
            (texts[sid], float(score))
            for sid, score in zip(sids_BW[place][alive], scores_BW[place][alive], strict=True)
        ]
    return len(rows)
