"""SIDs for new items from their texts, by the codebooks of the training; no other item's SID changes."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from tsrec_jax.data.catalogue import Item
from tsrec_jax.serving.answers import Coding, Neighbour
from tsrec_jax.serving.codebooks import Codebooks, Embed
from tsrec_jax.serving.live_catalogue import LiveCatalogue, LiveItem
from tsrec_jax.sid.collisions import code_newcomers
from tsrec_jax.sid.embed import item_text

NEIGHBOURS = 5
_COMPARED = 50_000  # SIDs that are compared to find neighbours, which takes some hundredths of a second


class Coder:
    """Codes items for one catalogue. Safe for several threads, which take turns with the encoder.

    Args:
      codebooks: of the export.
      catalogue: as it is now.
    """

    def __init__(self, codebooks: Codebooks, catalogue: LiveCatalogue):
        self._codebooks, self._catalogue = codebooks, catalogue
        self._embed: Embed | None = None
        self._turn = threading.Lock()

    def vectors(self, items: Sequence[Item]) -> np.ndarray:
        """float32 (N, K): the whitened vectors of items. The first call loads the encoder.

        Raises:
          NoEncoder: the encoder is not to be had, or is another one than that of the training.
        """
        texts = [item_text(item, self._codebooks.encoder.text_fields) for item in items]
        with self._turn:
            if self._embed is None:
                self._embed = self._codebooks.encoder.load()
            return self._codebooks.index.whitening(self._embed(texts))

    def put(
        self,
        item: Item,
        vector_K: np.ndarray,
        *,
        blocked: bool | None = None,
        only_new: bool = False,
        who: str = "",
    ) -> tuple[bool, Coding | None]:
        """Puts an item into the catalogue, with a SID that is made of its texts.

        Args:
          item: its texts.
          vector_K: float32, what `vectors` makes of them.
          blocked: whether it is only for histories; None: as it was, and a new one is not.
          only_new: replace no item.
          who: for the journal.

        Returns:
          whether it is new, and how its SID was made; None: it was in the catalogue, and keeps its SID.

        Raises:
          UserError: the catalogue cannot hold the item.
          AlreadyThere: there is such an item, and only a new one is wanted.
        """
        index, x_1K = self._codebooks.index, vector_K[None]
        near_1C = index.quantiser.encode(x_1K)
        costs_1E = index.quantiser.last_level_costs(x_1K, near_1C) if index.collisions == "sinkhorn" else None

        def sid_of(before: LiveItem | None) -> Sequence[str]:
            """Another may have put the item while its vector was made; then its SID stays."""
            return self._free_sid(near_1C, costs_1E) if before is None else before.sid

        put, new = self._catalogue.put_texts(item, sid_of, blocked=blocked, only_new=only_new, who=who)
        return new, self.coding(item.id, vector_K, put.sid) if new else None

    def _free_sid(self, near_1C: np.ndarray, costs_1E: np.ndarray | None) -> tuple[str, ...]:
        """The SID of an item by the rule of the training: where its nearest codes are taken, the nearest that are free.

        Args:
          near_1C: int32, the nearest codes.
          costs_1E: where the rule needs them, what each code of the last level costs.
        """
        level_tokens = self._catalogue.level_tokens
        taken = self._catalogue.sids.siblings(near_1C[0, : len(level_tokens) - 1].tolist())
        old_NC = np.array(taken, np.int32).reshape(-1, len(level_tokens))
        (codes_C,) = code_newcomers(self._codebooks.index.collisions, old_NC, near_1C, costs_1E)
        *codes, last = codes_C.tolist()
        # A number beyond those that the model has tokens for becomes the last one, which is then shared.
        codes.append(min(last, len(level_tokens[-1]) - 1))
        return tuple(tokens[code] for tokens, code in zip(level_tokens, codes, strict=True))

    def coding(self, item_id: str, vector_K: np.ndarray, sid: Sequence[str]) -> Coding:
        """What there is to say of an item's SID, once the item is in the catalogue.

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
    """int32 (N, C): the SIDs to find neighbours among.

    All of them, or of very many those with the longest common beginning that enough share; where too few share even the
    first code, a sample of all.
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
