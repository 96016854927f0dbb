"""From items to SIDs and back: a request's filter as a filter of SIDs, and SIDs found as the items of an answer."""

from __future__ import annotations

import dataclasses

import numpy as np

from tsrec_jax.data.catalogue import shown_facts
from tsrec_jax.decoding.filters import SidFilter
from tsrec_jax.decoding.generate import SearchResult
from tsrec_jax.serving.answers import Answer, PathStep, Recommendation, Request
from tsrec_jax.serving.live_catalogue import LiveCatalogue
from tsrec_jax.serving.words import SidWords


def without_unknown(catalogue: LiveCatalogue, request: Request) -> tuple[Request, tuple[str, ...]]:
    """The request without the ids that are not in the catalogue, if it wants them left out, and those ids."""
    if not request.skip_unknown:
        return request, ()
    parts = {"history": request.history, "exclude": request.exclude, "allow": request.allow or ()}
    ids = dict.fromkeys(str(item_id) for part in parts.values() for item_id in part)
    unknown = {item_id for item_id in ids if catalogue.get(item_id) is None}
    known = {name: tuple(item for item in part if str(item) not in unknown) for name, part in parts.items()}
    allow = None if request.allow is None else known["allow"]
    request = dataclasses.replace(request, history=known["history"], exclude=known["exclude"], allow=allow)
    return request, tuple(item_id for item_id in ids if item_id in unknown)


def sid_filter(catalogue: LiveCatalogue, request: Request) -> SidFilter:
    """The request's filter of items as a filter of SIDs: a SID is out when none of its items is left."""
    excluded = _excluded(request)
    if request.allow is not None:
        allowed = [item for item in dict.fromkeys(map(str, request.allow)) if item not in excluded]
        return SidFilter(allowed_NC=catalogue.codes(allowed))
    if not excluded:
        return SidFilter()
    sids = {tuple(codes) for codes in catalogue.codes(excluded).tolist()}
    out = [codes for codes in sids if all(item.id in excluded for item in catalogue.members(codes))]
    return SidFilter(excluded_NC=np.array(out, np.int64).reshape(-1, catalogue.num_levels))


def answer_of(catalogue: LiveCatalogue, words: SidWords, request: Request, found: SearchResult, read: int) -> Answer:
    """The answer to a request.

    Args:
      catalogue: as it was searched.
      words: what the tokens mean.
      request: the request, all of whose items are in the catalogue.
      found: the result of the search, filtered as `sid_filter` says.
      read: number of items of the history that the search has read.
    """
    excluded = _excluded(request)
    allowed = None if request.allow is None else set(map(str, request.allow))
    items: list[Recommendation] = []
    used = 0
    for codes, score, totals in zip(
        found.codes_WC.tolist(), found.scores_W.tolist(), found.totals_WC.tolist(), strict=True
    ):
        if len(items) >= request.k:
            break
        used += 1
        tokens = [catalogue.level_tokens[level][code] for level, code in enumerate(codes)]
        steps = (after - before for before, after in zip((0.0, *totals), totals, strict=False))
        path = tuple(
            PathStep(token, step) if said is None else PathStep(token, step, said.keywords, said.description)
            for token, step, said in zip(tokens, steps, words.of_sid(tokens), strict=bool(totals))
        )
        items += [
            Recommendation(item.id, item.title, score, "".join(tokens), path, **shown_facts(item))
            for item in catalogue.members(codes)
            if item.id not in excluded and (allowed is None or item.id in allowed)
        ]
    exact = found.exact(used if len(items) >= request.k else len(found.scores_W) + 1)
    return Answer(tuple(items[: request.k]), exact, read)


def _excluded(request: Request) -> set[str]:
    return {*map(str, request.exclude), *(map(str, request.history) if request.exclude_history else ())}
