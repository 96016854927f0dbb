"""The device mesh that the settings request."""

from __future__ import annotations

import contextlib
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from tsrec_jax.errors import UserError
from tsrec_jax.models.sharding import make_mesh
from tsrec_jax.settings import Settings


def open_mesh(settings: Settings) -> Mesh | None:
    """The mesh of the settings; None when there is a single device.

    Raises:
      UserError: the axes do not multiply to the number of devices.
    """
    sizes = settings.mesh.sizes
    fixed = int(np.prod([size for size in sizes if size > 0]))
    if jax.device_count() % fixed or (-1 not in sizes and fixed != jax.device_count()):
        raise UserError(f"config.mesh {sizes} (data, fsdp, tensor) does not fit {jax.device_count()} device(s)")
    return None if jax.device_count() == 1 else make_mesh(*sizes)


def on_mesh(settings: Settings) -> contextlib.AbstractContextManager[Any]:
    """A context in which the mesh is the ambient one, which the shardings of activations refer to."""
    mesh = open_mesh(settings)
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def verb_on_mesh(verb: Callable[..., None]) -> Callable[..., None]:
    """Runs a verb of the command line in the context of `on_mesh`."""

    @functools.wraps(verb)
    def call(settings: Settings, path: pathlib.Path, **options: Any) -> None:
        with on_mesh(settings):
            verb(settings, path, **options)

    return call
