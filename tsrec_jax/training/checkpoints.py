"""Checkpoints of a run: the newest states for resuming, the best weights for everything after training.

`checkpoints/latest/STEP` holds the whole train state, `checkpoints/best/STEP` the weights alone. The place in the data
is the step (see `data.input`), so nothing of it is stored. Trees are stored as flat dictionaries of named arrays, so
that a checkpoint does not depend on the classes that made it and restores onto any mesh.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx
from orbax.checkpoint import v1 as ocp

from tsrec_jax.errors import UserError
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.training.step import TrainState


@dataclasses.dataclass(frozen=True)
class Progress:
    """What the loop knows beside the arrays; stored with every checkpoint.

    Attributes:
      identity: facts that must agree on resume (vocabulary, settings); a difference refuses the restore.
      best_step: step of the best validation so far, -1 when none.
      best_value: its value, lower is better (a rate is stored negated).
      bad_checks: validations since without improvement.
      seconds: training time spent so far.
    """

    identity: dict[str, Any]
    best_step: int = -1
    best_value: float = float("inf")
    bad_checks: int = 0
    seconds: float = 0.0


def flatten(tree: Any) -> dict[str, Any]:
    """A pytree as {path: leaf}."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _abstract(tree: Any) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        for name, leaf in flatten(tree).items()
    }


def _unflatten(like: Any, named: dict[str, Any]) -> Any:
    return jax.tree.unflatten(jax.tree.structure(like), [named[name] for name in flatten(like)])


def refuse_differences(where: pathlib.Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raises a UserError that lists the settings in which a folder's run differs from the one that wants to use it."""
    listed = differences(there, here)
    if listed:
        raise UserError(f"{where} belongs to another run ({listed}); use a new --workdir or the settings it began with")


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The settings that differ, each with what it was and what it is; empty where none does."""
    keys = [key for key in sorted(set(there) | set(here)) if there.get(key) != here.get(key)]
    return "; ".join(f"{key} was {there.get(key)!r} and is now {here.get(key)!r}" for key in keys)


class Checkpoints:
    """The two checkpoint series of one working directory. A context manager; leaving waits for pending writes."""

    def __init__(self, folder: pathlib.Path, *, keep: int = 2):
        policies = ocp.training.preservation_policies
        self._folder = folder
        self._latest = ocp.training.Checkpointer(
            (folder / "latest").absolute(), preservation_policy=policies.LatestN(keep), cleanup_tmp_directories=True
        )
        self._best = ocp.training.Checkpointer(
            (folder / "best").absolute(), preservation_policy=policies.LatestN(1), cleanup_tmp_directories=True
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_exc) -> None:
        self._latest.close()
        self._best.close()

    @property
    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, None when there is none."""
        newest = self._latest.latest
        return None if newest is None else newest.step

    def save(self, state: TrainState, progress: Progress) -> None:
        """Writes the state in the background; a second call for the same step does nothing."""
        step = int(state.step)
        if self.latest_step == step:
            return
        self._latest.save_async(step, flatten(state), force=True, custom_metadata=dataclasses.asdict(progress))

    def restore(self, like: TrainState, identity: dict[str, Any]) -> tuple[TrainState, Progress]:
        """Restores the newest state in place of `like` (its shapes and shardings).

        Raises:
          UserError: the checkpoint was made with another vocabulary or other settings; the message lists them.
        """
        step = self.latest_step
        saved = dict(self._latest.metadata(step).custom_metadata)
        refuse_differences(self._folder / "latest" / str(step), saved["identity"], identity)
        return _unflatten(like, self._latest.load(step, _abstract(like))), Progress(**saved)

    def save_best(self, step: int, model: Decoder) -> None:
        """Writes the weights of the best validation so far and drops the ones before."""
        self._best.save(step, flatten(nnx.to_pure_dict(nnx.state(model))), overwrite=True, force=True)

    def load_best(self, model: Decoder) -> tuple[int, Decoder]:
        """The step of the best weights, and `model` with those weights in its own shapes and shardings.

        Raises:
          UserError: training has written none yet.
        """
        newest = self._best.latest
        if newest is None:
            raise UserError(f"{self._folder / 'best'}: no trained weights there; run the verb `train` first")
        graphdef, weights = nnx.split(model)
        pure = nnx.to_pure_dict(weights)
        nnx.replace_by_pure_dict(weights, _unflatten(pure, self._best.load(newest.step, _abstract(pure))))
        return newest.step, nnx.merge(graphdef, weights)
