"""Files and folders that appear under their name only when they are complete.

Everything is written beside its place under a temporary name and then renamed, so no reader ever sees half of it and a
failed or killed writer leaves the old file as it was. Every temporary name is drawn at random: writers of one file, be
they threads, processes or machines, do not disturb each other, and the last one wins. What a killed writer left is
removed by a later writer after a day, because a writer on another machine cannot be told from one that is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import secrets
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tsrec_jax.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEFT_SECONDS = 24 * 3600.0
# The way out of a damaged export. The verb `export` keeps the folder of a finished export, whatever is in it.
EXPORT_AGAIN = "delete the export's folder and run the verb `export`, or copy the folder again from where it came"
TOKEN_BYTES = 8
_TOKEN = re.compile(rf"[0-9a-f]{{{2 * TOKEN_BYTES}}}")


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
      replace: whether it may replace an existing folder.

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


def read_json(path: pathlib.Path, way_out: str) -> Any:
    """The contents of a JSON file.

    Args:
      path: the file.
      way_out: what the user can do about a file that is missing or damaged.

    Raises:
      UserError: the file does not exist, cannot be read or is not JSON; the message ends with the way out.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not there; {way_out}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {way_out}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); {way_out}") from None


def read_facts(path: pathlib.Path, way_out: str, keys: Collection[str] = ()) -> dict[str, Any]:
    """The JSON object in a file that this program wrote.

    Args:
      path: the file.
      way_out: as in `read_json`.
      keys: keys that the object must have.

    Raises:
      UserError: as in `read_json`, or the file holds no object or one without these keys.
    """
    facts = read_json(path, way_out)
    if not isinstance(facts, dict):
        raise UserError(f"{path}: not a JSON object, which this program wrote there; {way_out}")
    if missing := [key for key in keys if key not in facts]:
        raise UserError(f"{path}: lacks {', '.join(missing)}, which this program wrote there; {way_out}")
    return facts


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
    begin, end = f"{path.name}.", ".tmp"
    for each in path.parent.iterdir() if path.parent.is_dir() else ():
        token = each.name[len(begin) : -len(end)]
        if each.name == f"{begin}{token}{end}" and _TOKEN.fullmatch(token) and _is_old(each):
            _remove(each)
    temporary = path.with_name(f"{begin}{secrets.token_hex(TOKEN_BYTES)}{end}")
    try:
        yield temporary
    finally:
        _remove(temporary)


def _is_old(path: pathlib.Path) -> bool:
    """Whether nothing was written to a file, or put into a folder, for LEFT_SECONDS."""
    try:
        return time.time() - path.stat().st_mtime > LEFT_SECONDS
    except FileNotFoundError:  # its writer has finished
        return False


def _remove(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def exported_file(path: str | os.PathLike[str], what: str, way_out: str = EXPORT_AGAIN) -> Iterator[None]:
    """Turns whatever goes wrong while a file of an export is read into an error that names the file and the way out.

    Args:
      path: the file.
      what: what it should be.
      way_out: what the user can do; say it if the file lies outside an export.

    Raises:
      UserError: the file is not there, cannot be read, or is not `what` this program writes under that name.
    """
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: not there; {way_out}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; {way_out}") from None
    except Exception as error:  # a broken archive fails anywhere in zipfile, zlib or NumPy
        reason = str(error) or type(error).__name__
        raise UserError(f"{path}: not {what} that this program wrote ({reason}); {way_out}") from None
