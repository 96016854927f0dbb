"""The raw files that a setting names: one by its name, several by a pattern, local or at an address."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from tsrec_jax.addresses import is_remote, open_address
from tsrec_jax.data.folder_files import sha256_of
from tsrec_jax.errors import UserError
from tsrec_jax.progress import report

_WILD = "*?["
# Keys by which a store tells versions of a file apart: a hash of the contents where it states one.
_VERSIONS = ("md5Hash", "etag", "ETag", "crc32c", "content_md5", "Content-MD5", "Digest",
             "mtime", "LastModified", "last_modified", "Last-Modified", "created")  # fmt: skip

Hashed = dict[str, list[Any]]  # {path: [bytes, time of the last change in ns, SHA-256]}


def find_files(wanted: str, setting: str) -> tuple[str, ...]:
    """The files that a setting names, in the order of their names.

    Args:
      wanted: a path, an address, or either with `*`, `?`, `[...]` or `**` in it.
      setting: its key, which messages begin with.

    Raises:
      UserError: there is no such file, it is a folder, or the address cannot be read.
    """
    named = f"{setting}={wanted!r}"
    if not is_remote(wanted):
        if os.path.isfile(wanted):  # whatever its name holds
            return (wanted,)
        if os.path.isdir(wanted):
            raise UserError(f"{named} is a folder; name the file in it, or several by a pattern such as {wanted}/*.csv")
        if not any(character in wanted for character in _WILD):
            raise UserError(f"{named}: no such file; name the place where it is now")
        system, pattern = LocalFileSystem(), wanted
    else:
        system, pattern = open_address(wanted, setting)
    try:
        found = system.glob(pattern, detail=True)
    except Exception as error:  # each kind of store has errors of its own
        raise UserError(f"{named} cannot be read: {type(error).__name__}: {error}") from error
    files = sorted(name for name, facts in found.items() if facts["type"] == "file")
    if not files:
        raise UserError(f"{named}: no file has such a name; name the place where they are now")
    return tuple(system.unstrip_protocol(name) if is_remote(wanted) else name for name in files)


def version_of(files: Sequence[str], hashed: Hashed) -> str:
    """What identifies these files, in hexadecimal: for one local file, its SHA-256.

    For several files it is a hash of their names and versions; for a file at an address, which is not fetched for this,
    a hash of what the store states about it.

    Args:
      files: as `find_files` gives them.
      hashed: of files here that were read before: they are not read again, and those that are read now are added.

    Raises:
      UserError: an address cannot be read.
    """
    if len(files) == 1 and not is_remote(files[0]):
        return _sha256(files[0], hashed)
    stated = {file: _stated(file) for file in files if is_remote(file)}
    unknown = [file for file, (_, version) in stated.items() if not version]
    if unknown:
        others = f" and {len(unknown) - 1:,} more" if unknown[1:] else ""
        report(f"{unknown[0]}{others}: the store states no version, so only another size is noticed as a change")
    versions = [[os.path.basename(file), stated.get(file) or _sha256(file, hashed)] for file in files]
    return hashlib.sha256(json.dumps(versions).encode()).hexdigest()


def _sha256(file: str, hashed: Hashed) -> str:
    facts = os.stat(file)
    stamp = [facts.st_size, facts.st_mtime_ns]
    if hashed.get(file, [])[:2] != stamp:
        hashed[file] = [*stamp, sha256_of(pathlib.Path(file))]
    return str(hashed[file][2])


def _stated(file: str) -> list[str]:
    """The size and the version of a file at an address; the version is empty if the store states none."""
    system, name = open_address(file, "file")
    try:
        facts = system.info(name)
    except Exception as error:  # each kind of store has errors of its own
        raise UserError(f"{file} cannot be read: {type(error).__name__}: {error}") from error
    return [str(facts["size"]), next((str(facts[key]) for key in _VERSIONS if key in facts), "")]


@contextlib.contextmanager
def at_hand(file: str, folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """The path of a file: where it is, or, of one at an address, that of a copy in `folder`, which goes afterwards.

    So the disk holds one of many files, and a connection that breaks is no fault of the file's.

    Raises:
      UserError: the file cannot be fetched.
    """
    if not is_remote(file):
        yield pathlib.Path(file)
        return
    system, name = open_address(file, "file")
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / os.path.basename(name)
    try:
        system.get_file(name, str(copy))
    except Exception as error:
        raise UserError(f"{file} cannot be fetched: {type(error).__name__}: {error}; run again") from error
    try:
        yield copy
    except UserError as error:
        raise UserError(str(error).replace(str(copy), file)) from None  # the copy means nothing to anybody
    finally:
        copy.unlink(missing_ok=True)
