"""A fitted fusion: an item's score for a history, computed from the scores of its parts; and its file.

The scores are in nats and added to log P(SID | history), or used on their own if no language model takes part:

    score(i | h) = sum over features f of (w_f + v_f * (log(1 + |h|) - m) + u_f * c(i)) * f(i | h)

|h| is the length of the history, and c(i) says how common the item is in train (`commonness`): a part may be right
about popular items and wrong about rare ones.

A part with scores x gives two features, x / s and log(1 + 10 max(x, 0) / p) / t, whose constants are measured on the
selection rows: p is the mean of the scores above 0, s and t are standard deviations. Scores of counts are skewed; the
weights decide which of the two forms suits log-probabilities.

Axis letters: B histories, I items, F features (two per part).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from tsrec_jax.baselines.names import BASELINES
from tsrec_jax.baselines.tables import ItemTables, held_weights
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.files import EXPORT_AGAIN, exported_file, write_npz

KNEE = 10.0
ROUNDING = 1e-6  # a smaller deviation, as a share of the largest absolute value, counts as none
VERSION = 2  # of the formula and of the file


def versions(parts: Collection[str]) -> dict[str, int]:
    """VERSION and the version of each baseline among the parts of a fusion, by name; empty where there are no parts.

    A fusion with another version of any of them gives other scores.
    """
    own = {name: BASELINES[name].version for name in parts if name in BASELINES}
    return {"the fusion": VERSION, **own} if parts else {}


@dataclasses.dataclass(frozen=True)
class Scale:
    """The constants of a part's features.

    Attributes:
      linear: s, standard deviation of the scores.
      positive: p, mean of the scores above 0.
      logarithm: t, standard deviation of the logarithms.
    """

    linear: float
    positive: float
    logarithm: float

    @classmethod
    def of(cls, scores_BI: np.ndarray) -> Scale:
        """Measures the constants; those that cannot be measured, as scores are constant or none is above 0, are 1."""
        above = scores_BI[scores_BI > 0]
        positive = float(above.mean()) if len(above) else 1.0
        return cls(_deviation(scores_BI), positive, _deviation(_logarithm(scores_BI, positive)))

    def features(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both forms of the scores, float32 of the same shape."""
        return scores / np.float32(self.linear), _logarithm(scores, self.positive) / np.float32(self.logarithm)


def _deviation(values: np.ndarray) -> float:
    """The standard deviation; 1 for constant values, whose own deviation is only rounding."""
    deviation = float(values.std())
    return deviation if deviation > ROUNDING * np.abs(values).max() else 1.0


def _logarithm(scores: np.ndarray, positive: float) -> np.ndarray:
    return np.log1p(np.maximum(scores, 0) * np.float32(KNEE / positive))


@dataclasses.dataclass(frozen=True)
class Part:
    """One recommender of the fusion."""

    name: str
    tables: ItemTables
    scale: Scale


