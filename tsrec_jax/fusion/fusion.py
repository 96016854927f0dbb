"""A fitted fusion: the score of an item for a history from the scores that its parts give it, and its file.

The scores are in nats beside log P(SID | history), or by themselves where no language model takes part:

    score(i | h) = sum over features f of (w_f + v_f * (log(1 + |h|) - m)) * f(i | h)

A part with scores x gives two features, x / s and log(1 + 10 max(x, 0) / p) / t, whose constants are measured on the
selection rows: p is the mean of the scores above 0, s and t are standard deviations. Scores of counts are skewed; which
of the two forms goes with log-probabilities is left to the weights.

Axis letters: B histories, I items, F features (two a part).
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tsrec_jax.baselines.tables import ItemTables
from tsrec_jax.files import exported_file, write_npz

KNEE = 10.0
ROUNDING = 1e-6  # a smaller deviation, as a share of the largest size, counts as none
_FORMAT = 1


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
        """Measures them; of constant scores, or of none above 0, what is missing is 1."""
        above = scores_BI[scores_BI > 0]
        positive = float(above.mean()) if len(above) else 1.0
        return cls(_deviation(scores_BI), positive, _deviation(_logarithm(scores_BI, positive)))

    def features(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both forms of some scores, float32 of the same shape."""
        return scores / np.float32(self.linear), _logarithm(scores, self.positive) / np.float32(self.logarithm)


def _deviation(values: np.ndarray) -> float:
    """The standard deviation; 1 of constant values, whose own is what rounding leaves."""
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
      num_items: I.
      parts: those that are tables, none where the dense head alone takes part; that lies with the model.
      weights_F2: float32, w and v of every feature, two rows a part in the order of `parts`.
      dense_2: w and v of the dense head's log-probability; None: it takes no part.
      mean_log_length: m.
      facts: what was fitted and how good it was on the selection rows, as plain values.
    """

    num_items: int
    parts: tuple[Part, ...]
    weights_F2: np.ndarray
    dense_2: np.ndarray | None
    mean_log_length: float
    facts: Mapping[str, Any]

    def scores(self, histories: Sequence[Sequence[int]], lengths: Sequence[int] | None = None) -> np.ndarray:
        """float32 scores_BI of the items of the catalogue it was fitted with, without the dense head's share.

        Args:
          histories: items of that catalogue, oldest first; one may be empty.
          lengths: of the whole histories, where items of them are left out here.
        """
        weights_BF = self._weights(self.weights_F2, histories, lengths)
        total_BI = np.zeros((len(histories), self.num_items), np.float32)
        for number, part in enumerate(self.parts):
            for form, feature_BI in enumerate(part.scale.features(part.tables.scores(histories))):
                total_BI += weights_BF[:, 2 * number + form, None] * feature_BI
        return total_BI

    def dense_weights(self, histories: Sequence[Sequence[int]], lengths: Sequence[int] | None = None) -> np.ndarray:
        """float32 (B), what the dense head's log-probability of every item is multiplied by."""
        assert self.dense_2 is not None
        return self._weights(self.dense_2[None], histories, lengths)[:, 0]

    def _weights(
        self, weights_F2: np.ndarray, histories: Sequence[Sequence[int]], lengths: Sequence[int] | None
    ) -> np.ndarray:
        lengths_B = np.asarray(list(map(len, histories)) if lengths is None else lengths, np.float64)
        centred_B = (np.log1p(lengths_B) - self.mean_log_length).astype(np.float32)
        return weights_F2[:, 0] + centred_B[:, None] * weights_F2[:, 1]

    def save(self, path: pathlib.Path) -> None:
        """Writes one .npz; it appears only when it is complete."""
        facts = {
            "format": _FORMAT,
            "parts": [{"name": part.name, "scale": dataclasses.asdict(part.scale)} for part in self.parts],
            "mean_log_length": self.mean_log_length,
            "facts": dict(self.facts),
        }
        arrays = {"facts": np.array(json.dumps(facts)), "weights": self.weights_F2}
        if self.dense_2 is not None:
            arrays["dense"] = self.dense_2
        for number, part in enumerate(self.parts):
            arrays |= {f"{number}/{name}": array for name, array in part.tables.to_arrays().items()}
        write_npz(path, arrays, compressed=True)

    @classmethod
    def load(cls, path: pathlib.Path, num_items: int) -> Fusion:
        """Reads what `save` wrote.

        Args:
          path: the file.
          num_items: of the catalogue it must belong to.

        Raises:
          UserError: there is no such file, it is no fusion, or one of another catalogue.
        """
        with exported_file(path, "a fusion"):
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = dict(stored)
            facts = json.loads(str(arrays["facts"]))
            if facts["format"] != _FORMAT:
                raise ValueError(f"format {facts['format']}")
            parts = tuple(
                Part(part["name"], ItemTables.from_arrays(_below(arrays, f"{number}/")), Scale(**part["scale"]))
                for number, part in enumerate(facts["parts"])
            )
            if arrays["weights"].shape != (2 * len(parts), 2):
                raise ValueError("weights of another number of parts")
            if any(len(part.tables.bias_I) != num_items for part in parts):
                raise ValueError(f"not of a catalogue of {num_items} items")
            length = facts["mean_log_length"]
            return cls(num_items, parts, arrays["weights"], arrays.get("dense"), length, facts["facts"])


def alone(part: Part, facts: Mapping[str, Any]) -> Fusion:
    """One part that takes no other beside it: its scores as they are."""
    part = dataclasses.replace(part, scale=Scale(1.0, 1.0, 1.0))
    weights_F2 = np.array([[1, 0], [0, 0]], np.float32)
    return Fusion(len(part.tables.bias_I), (part,), weights_F2, None, 0.0, facts)


def _below(arrays: Mapping[str, np.ndarray], start: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}
