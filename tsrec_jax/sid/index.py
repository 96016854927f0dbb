"""The index: the codes of every item, and the codebooks that give codes to new items."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from tsrec_jax.errors import UserError
from tsrec_jax.files import write_npz
from tsrec_jax.sid.collisions import code_newcomers, number_collisions, reassign_last_level
from tsrec_jax.sid.given import kind_of_file
from tsrec_jax.sid.kmeans import GROUP
from tsrec_jax.sid.quantisers import QUANTISERS
from tsrec_jax.sid.quantisers.protocol import Quantiser
from tsrec_jax.sid.quantisers.residual import ResidualQuantiser
from tsrec_jax.sid.settings import IndexSettings
from tsrec_jax.sid.whiten import Whitening, fit_whitening

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclasses.dataclass(frozen=True)
class SidIndex:
    """Items and their codes.

    Attributes:
      method, collisions: how the codes were made.
      whitening: applied to the embeddings before they are quantised.
      quantiser: the codebooks.
      item_ids: one id for each row of `codes_IC`.
      codes_IC: int32; with `extra_level` it has one level more than the quantiser.
      made_with: the settings behind codes and embeddings as JSON values; a run that extends the index must have the
        same.
    """

    method: str
    collisions: str
    whitening: Whitening
    quantiser: Quantiser
    item_ids: tuple[str, ...]
    codes_IC: np.ndarray
    made_with: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of codes on each level, the extra level included."""
        coded = self.quantiser.sizes
        extra = self.codes_IC[:, len(coded) :]
        return (*coded, *(int(extra_I.max()) + 1 for extra_I in extra.T))

    def sids(self) -> tuple[tuple[str, ...], ...]:
        """The tokens of every item."""
        return tuple(tuple(map(sid_token, range(len(codes)), codes)) for codes in self.codes_IC.tolist())

    def reconstruction(self, levels: int) -> np.ndarray:
        """float32 (I, K): the whitened vectors that the first levels' codes stand for."""
        return self.quantiser.decode(self.codes_IC[:, : min(levels, len(self.quantiser.sizes))])

    def extended(self, item_ids: Sequence[str], x_ID: np.ndarray) -> SidIndex:
        """The index of another list of items: known ids keep their codes, the others are coded by the codebooks.

        Args:
          item_ids: the new list; items that are not in it are forgotten.
          x_ID: float32 embeddings of all items in the list, in its order.
        """
        known = {item: row for row, item in enumerate(self.item_ids)}
        places = np.array([known.get(item, -1) for item in item_ids])
        codes_IC = self.codes_IC[places].copy()
        new_N = np.flatnonzero(places < 0)
        if len(new_N):
            whitened_ND = self.whitening(x_ID[new_N])
            new_NC = self.quantiser.encode(whitened_ND)
            costs_NE = self.quantiser.last_level_costs(whitened_ND, new_NC) if self.collisions == "sinkhorn" else None
            codes_IC[new_N] = code_newcomers(self.collisions, self.codes_IC, new_NC, costs_NE)
        return dataclasses.replace(self, item_ids=tuple(item_ids), codes_IC=codes_IC)

    def codebooks(self, level_tokens: Sequence[Sequence[str]]) -> SidIndex:
        """The index without its items, to code new ones, with only the codes that some item has.

        A model has no row for the token of any other code.

        Args:
          level_tokens: `Catalogue.level_tokens` of a catalogue with these SIDs. Code number e on a level of the result
            is token number e there.
        """
        numbers = [
            {sid_token(level, code): code for code in range(size)} for level, size in enumerate(self.quantiser.sizes)
        ]
        codes = [
            [known[token] for token in tokens]
            for known, tokens in zip(numbers, level_tokens, strict=False)  # a level that numbers collisions is left out
        ]
        return dataclasses.replace(self, quantiser=self.quantiser.only(codes), item_ids=(), codes_IC=self.codes_IC[:0])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one .npz; it appears only when it is complete."""
        facts = json.dumps({"method": self.method, "collisions": self.collisions, "made_with": self.made_with})
        arrays = {f"quantiser/{name}": array for name, array in self.quantiser.arrays().items()}
        arrays |= {
            "facts": np.array(facts),
            "item_ids": np.array(self.item_ids, dtype=np.str_),
            "codes_IC": self.codes_IC,
            "mean_D": self.whitening.mean_D,
            "projection_DK": self.whitening.projection_DK,
        }
        write_npz(pathlib.Path(path), arrays)


def sid_token(level: int, code: int) -> str:
    """The token of a code, as in `<b_80>`; levels beyond the alphabet are numbered."""
    return f"<{LETTERS[level] if level < len(LETTERS) else f'level{level}'}_{code}>"


def build_index(
    item_ids: Sequence[str],
    x_ID: np.ndarray,
    settings: IndexSettings,
    seed: int,
    kept: pathlib.Path | None = None,
) -> SidIndex:
    """Codes for items from their embeddings; the same input, settings and seed give the same codes.

    Args:
      item_ids: the ids of the items.
      x_ID: float32 embeddings in the same order.
      settings: how to make them; its sizes must not be empty.
      seed: seed of everything random.
      kept: file for the finished parts of a long fit, as in `Quantiser.fit`. The caller removes it. None: nothing is
        kept.
    """
    whitening = fit_whitening(x_ID, settings.whiten)
    whitened_IK = whitening(x_ID)
    quantiser, codes_IC = QUANTISERS[settings.method].load().fit(whitened_IK, settings, seed, kept)
    if settings.collisions == "sinkhorn":
        codes_IC = reassign_last_level(codes_IC, quantiser.last_level_costs(whitened_IK, codes_IC))
    elif settings.collisions == "extra_level":
        codes_IC = number_collisions(codes_IC)
    return SidIndex(settings.method, settings.collisions, whitening, quantiser, tuple(item_ids), codes_IC)


def fit_on_mesh(x_ID: np.ndarray, settings: IndexSettings, seed: int, kept: pathlib.Path, mesh: Mesh) -> None:
    """Fits the levels that `build_index` then finds in `kept`, on all devices of a mesh, called by all its processes.

    Does nothing if that saves nothing: if one device can sum all items at once, and for methods other than k-means.

    Args:
      x_ID, settings, seed: as in `build_index`.
      kept: file of the first process.
      mesh: mesh of the devices.
    """
    kind = QUANTISERS[settings.method].load()
    if len(x_ID) > GROUP and issubclass(kind, ResidualQuantiser):
        kind.fit(fit_whitening(x_ID, settings.whiten)(x_ID), settings, seed, kept, mesh)


def load_index(
    path: str | os.PathLike[str], *, way_out: str = "give the sid_index.npz that the stage `index` wrote"
) -> SidIndex:
    """Reads what `SidIndex.save` wrote.

    Args:
      path: the file.
      way_out: what to do about a file that cannot be read, for the error message.

    Raises:
      UserError: there is no such file, or it is not an index.
    """
    path = pathlib.Path(path)
    try:
        kind = kind_of_file(path)
        if not kind.startswith("an .npz"):
            raise UserError(f"{path} is {kind} and not an index; {way_out}")
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays: Mapping[str, np.ndarray] = {name: file[name] for name in file.files}
        facts = json.loads(str(arrays["facts"]))
        prefix = "quantiser/"
        parts = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        return SidIndex(
            facts["method"],
            facts["collisions"],
            Whitening(arrays["mean_D"], arrays["projection_DK"]),
            QUANTISERS[facts["method"]].load().from_arrays(parts),
            tuple(arrays["item_ids"].tolist()),
            arrays["codes_IC"],
            facts["made_with"],
        )
    except FileNotFoundError:
        raise UserError(f"{path}: not there; {way_out}") from None
    except KeyError as error:
        raise UserError(f"{path}: not an index that this program wrote (it has no {error}); {way_out}") from None
    except UserError:
        raise
    except Exception as error:  # a broken archive fails anywhere in zipfile, zlib or NumPy
        raise UserError(f"{path}: not an index that this program wrote ({error}); {way_out}") from None