@dataclasses.dataclass(frozen=True)
class Fusion:
    """Parts and their weights.

    Attributes:
      parts: the parts that are tables; none if only the dense head takes part, which is stored with the model.
      weights_F3: float32, w, v and u of every feature, two rows per part in the order of `parts`.
      held_3: the same for whether the history holds the item (`held_weights`), 1 or 0; None: no such feature.
      dense_3: the same for the dense head's log-probability; None: it takes no part.
      common_I: float32, c of every item.
      sids_I: int32, the number of each item's SID, as `Catalogue.sid_numbers_I`.
      mean_log_length: m.
      facts: what was fitted and how good it was on the selection rows, as plain values.
    """

    parts: tuple[Part, ...]
    weights_F3: np.ndarray
    held_3: np.ndarray | None
    dense_3: np.ndarray | None
    common_I: np.ndarray
    sids_I: np.ndarray
    mean_log_length: float
    facts: Mapping[str, Any]

    def scores(self, histories: Sequence[Sequence[int]], lengths: Sequence[int] | None = None) -> np.ndarray:
        """float32 scores_BI of the items of the catalogue it was fitted with, without the dense head's contribution.

        Args:
          histories: items of that catalogue, oldest first; one may be empty.
          lengths: lengths of the whole histories, if some of their items are left out here.
        """
        length_B1 = self._lengths(histories, lengths)
        total_BI = np.zeros((len(histories), len(self.common_I)), np.float32)
        for number, part in enumerate(self.parts):
            self._add(total_BI, number, part.tables.scores(histories), length_B1)
        self._add_held(total_BI, histories, length_B1)
        return total_BI

    def scores_and_others(
        self, histories: Sequence[Sequence[int]], lengths: Sequence[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """`scores`, and the same without what the history's own items gain by being in it, in the parts and as held.

        The parts' tables are read once for both. The arguments are as in `scores`.
        """
        length_B1 = self._lengths(histories, lengths)
        total_BI, total_others_BI = np.zeros((2, len(histories), len(self.common_I)), np.float32)
        for number, part in enumerate(self.parts):
            others_BI = part.tables.scores(histories, seen=False)
            self._add(total_others_BI, number, others_BI, length_B1)
            self._add(total_BI, number, part.tables.with_seen(others_BI, histories), length_B1)
        self._add_held(total_BI, histories, length_B1)
        return total_BI, total_others_BI

    def _add(self, total_BI: np.ndarray, number: int, scores_BI: np.ndarray, length_B1: np.ndarray) -> None:
        """Adds a part's features, weighted, in place."""
        for form, feature_BI in enumerate(self.parts[number].scale.features(scores_BI)):
            total_BI += self._weights(self.weights_F3[2 * number + form], length_B1) * feature_BI

    def _add_held(self, total_BI: np.ndarray, histories: Sequence[Sequence[int]], length_B1: np.ndarray) -> None:
        if self.held_3 is not None:
            own = held_weights(histories, self.sids_I, 1.0)
            total_BI[own.row, own.col] += self._weights(self.held_3, length_B1)[own.row, own.col]

    def dense_weights(self, histories: Sequence[Sequence[int]], lengths: Sequence[int] | None = None) -> np.ndarray:
        """float32 (B, I), what the dense head's log-probabilities are multiplied by."""
        assert self.dense_3 is not None
        return self._weights(self.dense_3, self._lengths(histories, lengths))

    def _lengths(self, histories: Sequence[Sequence[int]], lengths: Sequence[int] | None) -> np.ndarray:
        lengths_B = np.asarray(list(map(len, histories)) if lengths is None else lengths, np.float64)
        return (np.log1p(lengths_B) - self.mean_log_length).astype(np.float32)[:, None]

    def _weights(self, weights_3: np.ndarray, length_B1: np.ndarray) -> np.ndarray:
        return weights_3[0] + weights_3[1] * length_B1 + weights_3[2] * self.common_I

    def save(self, path: pathlib.Path) -> None:
        """Writes one .npz; it appears only when it is complete."""
        facts = {
            "format": VERSION,
            "parts": [{"name": part.name, "scale": dataclasses.asdict(part.scale)} for part in self.parts],
            "mean_log_length": self.mean_log_length,
            "facts": dict(self.facts),
        }
        arrays = {"facts": np.array(json.dumps(facts)), "weights": self.weights_F3}
        arrays |= {"common": self.common_I, "sids": self.sids_I}
        own = {"held": self.held_3, "dense": self.dense_3}
        arrays |= {name: weights_3 for name, weights_3 in own.items() if weights_3 is not None}
        for number, part in enumerate(self.parts):
            arrays |= {f"{number}/{name}": array for name, array in part.tables.to_arrays().items()}
        write_npz(path, arrays, compressed=True)

    @classmethod
    def load(cls, path: pathlib.Path, num_items: int, *, way_out: str = EXPORT_AGAIN) -> Fusion:
        """Reads what `save` wrote.

        Args:
          path: the file.
          num_items: number of items of the catalogue it must belong to.
          way_out: what to do about a file that cannot be read, for the error message.

        Raises:
          UserError: there is no such file, or it is not a fusion, or one of another catalogue.
        """
        with exported_file(path, "a fusion", way_out):
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = dict(stored)
            facts = json.loads(str(arrays["facts"]))
            if facts["format"] != VERSION:
                raise ValueError(f"one of version {facts['format']}, where {VERSION} is read")
            parts = tuple(
                Part(part["name"], ItemTables.from_arrays(_below(arrays, f"{number}/")), Scale(**part["scale"]))
                for number, part in enumerate(facts["parts"])
            )
            if arrays["weights"].shape != (2 * len(parts), 3):
                raise ValueError("weights of another number of parts")
            if any(arrays[name].shape != (3,) for name in ("held", "dense") if name in arrays):
                raise ValueError("weights of a feature that are not three")
            of_items = arrays["common"], arrays["sids"], *(part.tables.bias_I for part in parts)
            sizes = {len(array) for array in of_items}
            if sizes != {num_items}:
                raise ValueError(f"not of a catalogue of {num_items} items")
            weights = arrays["weights"], arrays.get("held"), arrays.get("dense")
            return cls(parts, *weights, arrays["common"], arrays["sids"], facts["mean_log_length"], facts["facts"])


def commonness(rows: Interactions, num_items: int) -> np.ndarray:
    """float32 (I), c of every item: log(1 + its occurrences in `rows`), with mean 0 and deviation 1 over the items.

    Histories count too, so an item counts for more if more of its users' purchases came after it.
    """
    histories = np.fromiter(itertools.chain.from_iterable(rows.histories), np.int64)
    log_I = np.log1p(np.bincount(np.concatenate([histories, rows.targets]), minlength=num_items))
    return ((log_I - log_I.mean()) / _deviation(log_I)).astype(np.float32)


def alone(part: Part, sids_I: np.ndarray, facts: Mapping[str, Any]) -> Fusion:
    """A fusion of a single part, with its scores unchanged."""
    part = dataclasses.replace(part, scale=Scale(1.0, 1.0, 1.0))
    weights_F3 = np.array([[1, 0, 0], [0, 0, 0]], np.float32)
    return Fusion((part,), weights_F3, None, None, np.zeros(len(sids_I), np.float32), sids_I, 0.0, facts)


def _below(arrays: Mapping[str, np.ndarray], start: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}
