"""Checkpoints of a run: the newest states for resuming, the best weights for everything after training.

`checkpoints/latest/STEP` holds the whole train state, `checkpoints/best/STEP` only the weights. The step gives the
position in the data (see `data.input`), so no position is stored. Trees are stored as flat dictionaries of named
arrays, so a checkpoint does not depend on the classes that made it and restores onto any mesh.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath
from flax import nnx

from tsrec_jax.errors import UserError
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.processes import first, several, share
from tsrec_jax.progress import report
from tsrec_jax.training.series import Series
from tsrec_jax.training.step import TABLES, TrainState

LISTED = 5  # differences that an error message lists
_NONE, _ALL_DAMAGED = -1, -2


@dataclasses.dataclass(frozen=True)
class Position:
    """What the loop knows in addition to the arrays; stored with every checkpoint.

    Attributes:
      identity: facts that must agree on resume (vocabulary, settings); if they differ, restoring is refused.
      best_step: step of the best validation so far, -1 if there is none.
      best_value: its value; lower is better (a rate is stored negated).
      bad_checks: validations since then without improvement.
      losses: the last losses, against which the next ones are judged.
      seconds: training time spent so far.
    """

    identity: dict[str, Any]
    best_step: int = -1
    best_value: float = float("inf")
    bad_checks: int = 0
    losses: Sequence[float] = ()
    seconds: float = 0.0


def flatten(tree: Any) -> dict[str, Any]:
    """A pytree as {path: leaf}."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _unflatten(like: Any, named: dict[str, Any]) -> Any:
    return jax.tree.unflatten(jax.tree.structure(like), [named[name] for name in flatten(like)])


