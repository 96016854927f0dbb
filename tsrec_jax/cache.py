"""This user's folder for what can be made again: local copies of runs, and compiled programs."""

from __future__ import annotations

import contextlib
import os
import pathlib
import stat
import zlib
from collections.abc import Callable

from tsrec_jax.files import replacing

_FOLDER = "JAX_COMPILATION_CACHE_DIR"
_ZSTANDARD = b"\x28\xb5\x2f\xfd"  # how entries begin if JAX finds Zstandard; otherwise zlib packs them
_CHECKED = ".tsrec-checked"  # as old as the last look at the entries


def user_cache() -> pathlib.Path:
    """`tsrec_jax` in `XDG_CACHE_HOME`, or in ~/.cache if that is not set."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "tsrec_jax").expanduser().absolute()


def keep_compiled_programs(export: pathlib.Path | None = None) -> None:
    """Lets JAX keep what it compiles, so that a run that starts again does not compile again; call it before jax loads.

    `JAX_COMPILATION_CACHE_DIR` names another folder; if it is empty, nothing is kept.

    Args:
      export: a folder that is to be served. Its programs, the small ones too, are kept beside it in FOLDER.compiled, so
        that copying both makes another machine start fast too. They go to this user's cache if that folder does not
        exist and cannot be made, or if anyone but this user and root may write there: a kept program is run.
    """
    folder = user_cache() / "compiled"
    if export is not None:
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        beside = export.absolute().with_name(f"{export.absolute().name}.compiled")
        if _is_ours(beside):
            folder = beside
    if not os.environ.setdefault(_FOLDER, str(folder)):
        _keep_nothing()


def compiled_folder() -> pathlib.Path | None:
    """Where compiled programs are kept; None: nowhere, or at an address, which only JAX itself can use."""
    place = os.environ.get(_FOLDER, "")
    return pathlib.Path(place) if place and "://" not in place else None


def only_ours(found: os.stat_result) -> bool:
    """Whether only the user of this process and root may write a file, or into a folder."""
    return found.st_uid in (0, os.geteuid()) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _is_ours(folder: pathlib.Path) -> bool:
    """Whether only the user of this process and root may write into a folder, which is made if need be."""
    try:
        folder.mkdir(mode=0o755, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and only_ours(found)


def mend_compiled_programs() -> str:
    """Makes the folder of compiled programs ready for JAX; call it before jax loads.

    JAX writes entries in place and never replaces one. An entry that a killed process or a full disk left unfinished
    would cause a warning and a compilation at every start. So entries newer than the last look are read, and those that
    cannot be unpacked are removed.

    Returns:
      One line that says why nothing can be kept; empty if all is well. In a folder that can only be read, `Programs`
      still finds the programs that came with it.
    """
    folder = compiled_folder()
    if folder is None:
        return ""
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        with replacing(folder / _CHECKED) as looking:
            looking.touch()
            _remove_broken(folder)
    except OSError as error:
        _keep_nothing("" if not folder.is_dir() else str(folder))
        return (
            f"{folder}: {os.strerror(error.errno or 0)}; compiled programs are not kept (JAX_COMPILATION_CACHE_DIR "
            "names another folder for them)"
        )
    return ""


def _keep_nothing(folder: str = "") -> None:
    os.environ[_FOLDER] = folder
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # or XLA would keep its own part in the current folder


def _remove_broken(folder: pathlib.Path) -> None:
    """Removes the entries written since the last look that cannot be unpacked."""
    checked = folder / _CHECKED
    since = checked.stat().st_mtime_ns if checked.exists() else 0
    for entry in folder.glob("*-cache"):
        with contextlib.suppress(OSError):  # another process has removed it, or another user may not
            if entry.stat().st_mtime_ns >= since and not _unpacks(entry.read_bytes()):
                entry.unlink()


def _unpacks(content: bytes) -> bool:
    """Whether an entry is whole; one of a kind that this Python cannot unpack is not its JAX's and counts as whole."""
    try:
        (_zstandard() if content.startswith(_ZSTANDARD) else zlib.decompress)(content)
    except ImportError:
        return True
    except Exception:  # each library has its own kind of error
        return False
    return True


def _zstandard() -> Callable[[bytes], bytes]:
    """Unpacks Zstandard by the module that JAX chooses: Python's own from 3.14 on, else the package."""
    try:
        from compression import zstd
    except ImportError:
        import zstandard

        return zstandard.ZstdDecompressor().decompress
    return zstd.decompress
