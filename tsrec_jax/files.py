"""Files and folders that appear under their name only when they are complete.

Everything is written beside its place under a temporary name and then renamed, so no reader ever sees half of it and a
failed or killed writer leaves the old file as it was. The temporary name carries the host and the process: several
writers do not disturb each other (the last one wins), and what a killed process left is removed by the next writer.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import socket
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tsrec_jax.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary name to write a file to; it becomes `path` when the block ends without an error.

    The parent folders are made if needed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path) as temporary:
        yield temporary
        os.replace(temporary, path)


@contextlib.contextmanager
def temporary_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """An empty folder beside `path`, under a temporary name; what is left of it at the end of the block is removed."""
    with _temporary(path) as temporary:
        temporary.mkdir(parents=True)
        yield temporary


@contextlib.contextmanager
def new_folder(folder: pathlib.Path, *, replace: bool = False) -> Iterator[pathlib.Path]:
    """An empty temporary folder to write to; it becomes `folder` when the block ends without an error.

    Args:
      folder: the folder to make.
      replace: whether it takes the place of a folder that exists.

    Raises:
      UserError: the folder exists and is not to be replaced.
      OSError: another process has made it meanwhile.
    """
    if folder.exists() and not replace:
        raise UserError(f"{folder}: exists already; nothing was written")
    with temporary_folder(folder) as temporary:
        yield temporary
        old = folder.with_name(folder.name + ".old")
        if replace:
            _remove(old)
            if folder.exists():
                os.replace(folder, old)
        os.replace(temporary, folder)
        if replace:
            _remove(old)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text as UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: pathlib.Path, value: Any, *, indent: int = 2) -> None:
    """Writes JSON for people to read."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def write_npz(path: pathlib.Path, arrays: Mapping[str, Any], *, compressed: bool = False) -> None:
    """Writes named arrays as a NumPy archive."""
    import numpy as np  # this module is imported at every start

    with replacing(path) as temporary, temporary.open("wb") as file:
        (np.savez_compressed if compressed else np.savez)(file, **arrays)


def write_figure(path: pathlib.Path, figure: Figure) -> None:
    """Writes a figure as PNG in few colours, which takes a third of the bytes, and closes it."""
    from matplotlib import pyplot
    from PIL import Image

    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight")
        with Image.open(temporary) as drawn:
            drawn.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(temporary, format="png", optimize=True)
    pyplot.close(figure)


@contextlib.contextmanager
def _temporary(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A name beside `path` where nothing is; what lies there at the end is removed."""
    begin, end = f"{path.name}.{socket.gethostname()}-", ".tmp"
    for each in path.parent.iterdir() if path.parent.is_dir() else ():
        if each.name.startswith(begin) and each.name.endswith(end):
            process = each.name[len(begin) : -len(end)]
            if process.isdigit() and not _other_process_runs(int(process)):
                _remove(each)
    temporary = path.with_name(f"{begin}{os.getpid()}{end}")
    try:
        yield temporary
    finally:
        _remove(temporary)


def _other_process_runs(process: int) -> bool:
    if process == os.getpid():  # a number that is used again, as in a container
        return False
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _remove(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
