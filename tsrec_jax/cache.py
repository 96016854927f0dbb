"""The folder of this user for what may be made again: local copies of runs, and compiled programs."""

from __future__ import annotations

import os
import pathlib


def user_cache() -> pathlib.Path:
    """`tsrec_jax` in `XDG_CACHE_HOME`, or in ~/.cache where that is not set."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "tsrec_jax").expanduser().absolute()


def keep_compiled_programs() -> None:
    """Lets JAX keep what it compiles, so that a run that starts again does not compile again; call it before jax loads.

    `JAX_COMPILATION_CACHE_DIR` names another folder, and empty it keeps nothing.
    """
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(user_cache() / "compiled"))