def refuse_differences(where: pathlib.Path, there: Mapping[str, Any], here: Mapping[str, Any], hint: str = "") -> None:
    """Raises a UserError that lists the settings in which a folder's run differs from the run that wants to use it.

    The message ends with `hint`.
    """
    listed = differences(there, here)
    if listed:
        raise UserError(
            f"{where} belongs to another run ({listed}); use a new --workdir or the settings it began with{hint}"
        )


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The settings that differ, each with its old and its new value; empty if none differs.

    Settings of the dense head are ignored if neither side has one: nothing reads them, so their defaults may change.
    """
    keys = [key for key in sorted(set(there) | set(here)) if there.get(key) != here.get(key)]
    if not (there.get("dense.weight") or here.get("dense.weight")):
        keys = [key for key in keys if "dense." not in key]
    listed = [f"{key} was {there.get(key)!r} and is now {here.get(key)!r}" for key in keys[:LISTED]]
    return "; ".join([*listed, *([f"and {len(keys) - LISTED} more"] if len(keys) > LISTED else [])])


def best_folder(checkpoints: pathlib.Path, step: int) -> pathlib.Path:
    """Where the best weights of a run are, given the folder of its checkpoints and their step."""
    return checkpoints / "best" / str(step)


class Checkpoints:
    """The two checkpoint series of one working directory. A context manager; leaving it waits for pending writes.

    With several processes, one that leaves with an error does not wait: the error may be its own, and the others, which
    are then elsewhere in the program, would never arrive.

    Args:
      folder: receives `latest/` and `best/`; absolute, or an address that Orbax knows, such as gs://bucket/run.
      keep: number of states to keep, along with the best weights that they refer to. None keeps all, for reading.
    """

    def __init__(self, folder: epath.Path, *, keep: int | None = None):
        self._keep = keep
        self._latest = Series(folder / "latest")
        self._best = Series(folder / "best")

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exc) -> None:
        if kind is not None and several():
            return
        try:
            self.finish()
        finally:
            self._latest.close()
            self._best.close()

    def finish(self) -> None:
        """Waits until everything is written, then removes what need not be kept.

        Raises:
          UserError: no disk space is left.
        """
        self._best.finish()
        self._latest.finish()
        if self._keep is None:
            return
        steps = self._latest.steps()
        for step in steps[: -self._keep]:
            self._latest.delete(step)
        best = self._best.steps()
        # A state refers to the newest best weights that are not newer than itself.
        wanted = {max((step for step in best if step <= kept), default=-1) for kept in steps[-self._keep :]}
        for step in best[:-1]:
            if step not in wanted:
                self._best.delete(step)

    def save(self, state: TrainState, position: Position) -> None:
        """Writes the state in the background, once the previous call's state is complete.

        Raises:
          UserError: no disk space is left.
        """
        self.finish()
        self._latest.save(int(state.step), flatten(state), dataclasses.asdict(position))

    def restore(self, like: TrainState, identity: Mapping[str, Any]) -> tuple[TrainState, Position]:
        """The newest usable state and its position; if there is none, `like` and the starting position.

        Newer states that cannot be used are reported and removed: a crash cut them off, one of their files is damaged,
        or the best weights that belong to them are gone.

        Args:
          like: gives the shapes and shardings.
          identity: facts that must agree with the saved ones.

        Raises:
          UserError: the state belongs to another vocabulary, other settings or another model, and the message lists the
            differences; or no state can be used, and at least one of them is damaged.
        """
        chosen, reasons = share(self._choose() if first() else None)
        if chosen == _ALL_DAMAGED:
            raise UserError(
                f"{self._latest.folder}: no state to resume from ({'; '.join(reasons)}); "
                f"bring back a copy of one, or delete {self._latest.folder.parent} to train from the start"
            )
        facts = {"identity": dict(identity)} if chosen == _NONE else self._latest.facts(chosen)
        refuse_differences(self._latest.path(chosen), facts["identity"], identity)
        named = flatten(like)
        if chosen != _NONE:
            _refuse_other_shapes(self._latest, chosen, named)
            like = _unflatten(like, self._latest.load(chosen, named))
        for reason in reasons:
            report(f"passed over {reason}")
        for step in [step for step in self._latest.steps() if step > chosen]:
            self._latest.delete(step)
        return like, Position(**facts)

    def _choose(self) -> tuple[int, list[str]]:
        """The step to resume from (or _NONE, _ALL_DAMAGED), and why newer ones cannot be used."""
        reasons: list[str] = []
        any_damaged = False
        for step in reversed(self._latest.steps()):
            reason, damaged = self._fault(step)
            if not reason:
                return step, reasons
            reasons.append(f"{self._latest.path(step)}: {reason}")
            any_damaged = any_damaged or damaged
        return _ALL_DAMAGED if any_damaged else _NONE, reasons

    def _fault(self, step: int) -> tuple[str, bool]:
        """Why a state cannot be used (empty if it can), and whether the reason is accidental damage."""
        if not self._latest.is_whole(step):
            return "a crash cut it off", False
        damage = self._latest.damage(step)
        if damage:
            return damage, True
        best = self._latest.facts(step)["best_step"]
        if best < 0:
            return "", False
        if not self._best.is_whole(best):
            return f"its best weights, {self._best.path(best)}, are gone", False
        damage = self._best.damage(best)
        return (f"its best weights, {self._best.path(best)}: {damage}", True) if damage else ("", False)

    def save_best(self, step: int, model: Decoder) -> None:
        """Writes the weights of the best validation so far in the background, once all earlier writes are complete.

        Raises:
          UserError: no disk space is left.
        """
        self.finish()
        self._best.save(step, flatten(nnx.to_pure_dict(nnx.state(model))), {})

    def load_best(self, model: Decoder) -> tuple[int, Decoder]:
        """The step of the best weights, and `model` with those weights in its own shapes and shardings.

        Raises:
          UserError: training has written none yet, they are damaged, or they belong to another model, such as one made
            by an earlier version of this program.
        """
        self._best.finish()
        step = share(max((step for step in self._best.steps() if self._best.is_whole(step)), default=_NONE))
        if step == _NONE:
            raise UserError(f"{self._best.folder}: no trained weights there; run the verb `train` first")
        damage = share(self._best.damage(step) if first() else None)
        if damage:
            where = self._best.path(step)
            raise UserError(f"{where}: {damage}; bring back a copy of it, or delete it and run the verb `train` again")
        graphdef, weights = nnx.split(model)
        pure = nnx.to_pure_dict(weights)
        named = flatten(pure)
        _refuse_other_shapes(self._best, step, named)
        nnx.replace_by_pure_dict(weights, _unflatten(pure, self._best.load(step, named)))
        return step, nnx.merge(graphdef, weights)


def _refuse_other_shapes(series: Series, step: int, here: Mapping[str, jax.Array]) -> None:
    """Raises a UserError for another model; how far tables are rounded up depends on the mesh and may differ.

    No settings can produce the model of an earlier version of this program, so the message says what to delete.
    """

    def compared(name: str, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(shape[1:] if any(f"['{table}']" in name for table in TABLES) else shape)

    there = {name: compared(name, shape) for name, shape in series.shapes(step).items()}
    hint = f", or delete {series.folder.parent} to train from the start"
    refuse_differences(
        series.path(step), there, {name: compared(name, leaf.shape) for name, leaf in here.items()}, hint
    )
