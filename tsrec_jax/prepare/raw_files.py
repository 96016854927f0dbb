"""Opening raw files: their compression and encoding are recognised by what they hold, not by their names."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import pathlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from tsrec_jax.errors import UserError

PARQUET = b"PAR1"
_LAYERS = 3  # a file that was compressed twice is a mistake that happens
_HEAD = 1 << 20  # bytes by which an encoding is told
# A few bad bytes are damage, which costs their lines (or a character that the end of the head cuts in two); more bad
# bytes than sound letters are another encoding.
_FEW = 3
_COMPRESSED: dict[bytes, tuple[str, Callable[[Any], Any]]] = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"BZh": ("bzip2", bz2.open),
    b"\xfd7zXZ\x00": ("xz", lzma.open),
}
# What a file begins with that no reader here can use, what it is, and the way out.
_REFUSED = {
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "unpack it with `zstd -d`"),
    b"PK\x03\x04": ("a ZIP archive or an Excel workbook", "unpack it, or save the sheet as CSV"),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", "save the sheet as CSV"),
    b"7z\xbc\xaf": ("a 7z archive", "unpack it"),
    b"Rar!": ("a RAR archive", "unpack it"),
    b"%PDF": ("a PDF", "export the table as CSV"),
    b"SQLite format 3": ("an SQLite database", "export its tables as CSV"),
    b"\x89HDF": ("an HDF5 file", "save the table as Parquet"),
}
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@contextlib.contextmanager
def open_raw(path: pathlib.Path, line: Callable[[], int] = lambda: 0) -> Iterator[io.BufferedReader]:
    """The bytes of a file, unpacked where it is compressed with gzip, bzip2 or xz, once or more than once.

    Args:
      path: the file.
      line: how many lines were read, for the message about a file that breaks off.

    Raises:
      UserError: it is no file, is empty, is of a kind that cannot be read, or breaks off while it is read.
    """
    check_file(path)
    kind = ""
    with contextlib.ExitStack() as opened:
        file = opened.enter_context(path.open("rb"))
        try:
            for _ in range(_LAYERS):
                start = file.peek(6)
                layer = next((each for magic, each in _COMPRESSED.items() if start.startswith(magic)), None)
                if layer is None:
                    break
                kind, unpacked = layer[0], opened.enter_context(layer[1](file))
                file = opened.enter_context(io.BufferedReader(unpacked, 1 << 20))
            _refuse_kinds(path, file.peek(512)[:512])
            yield file
        except EOFError:
            raise UserError(
                f"{path}: the {kind} stream ends early, after line {line()}; delete the file and fetch it again"
            ) from None
        except (OSError, zlib.error, lzma.LZMAError) as error:
            if getattr(error, "errno", None) is not None:  # of the disk
                raise
            raise UserError(f"{path}: not a sound {kind} file after line {line()} ({error}); fetch it again") from None


def check_file(path: pathlib.Path) -> None:
    """Refuses what is no file, or an empty one.

    Raises:
      UserError: which of them it is.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name the file in it")
    if not path.is_file():
        raise UserError(f"{path}: no such file; name the place where it is now")
    if not path.stat().st_size:
        raise UserError(f"{path}: is empty")


def _refuse_kinds(path: pathlib.Path, start: bytes) -> None:
    if not start:
        raise UserError(f"{path}: is empty")
    for magic, (kind, way_out) in _REFUSED.items():
        if start.startswith(magic):
            raise UserError(f"{path}: is {kind}; {way_out}")
    if start[257:262] == b"ustar":
        raise UserError(f"{path}: is a tar archive; unpack it")
    if start.lstrip()[:15].lower().startswith((b"<html", b"<!doctype html")):
        raise UserError(f"{path}: is an HTML page, perhaps what a server said instead of the file; fetch it again")


def read_head(path: pathlib.Path) -> bytes:
    """The first mebibyte of a file, unpacked; errors as those of `open_raw`."""
    with open_raw(path) as file:
        return file.read(_HEAD)


def encoding_of(path: pathlib.Path, head: bytes, wanted: str) -> str:
    """The name of a text file's encoding: by its byte order mark, else UTF-8 where its letters are, else `wanted`.

    Letters beyond ASCII that are sound UTF-8 are nothing else: where one of two files is cp1252, the other may not be.

    Raises:
      UserError: no encoding is wanted, and the file is in none that tells its name.
    """
    for mark, name in _BOMS:
        if head.startswith(mark):
            return name
    if wanted:
        return "utf-8" if _is_utf_8(head) else wanted
    start = head[:64]
    if 4 * start.count(b"\0") >= len(start):  # a header has letters of ASCII
        order = "le" if start[1::2].count(b"\0") > start[::2].count(b"\0") else "be"
        raise UserError(f"{path}: holds NUL bytes, as UTF-16 does; set config.prepare.encoding=utf-16-{order} if it is")
    text = head.decode("utf-8", "surrogateescape")
    bad = [n for n, character in enumerate(text) if "\udc80" <= character <= "\udcff"] if not text.isascii() else []
    sound = len(text) - sum(map(str.isascii, text)) - len(bad) if bad else 0
    if len(bad) > _FEW + sound:
        line, byte = text.count("\n", 0, bad[0]) + 1, ord(text[bad[0]]) - 0xDC00
        raise UserError(
            f"{path}: is not UTF-8 (line {line}: byte {byte:#04x}); set config.prepare.encoding to what it is (Excel "
            "saves cp1252 in Western Europe), or save it as UTF-8"
        )
    return "utf-8"


def _is_utf_8(head: bytes) -> bool:
    """Whether the beginning of a text, which may end within a letter, is UTF-8 with more than a few letters of it."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return not text.isascii() and len(text) - sum(map(str.isascii, text)) > _FEW
