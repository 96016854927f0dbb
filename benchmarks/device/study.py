"""The part `study`: a cell of configs/studies/main.py on all layers of SmolLM2, in this process."""

from __future__ import annotations

import importlib.util
import pathlib
import runpy
import tarfile
from collections.abc import Mapping
from typing import Any

from tsrec_jax.errors import UserError
from tsrec_jax.evaluation.study_cells import CELL_FILE, read_cells
from tsrec_jax.files import replacing, temporary_folder
from tsrec_jax.models.gguf import SMOLLM2, gguf_path
from tsrec_jax.pipeline.study import study
from tsrec_jax.settings import Settings, settings_of, update

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "configs" / "studies" / "main.py"
METRICS = ("HR@1", "HR@10", "NDCG@10")
CELLS = "study_cells.tar.gz"  # the finished cells, to go on from elsewhere
# A larger model than a CPU trains in the time, at the learning rate of the paper. Baselines need no accelerator.
LARGE = {
    "model": {"path": "smollm2", "dtype": "bfloat16"},
    "train": {"batch_tokens": 4096, "learning_rate": 3e-4},
    "eval": {"batch_size": 256},
}
# The same stages and files with a model and a training of seconds.
TINY = {
    "model": {"path": "", "dtype": "float32", "num_layers": 1},
    "pretrain": {"vocab_size": 500, "max_steps": 2, "batch_tokens": 512},
    "train": {"max_steps": 3, "batch_tokens": 512, "rows_per_group": 2, "validations": 1, "valid_rows": 16,
              "valid_beam_rows": 0, "select_by": "loss"},
    "eval": {"max_rows": 16, "beams": 10, "batch_size": 16, "bootstrap": 10},
}  # fmt: skip


def study_config(data: str, tiny: bool) -> Settings:
    """The config on a dataset folder, or with none on the embedded shop."""
    config = runpy.run_path(str(CONFIG))["get_config"]()
    update(config, {"dataset": {"path": data}})
    update(config, TINY if tiny else LARGE)
    return settings_of(config)


def measure(request: Mapping[str, Any]) -> dict[str, Any]:
    """Makes a cell that is not there yet and gives its figures.

    Args:
      request: `arm`, `seed`; `data`, `workdir`, `out`; `tiny`.

    Raises:
      RuntimeError: the verb says that the cell failed; the log says why.
    """
    workdir, arm, seed = pathlib.Path(request["workdir"]), request["arm"], request["seed"]
    out = pathlib.Path(request["out"])
    unpack_cells(out / CELLS, workdir)
    config = study_config(request["data"], request["tiny"])
    if study(config, workdir, [arm], [str(seed)]):
        raise RuntimeError(f"the verb study could not make {arm}, seed {seed}: see the log")
    pack_cells(workdir, out / CELLS)
    (cell,) = read_cells(workdir / "cells" / arm / f"seed-{seed}" / CELL_FILE)
    return {
        "rows": len(cell.rank),
        "split": cell.split,
        **{metric: float(cell.values("sid", metric).mean()) for metric in METRICS},
        "steps": cell.cost["steps"],
        "train_seconds": cell.cost["seconds"],
        "tokens": cell.cost["tokens"],
        "curve": cell.curve,
    }


def pack_cells(workdir: pathlib.Path, path: pathlib.Path) -> None:
    """Writes finished cells and the study's report into one file."""
    with replacing(path) as temporary, tarfile.open(temporary, "w:gz") as archive:
        for file in sorted([*workdir.glob(f"cells/*/*/{CELL_FILE}"), *workdir.glob("study.*")]):
            archive.add(file, file.relative_to(workdir))


def unpack_cells(path: pathlib.Path, workdir: pathlib.Path) -> None:
    """Brings cells that an earlier run packed into a workdir that lacks them; no file is there before it is whole."""
    if not path.exists():
        return
    with tarfile.open(path) as archive, temporary_folder(workdir / "unpacked") as scratch:
        for member in archive.getmembers():
            place = workdir / member.name
            if not place.exists():
                archive.extract(member, scratch, filter="data")
                place.parent.mkdir(parents=True, exist_ok=True)
                (scratch / member.name).replace(place)


def weights_missing() -> str:
    """Why the study's pretrained weights cannot be read; empty where they can."""
    try:
        gguf_path(SMOLLM2)
    except UserError as error:
        return str(error)
    return "" if importlib.util.find_spec("gguf") else "the package gguf, which reads the weights, is not installed"
