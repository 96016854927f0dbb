"""Watching the loss: a value that is not finite, and a loss that has left the range it was in."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import statistics
from collections import deque
from collections.abc import Iterable, Mapping

import jax

from tsrec_jax.errors import UserError
from tsrec_jax.files import write_json, write_npz
from tsrec_jax.processes import first, several
from tsrec_jax.training.step import Batches

WINDOW = 50  # losses whose median is the reference
WARM_UP = 20  # losses needed before there is a reference
NAMED = 5  # examples that a message names
IN_A_ROW = 3  # too high losses in a row that make an explosion, since a single one may be an odd batch


@dataclasses.dataclass(frozen=True)
class LossFault:
    """What went wrong, in words, and the step whose batch it began with."""

    step: int
    words: str


class LossWatch:
    """Judges the metrics of each step.

    Args:
      factor: a loss above `factor` x the median of the WINDOW losses before it is too high, and IN_A_ROW of them are an
        explosion; 0 turns this off.
      losses: the last losses of the previous steps, as `losses` gave them, so that a resumed run judges the same way.
    """

    def __init__(self, factor: float, losses: Iterable[float] = ()):
        self._factor = factor
        self._losses = deque(losses, maxlen=WINDOW + IN_A_ROW)

    @property
    def losses(self) -> list[float]:
        """The last losses, oldest first."""
        return list(self._losses)

    @property
    def calm(self) -> bool:
        """Whether the last loss was in its range; if not, the state is not worth keeping."""
        return not self._too_high(1)

    def add(self, step: int, values: Mapping[str, float]) -> LossFault | None:
        """Takes the metrics `loss`, `grad_norm` and `update_norm` of a step; returns their fault, if any."""
        for name in ("loss", "grad_norm", "update_norm"):
            if not math.isfinite(values[name]):
                return LossFault(step, f"{name} is {values[name]} at step {step}")
        self._losses.append(values["loss"])
        if all(self._too_high(back) for back in range(1, IN_A_ROW + 1)):
            last = ", ".join(f"{loss:.4g}" for loss in self.losses[-IN_A_ROW:])
            usual = statistics.median(self.losses[:-IN_A_ROW])
            return LossFault(
                step - IN_A_ROW + 1,
                f"the loss has exploded at step {step}: {last} where {usual:.4g} was usual "
                f"(beyond {self._factor:g} times that, train.explode_factor)",
            )
        return None

    def _too_high(self, back: int) -> bool:
        """Whether the loss `back` steps from the end is beyond its range."""
        before = self.losses[:-back][-WINDOW:]
        if not self._factor or len(before) < WARM_UP:
            return False
        return self.losses[-back] > self._factor * statistics.median(before)


def refusal(fault: LossFault, folder: pathlib.Path, batches: Batches, label: str) -> UserError:
    """The error that ends the run. The batch is saved as `bad_batch_step_N.npz` (with several processes, each one's
    rows), and the keys of all its examples in `bad_batch_step_N.json` next to it."""
    keys = batches.keys(fault.step)
    name = f"bad_batch_step_{fault.step}"
    part = f".process_{jax.process_index()}" if several() else ""
    write_npz(folder / f"{name}{part}.npz", batches.batch(fault.step), compressed=True)
    if first():
        write_json(folder / f"{name}.json", {"trouble": fault.words, "step": fault.step, "examples": keys})
    named = ", ".join(keys[:NAMED]) + (f" and {len(keys) - NAMED} more" if len(keys) > NAMED else "")
    return UserError(
        f"{label}: {fault.words}; the batch of step {fault.step} holds {named} (all in {folder / name}.json, the "
        "batch beside it). The checkpoints are of steps before. The same command meets the same batch again, which "
        "helps if the machine was at fault; otherwise mend these examples, or train in a new --workdir with a lower "
        "train.learning_rate or train.clip_norm"
    )
