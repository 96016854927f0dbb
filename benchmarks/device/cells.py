"""Everything that can be measured, in the order of its worth, with a guess of how long each takes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.device.shapes import SHAPES, TINY

PARTS = ("facts", "decode", "train", "study")
# Seconds on one current data-centre GPU, guessed before any was at hand; measured cells take their place.
START_GUESS = 15.0  # of a process until it has the device
GUESSES = {"facts": 20.0, "decode": 40.0, "train": 50.0, "study": 100.0}
TINY_GUESS = 10.0
SECONDS = {"decode": 4.0, "train": 8.0}  # of each method, beyond its first runs
EXAMPLES = 64  # of a training step that both systems take

CONTEXTS, BATCHES, BEAMS = (150, 1000), (1, 8, 64), (20, 50, 256)
TYPES = ("bfloat16", "float32")
# What is looked at first: published engines' settings, lists in float32, the shape that goals are set for.
FIRST_DECODE = (
    ("Qwen3-1.7B", "bfloat16", 1000, 1, 256),
    ("Qwen3-1.7B", "bfloat16", 1000, 8, 256),
    ("SmolLM2-135M", "float32", 150, 8, 20),
    ("Qwen2.5-1.5B", "bfloat16", 150, 8, 20),
)
SECOND_DECODE = (
    ("Qwen3-1.7B", "bfloat16", 1000, 1, 50),
    ("Qwen2.5-1.5B", "bfloat16", 1000, 8, 50),
    ("Qwen2.5-0.5B", "bfloat16", 150, 8, 20),
    ("SmolLM2-135M", "bfloat16", 150, 64, 20),
    ("Qwen2.5-1.5B", "float32", 150, 8, 20),
)
FIRST_TRAIN, SECOND_TRAIN = ("Qwen2.5-1.5B",), ("SmolLM2-135M",)
# Of the study; a fusion follows the arm whose training it shares.
ARMS = (
    *("sft", "tsrec", "tsrec-shuffled", "tsrec-dense", "tsrec-fusion", "parts-alone"),
    *("tsrec-aligned", "tsrec-aligned-shuffled", "tsrec-paths", "tsrec-paths-shuffled"),
)
SEEDS = (1, 2, 3)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
      part: out of PARTS.
      key: its name among those of the part.
      process: cells of one process follow one another there; of another value, in a new one.
      guess: seconds, the process's start apart.
      request: what `measure` of the part's module takes, besides what holds for all cells.
    """

    part: str
    key: str
    process: str
    guess: float
    request: Mapping[str, Any]


def all_cells(tiny: bool) -> list[Cell]:
    """The cells in the order of their worth."""
    if tiny:
        return [
            _facts(TINY_GUESS),
            _decode(TINY, "bfloat16", 12, 1, 4, TINY_GUESS),
            _decode(TINY, "float32", 12, 2, 4, TINY_GUESS),
            *_train(TINY, TINY_GUESS, 16)[:2],
            _study("tsrec", 1, TINY_GUESS),
        ]
    shapes = [name for name in SHAPES if name != TINY]
    grid = [
        (shape, dtype, *sizes)
        for shape in shapes
        for dtype in TYPES
        for sizes in itertools.product(CONTEXTS, BATCHES, BEAMS)
    ]
    ordered = [
        _facts(GUESSES["facts"]),
        *(_decode(*sizes) for sizes in FIRST_DECODE),
        *_trains(FIRST_TRAIN),
        *(_decode(*sizes) for sizes in SECOND_DECODE),
        *_trains(SECOND_TRAIN),
        *(_study(arm, seed) for seed in SEEDS for arm in ARMS),
        *_trains(shapes),
        *(_decode(*sizes) for sizes in grid),
    ]
    found: dict[tuple[str, str], Cell] = {}
    for cell in ordered:
        found.setdefault((cell.part, cell.key), cell)
    return list(found.values())


def estimate(cell: Cell, taken: Sequence[tuple[str, float]]) -> float:
    """Seconds that a cell will take, the start of its process apart.

    Args:
      cell: which has not been measured.
      taken: (key, seconds) of the cells of its part that were measured.
    """
    alike = [seconds for key, seconds in taken if _kind(key) == _kind(cell.key)]
    if alike:
        return max(alike)
    if taken:
        return sum(seconds for _, seconds in taken) / len(taken)
    return cell.guess


def _kind(key: str) -> str:
    """What cells of about the same length have in common: their name's first words."""
    return ", ".join(key.split(", ")[:2])


def _facts(guess: float) -> Cell:
    return Cell("facts", "device", "measuring", guess, {})


def _decode(shape: str, dtype: str, context: int, batch: int, beams: int, guess: float = GUESSES["decode"]) -> Cell:
    request = {
        "shape": shape,
        "dtype": dtype,
        "context": context,
        "batch": batch,
        "beams": beams,
        "repeats": 3 if shape == TINY else 10,
        "seconds": 0.2 if shape == TINY else SECONDS["decode"],
        "peers": True,
    }
    key = f"{shape}, {dtype}, {context} tokens, batch {batch}, {beams} beams"
    return Cell("decode", key, "measuring", guess, request)


def _trains(shapes: Any) -> list[Cell]:
    return [cell for shape in shapes for cell in _train(shape, GUESSES["train"], EXAMPLES)]


def _train(shape: str, guess: float, examples: int) -> list[Cell]:
    """Both systems with as many examples a step, and ours with a step as large as the device takes."""
    found = []
    for system, count in (("ours", examples), ("transformers", examples), ("ours", 0)):
        key = f"{shape}, {system}, {f'{count} examples' if count else 'a large step'}"
        request = {
            "shape": shape,
            "system": system,
            "examples": count,
            "seconds": 0.2 if shape == TINY else SECONDS["train"],
        }
        # A device counts one peak of its memory for each process.
        found.append(Cell("train", key, "measuring" if shape == TINY else f"train: {key}", guess, request))
    return found


def _study(arm: str, seed: int, guess: float = GUESSES["study"]) -> Cell:
    return Cell("study", f"{arm}, seed {seed}", "study", guess, {"arm": arm, "seed": seed})
