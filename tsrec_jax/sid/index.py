"""The index: which codes every item has, and the codebooks that code the next ones."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tsrec_jax.errors import UserError
from tsrec_jax.files import write_npz
from tsrec_jax.sid.collisions import code_newcomers, number_collisions, reassign_last_level
from tsrec_jax.sid.given import kind_of_file
from tsrec_jax.sid.levels import LevelStore
from tsrec_jax.sid.residual import ResidualQuantiser, RqSettings, fit_residual
from tsrec_jax.sid.rq_vae import RqVae, RqVaeSettings, fit_rq_vae
from tsrec_jax.sid.whiten import Whitening, fit_whitening

METHODS = ("rq_kmeans", "rq_kmeans_balanced", "rq_vae")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Quantiser(Protocol):
    """What turns vectors into codes: `ResidualQuantiser` or `RqVae`."""

    @property
    def sizes(self) -> tuple[int, ...]: ...

    def encode(self, x_ID: np.ndarray) -> np.ndarray: ...

    def decode(self, codes_IC: np.ndarray) -> np.ndarray: ...

    def last_level_costs(self, x_ID: np.ndarray, codes_IC: np.ndarray) -> np.ndarray: ...

    def arrays(self) -> dict[str, np.ndarray]: ...


@dataclasses.dataclass(frozen=True)
class IndexSettings:
    """How items get their codes.

    Attributes:
      method: of METHODS.
      sizes: codes of each level, any number of levels; `sizes.fitting_sizes` has a rule.
      collisions: of `collisions.POLICIES`.
      whiten: principal components that are kept, each scaled to variance 1; 0: the embeddings are only centred.
      iterations, rows_per_code: of k-means, as in `RqSettings`.
      hidden, latent, epochs, batch_size: of `rq_vae`, as in `RqVaeSettings`.
    """

    method: str = "rq_kmeans_balanced"
    sizes: tuple[int, ...] = (256, 256, 256)
    collisions: str = "sinkhorn"
    whiten: int = 256
    iterations: int = 20
    rows_per_code: int = 0
    hidden: tuple[int, ...] = (512, 256, 128)
    latent: int = 32
    epochs: int = 100
    batch_size: int = 256


@dataclasses.dataclass(frozen=True)
class SidIndex:
    """Items and their codes.

    Attributes:
      method, collisions: how the codes were made.
      whitening: of the embeddings, before they are quantised.
      quantiser: the codebooks.
      item_ids: one for each row of `codes_IC`.
      codes_IC: int32; with `extra_level` it has one level more than the quantiser.
      made_with: the settings behind codes and embeddings as JSON values, which whoever extends the index must share.
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
        """Codes of each level, with the extra one."""
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
          item_ids: the new list; items that it leaves out are forgotten.
          x_ID: float32 embeddings of all of them, in that order.
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
    report: Callable[[str], None],
    kept: pathlib.Path | None = None,
) -> SidIndex:
    """Codes for items from their embeddings; the same input, settings and seed give the same codes.

    Args:
      item_ids: of the items.
      x_ID: float32 embeddings in the same order.
      settings: how.
      seed: of everything random.
      report: receives a line a level or now and then.
      kept: file for the finished levels of `rq_kmeans` and `rq_kmeans_balanced`: where it holds some of the same
        embeddings, settings and seed, the fit goes on behind them, with the same codes in the end. The caller removes
        it. None: nothing is kept.
    """
    whitening = fit_whitening(x_ID, settings.whiten)
    whitened_IK = whitening(x_ID)
    quantiser: Quantiser
    if settings.method == "rq_vae":
        shape = (settings.sizes, settings.hidden, settings.latent)
        vae = RqVaeSettings(*shape, epochs=settings.epochs, batch_size=settings.batch_size)
        quantiser = fit_rq_vae(whitened_IK, vae, seed, report)
        codes_IC = quantiser.encode(whitened_IK)
    else:
        balanced = settings.method == "rq_kmeans_balanced"
        rq = RqSettings(settings.sizes, balanced, settings.iterations, settings.rows_per_code)
        store = None if kept is None else LevelStore(kept, _fit(whitened_IK, rq, seed))
        quantiser, codes_IC = fit_residual(whitened_IK, rq, seed, report, store)
    if settings.collisions == "sinkhorn":
        codes_IC = reassign_last_level(codes_IC, quantiser.last_level_costs(whitened_IK, codes_IC))
    elif settings.collisions == "extra_level":
        codes_IC = number_collisions(codes_IC)
    return SidIndex(settings.method, settings.collisions, whitening, quantiser, tuple(item_ids), codes_IC)


def _fit(x_ID: np.ndarray, settings: RqSettings, seed: int) -> str:
    """A hash of all that decides the levels."""
    facts = json.dumps([dataclasses.asdict(settings), seed, str(x_ID.dtype), x_ID.shape])
    digest = hashlib.sha256(facts.encode())
    digest.update(np.ascontiguousarray(x_ID))
    return digest.hexdigest()


def load_index(path: str | os.PathLike[str]) -> SidIndex:
    """Reads what `SidIndex.save` wrote.

    Raises:
      UserError: there is no such file, or it is not an index.
    """
    path = pathlib.Path(path)
    way_out = "give the sid_index.npz that the stage `index` wrote"
    try:
        kind = kind_of_file(path)
        if not kind.startswith("an .npz"):
            raise UserError(f"{path} is {kind} and not an index; {way_out}")
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays: Mapping[str, np.ndarray] = {name: file[name] for name in file.files}
        facts = json.loads(str(arrays["facts"]))
        prefix = "quantiser/"
        parts = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        kind = RqVae if facts["method"] == "rq_vae" else ResidualQuantiser
        return SidIndex(
            facts["method"],
            facts["collisions"],
            Whitening(arrays["mean_D"], arrays["projection_DK"]),
            kind.from_arrays(parts),
            tuple(arrays["item_ids"].tolist()),
            arrays["codes_IC"],
            facts["made_with"],
        )
    except FileNotFoundError:
        raise UserError(f"{path}: not there; {way_out}") from None
    except KeyError as error:
        raise UserError(f"{path}: not an index that this program wrote (it has no {error}); {way_out}") from None
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not an index that this program wrote ({error}); {way_out}") from None
