"""A run of a tiny model for the tests on survival, in this process (`run_in`) or as a program that is killed.

    python tests/training/tiny_run.py --folder=DIR [--steps=10 --every=2] [--data=1 --fsdp=1 --tensor=1]
        [--signal=TERM --at=STEP] [--die_saving=STEP]

`fed.jsonl` in the folder gets a line for every batch that training took: its step, examples and a sum of its arrays.
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import sys
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import jax
import numpy as np
from flax import nnx

from tests.training.conftest import VOCABULARY, make_examples, tiny_config
from tests.training.test_step import batches_of
from tsrec_jax.errors import Stopped
from tsrec_jax.models.adapter import make_adapter
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.sharding import make_mesh
from tsrec_jax.models.vocabulary import extend_vocabulary
from tsrec_jax.training.loop import Run, TrainResult, train
from tsrec_jax.training.loss import SftLoss
from tsrec_jax.training.settings import TrainSettings
from tsrec_jax.training.step import first_step_and_state

BASE_VOCAB_SIZE = VOCABULARY


class Recorded:
    """Batches that write down which of them training took, and send this process a signal before one is given."""

    def __init__(self, batches, folder, number=0, at=0):
        self._batches, self._folder, self._number, self._at = batches, folder, number, at
        self.keys, self.batch = batches.keys, batches.batch

    def from_step(self, step):
        return _Iterator(self._batches.from_step(step), step, self)

    def took(self, step, batch):
        if step == self._at:
            os.kill(os.getpid(), self._number)
        total = zlib.crc32(b"".join(batch[name].tobytes() for name in sorted(batch)))
        with (self._folder / "fed.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "sum": total, "keys": self.keys(step)}) + "\n")


class _Iterator:
    def __init__(self, batches, step, recorded):
        self._batches, self._step, self._recorded = batches, step, recorded
        self.close = batches.close

    def __next__(self):
        batch = next(self._batches)
        self._step += 1
        self._recorded.took(self._step, batch)
        return batch


def run_in(
    folder: pathlib.Path,
    *,
    steps=10,
    every=2,
    mesh=None,
    new_rows=12,
    number=0,
    at=0,
    **changes,
) -> TrainResult:
    """Trains in `folder`, which may hold a run that was cut off."""
    folder.mkdir(parents=True, exist_ok=True)
    times = {"max_steps": steps, "validations": 3, "checkpoint_every": every, "log_every": 1}
    rates = {"learning_rate": 1e-2, "warmup_steps": 2, "schedule": "constant"}
    settings = TrainSettings(**{"select_by": "loss", **rates, **times, **changes})
    rows = np.random.default_rng(1).normal(size=(new_rows, 16)).astype(np.float32)
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.default_matmul_precision("highest"))
        if mesh is not None:
            stack.enter_context(jax.set_mesh(mesh))
        model = Decoder(tiny_config(), rngs=nnx.Rngs(0), mesh=mesh, remat=False)
        model = extend_vocabulary(model, base_vocab_size=BASE_VOCAB_SIZE, input_rows_nD=rows)
        if settings.adapter.rank:
            model.adapter = nnx.data(make_adapter(model.config, settings.adapter, seed=0, mesh=mesh))
        step, state = first_step_and_state(
            model,
            SftLoss({"a": 1.0, "b": 1.0}, settings),
            settings,
            BASE_VOCAB_SIZE,
        )
        return train(
            step,
            state,
            Recorded(batches_of(make_examples()), folder, number, at),
            lambda model: {"valid/loss": float(model.final_norm[...].sum())},
            settings,
            Run(folder, {"seed": 3}),
        )


def _die_before_commit(step: int) -> None:
    """Makes the rename that completes the checkpoint of `step` the end of this process."""
    rename = os.rename

    def dying(source, target, **options):
        if pathlib.Path(target).parts[-2:] == ("latest", str(step)):
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(source, target, **options)

    os.rename = dying


def _main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--signal", default="KILL")
    for name, default in (("steps", 10), ("every", 2), ("at", 0), ("die_saving", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for axis in ("data", "fsdp", "tensor"):
        parser.add_argument(f"--{axis}", type=int, default=1)
    given = parser.parse_args()
    _die_before_commit(given.die_saving)
    several = given.data * given.fsdp * given.tensor > 1
    mesh = make_mesh(given.data, given.fsdp, given.tensor) if several else None
    number = signal.Signals[f"SIG{given.signal}"]
    try:
        run_in(given.folder, steps=given.steps, every=given.every, mesh=mesh, number=number, at=given.at)
    except Stopped as stop:
        print(stop)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
