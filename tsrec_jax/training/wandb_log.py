"""Weights & Biases (optional, extra `wandb`): one of its runs for each training, resumed when the training is."""

from __future__ import annotations

import dataclasses
import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any

from tsrec_jax.errors import UserError
from tsrec_jax.files import write_text

RUN_ID = "wandb_run_id"  # in the training's folder


@dataclasses.dataclass(frozen=True)
class WandbSettings:
    """Where the numbers go.

    Attributes:
      project: project in the account that `wandb login` or WANDB_API_KEY names; WANDB_MODE=offline keeps the numbers in
        the folder.
      name: name of the run.
      config: JSON facts that are shown with the run.
    """

    project: str
    name: str
    config: Mapping[str, Any]


def require_wandb() -> None:
    """Refuses to begin without the package.

    Raises:
      UserError: the package is not installed.
    """
    if importlib.util.find_spec("wandb") is None:
        raise UserError(
            "config.train.wandb_project needs the package wandb, which is not installed: pip install "
            "'tsrec_jax[wandb]' (or set config.train.wandb_project='': TensorBoard and metrics.jsonl hold the same)"
        )


def open_run(settings: WandbSettings, folder: pathlib.Path) -> Any:
    """A `wandb.Run`; an earlier run of the same folder is continued."""
    require_wandb()
    import wandb

    path = folder / RUN_ID
    known = path.read_text(encoding="utf-8").strip() if path.exists() else None
    run = wandb.init(
        project=settings.project,
        name=settings.name,
        config=dict(settings.config),
        dir=str(folder),
        id=known,
        resume="allow",
    )
    if known is None:
        write_text(path, run.id + "\n")
    return run
