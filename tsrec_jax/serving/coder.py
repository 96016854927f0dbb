"""SIDs for new items from their texts, using the codebooks of the training; no other item's SID changes."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Sequence

import numpy as np

from tsrec_jax.data.catalogue import Item, shown_facts
from tsrec_jax.serving.answers import Coding, Neighbour, NoEncoder
from tsrec_jax.serving.codebooks import Codebooks, Embed
from tsrec_jax.serving.live_catalogue import LiveCatalogue, LiveItem
from tsrec_jax.sid.collisions import code_newcomers
from tsrec_jax.sid.embed import item_text

NEIGHBOURS = 5
AGAIN_SECONDS = 60.0  # before an encoder that was not available is looked for again, even on the hub
_TOGETHER = 1_000  # items put in one change
_COMPARED = 50_000  # SIDs compared to find neighbours, which takes some hundredths of a second
_LOG = logging.getLogger(__name__)


class Coder:
    """Codes items for one catalogue. Safe for several threads, which take turns with the encoder.

    Args:
      codebooks: those of the export.
      catalogue: the catalogue as it is now.
    """

    def __init__(self, codebooks: Codebooks, catalogue: LiveCatalogue):
        self._codebooks, self._catalogue = codebooks, catalogue
        self._embed: Embed | None = None
        self._failure, self._again_at = "", 0.0  # of the last load; time.monotonic() of the next one
        self._turn = threading.Lock()

    def vectors(self, items: Sequence[Item]) -> np.ndarray:
        """float32 (N, K): the whitened vectors of items. The first call loads the encoder.

        Raises:
          NoEncoder: the encoder is not available, or is not the one used in training; it is then not tried again for a
            minute.
        """
        texts = [item_text(item, self._codebooks.encoder.text_fields) for item in items]
        with self._turn:
            if self._embed is None:
                self._embed = self._load()
            return self._codebooks.index.whitening(self._embed(texts))

    def _load(self) -> Embed:
        if (left := self._again_at - time.monotonic()) > 0:
            raise NoEncoder(self._failure, math.ceil(left))
        try:
            return self._codebooks.encoder.load()
        except Exception as error:  # whatever the library that reads it raises: it would raise it again at once
            expected = isinstance(error, NoEncoder)
            self._failure = (
                str(error)
                if expected
                else f"the encoder cannot be loaded: {type(error).__name__}: {error}".splitlines()[0]
            )
            _LOG.warning("%s", self._failure, exc_info=not expected)
            self._again_at = time.monotonic() + AGAIN_SECONDS
            raise NoEncoder(self._failure, math.ceil(AGAIN_SECONDS)) from None

    def put(
        self,
        item: Item,
        vector_K: np.ndarray,
        *,
        blocked: bool | None = None,
        only_new: bool = False,
        who: str = "",
    ) -> tuple[bool, Coding | None]:
        """Puts an item into the catalogue, with a SID made from its texts.

        Args:
          item: its texts.
          vector_K: float32, made from them by `vectors`.
          blocked: whether it is only for histories; None: as before, and a new item is not.
          only_new: do not replace an item.
          who: for the journal.

        Returns:
          whether it is new, and how its SID was made; None: it was in the catalogue and keeps its SID.

        Raises:
          UserError: the catalogue cannot hold the item.
          AlreadyThere: the item exists, and only a new one is wanted.
        """
        near_1C, costs_1E = self._nearest(vector_K[None])

        def sid_of(before: LiveItem | None) -> Sequence[str]:
            """Another process may have put the item while its vector was made; then its SID stays."""
            return self._free_sids(near_1C, costs_1E)[0] if before is None else before.sid

        put, new = self._catalogue.put_texts(item, sid_of, blocked=blocked, only_new=only_new, who=who)
        return new, self.coding(item.id, vector_K, put.sid) if new else None

    def put_new(self, items: Sequence[Item], x_NK: np.ndarray) -> None:
        """Puts items that are not in the catalogue, with the SIDs that `put` gives them; nobody else may change it.

        The trie of all SIDs is rebuilt after a change, so it takes over many of them at once.

        Args:
          items: their texts.
          x_NK: float32, made from them by `vectors`.

        Raises:
          UserError: the catalogue cannot hold one of them.
        """
        for start in range(0, len(items), _TOGETHER):
            part = items[start : start + _TOGETHER]
            sids = self._free_sids(*self._nearest(x_NK[start : start + _TOGETHER]))
            self._catalogue.put_all(
                LiveItem(item.id, item.title, sid, False, **shown_facts(item))
                for item, sid in zip(part, sids, strict=True)
            )

    def _nearest(self, x_NK: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """int32 (N, C), the nearest codes; and the cost of each last code, if the rule for collisions needs it."""
        index = self._codebooks.index
        near_NC = index.quantiser.encode(x_NK)
        return near_NC, index.quantiser.last_level_costs(x_NK, near_NC) if index.collisions == "sinkhorn" else None

    def _free_sids(self, near_NC: np.ndarray, costs_NE: np.ndarray | None) -> list[tuple[str, ...]]:
        """SIDs of new items by the rule of the training: if the nearest codes are taken, the nearest free ones.

        Args:
          near_NC, costs_NE: as returned by `_nearest`.
        """
        level_tokens = self._catalogue.level_tokens
        nodes = {tuple(codes) for codes in near_NC[:, : len(level_tokens) - 1].tolist()}
        taken = [codes for node in nodes for codes in self._catalogue.sids.siblings(node)]
        old_NC = np.array(taken, np.int32).reshape(-1, len(level_tokens))
        codes_NC = code_newcomers(self._codebooks.index.collisions, old_NC, near_NC, costs_NE)
        # A number beyond those that the model has tokens for becomes the last one, which is then shared.
        return [
            tuple(tokens[min(code, len(tokens) - 1)] for tokens, code in zip(level_tokens, codes, strict=True))
            for codes in codes_NC.tolist()
        ]

    def coding(self, item_id: str, vector_K: np.ndarray, sid: Sequence[str]) -> Coding:
        """How an item got its SID, once the item is in the catalogue.

        Args:
          item_id: the item.
          vector_K: float32, its vector.
          sid: its SID.
        """
        quantiser, errors_Q = self._codebooks.index.quantiser, self._codebooks.errors_Q
        levels = len(quantiser.sizes)
        level_tokens = self._catalogue.level_tokens
        codes_C = np.array([tokens.index(token) for tokens, token in zip(level_tokens, sid, strict=True)], np.int32)
        with self._catalogue.held():
            others_NC = _alike(self._catalogue, codes_C)
        stands_NK = quantiser.decode(np.concatenate([codes_C[None], others_NC])[:, :levels])
        error = float(np.square(stands_NK[0] - vector_K).sum())
        worse = 1.0 - float(np.interp(error, errors_Q, np.linspace(0.0, 1.0, len(errors_Q))))
        likeness_N = _cosines(stands_NK[1:], vector_K)
        neighbours: list[Neighbour] = []
        with self._catalogue.held():
            for place in np.argsort(-likeness_N, kind="stable").tolist():
                for other in self._catalogue.members(others_NC[place].tolist()):
                    if other.id != item_id and len(neighbours) < NEIGHBOURS:
                        neighbours.append(Neighbour(other.id, other.title, other.sid, float(likeness_N[place])))
                if len(neighbours) == NEIGHBOURS:
                    break
            shared = tuple(other for other in self._catalogue.sids.ids(codes_C.tolist()) if other != item_id)
        return Coding(tuple(sid), round(worse, 4), shared, tuple(neighbours))


def _alike(catalogue: LiveCatalogue, codes_C: np.ndarray) -> np.ndarray:
    """int32 (N, C): the SIDs among which to find neighbours.

    All of them. If there are very many: those with the longest common beginning that enough of them share, or a sample
    of all if too few share even the first code.
    """
    many = catalogue.trie.num_sids > _COMPARED
    for length in range(len(codes_C) - 1, 0, -1) if many else ():
        found_NC = catalogue.trie.sid_codes(codes_C[:length].tolist())
        if len(found_NC) > NEIGHBOURS:
            return found_NC
    found_NC = catalogue.trie.sid_codes()
    return found_NC[:: 1 + len(found_NC) // (_COMPARED + 1)]


def _cosines(stands_NK: np.ndarray, vector_K: np.ndarray) -> np.ndarray:
    norms_N = np.linalg.norm(stands_NK, axis=1) * np.linalg.norm(vector_K)
    return stands_NK @ vector_K / np.maximum(norms_N, 1e-30)
