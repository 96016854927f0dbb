"""Fetches the raw Amazon Reviews of a category once, and resumes interrupted downloads.

A file NAME grows as NAME.part, beside NAME.part.json (where it comes from and which version it is), and gets its name
when it is whole; NAME.sha256 (as `sha256sum` writes it) is checked whenever the file is met again. Files that exist are
never fetched again: on a machine without a network, put them in the folder by other means.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import pathlib
import re
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any, NoReturn

from tsrec_jax.data.folder_files import sha256_of
from tsrec_jax.errors import UserError
from tsrec_jax.files import write_text
from tsrec_jax.prepare.raw import RawSource
from tsrec_jax.progress import report

# kind: (base URL, review file, metadata file) of a category
_PLACES = {
    "amazon2018": (
        "https://datarepo.eng.ucsd.edu/mcauley_group/data/amazon_v2",
        "categoryFiles/{}.json.gz",
        "metaFiles2/meta_{}.json.gz",
    ),
    "amazon2023": (
        "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw",
        "review_categories/{}.jsonl.gz",
        "meta_categories/meta_{}.jsonl.gz",
    ),
}
_BLOCK = 1 << 20  # bytes
_REPORT_EVERY = 256 << 20  # bytes
_BUSY = (408, 425, 429)  # answers below 500 that mean "later"


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long to try.

    Attributes:
      attempts: tries in a row without new bytes before giving up.
      wait: seconds before the second try; doubles with every further one, up to a minute.
      timeout: seconds without a byte after which a connection counts as dropped.
    """

    attempts: int = 5
    wait: float = 2.0
    timeout: float = 60.0


class _Dropped(Exception):
    """An attempt that failed in a way that another may not."""


def download(
    kind: str,
    category: str,
    folder: str | os.PathLike[str],
    *,
    base_url: str = "",
    checksums: Mapping[str, str] | None = None,
    patience: Patience | None = None,
) -> RawSource:
    """Brings the review and metadata files of a category into a folder.

    Args:
      kind: "amazon2018" or "amazon2023".
      category: as the site spells it, for example "Industrial_and_Scientific".
      folder: where the files go; created if missing.
      base_url: a mirror with the same paths below it; empty: the publishers' site.
      checksums: {file name: SHA-256 in hexadecimal} that the files must have.
      patience: how long to try; None: Patience().

    Returns:
      The files as a source that `prepare` reads.

    Raises:
      UserError: an unknown kind; a category that is not there; no network; a file that differs from its checksum. The
        message says which file to put where, or to delete.
    """
    if kind not in _PLACES:
        raise UserError(f"raw data of kind {kind!r} cannot be fetched; use one of: {', '.join(_PLACES)}")
    if not re.fullmatch(r"\w+", category, re.ASCII):
        raise UserError(f"category {category!r}: use the site's spelling, as in 'Industrial_and_Scientific'")
    base, *places = _PLACES[kind]
    urls = [f"{(base_url or base).rstrip('/')}/{place.format(category)}" for place in places]
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / url.rsplit("/", 1)[1] for url in urls]
    for url, path in zip(urls, paths, strict=True):
        expected = (checksums or {}).get(path.name, "").lower()
        if path.exists():
            _check_present(path, expected)
        else:
            _fetch(url, path, expected, patience or Patience())
    return RawSource(kind, paths[0], paths[1])


# --- a file that exists ---


def _check_present(path: pathlib.Path, expected: str) -> None:
    found, note = sha256_of(path), _beside(path, ".sha256")
    noted = note.read_text(encoding="utf-8").split(" ")[0].strip() if note.exists() else ""
    for other, where in ((expected, "the checksum asked for"), (noted, note.name)):
        if other and found != other:
            raise UserError(f"{path}: its SHA-256 is {found}, not {other} ({where}); delete the file and run again")
    if not noted:
        _write_checksum(path, found)
    report(f"fetch {path.name}: is there already, {'checked' if noted or expected else 'its checksum noted'}")


def _write_checksum(path: pathlib.Path, digest: str) -> None:
    write_text(_beside(path, ".sha256"), f"{digest}  {path.name}\n")


def _beside(path: pathlib.Path, ending: str) -> pathlib.Path:
    return path.with_name(path.name + ending)


# --- a file that does not exist yet ---


def _fetch(url: str, path: pathlib.Path, expected: str, patience: Patience) -> None:
    part, facts = _beside(path, ".part"), _beside(path, ".part.json")
    most = _size(part)
    failures = 0
    while True:
        try:
            _attempt(url, path, patience.timeout)
            break
        except _Dropped as reason:
            # Otherwise a server that starts over after every drop would be asked for ever.
            failures = 0 if _size(part) > most else failures + 1
            most = max(most, _size(part))
            if failures >= patience.attempts:
                raise UserError(
                    f"{url}: {reason}, {failures} times in a row; run again later, it goes on after "
                    f"{_size(part):,} bytes. {_by_hand(url, path)}"
                ) from None
            wait = min(patience.wait * 2 ** max(failures - 1, 0), 60.0)
            report(f"fetch {path.name}: {reason} after {_size(part):,} bytes; again in {wait:g} s")
            time.sleep(wait)
    digest = sha256_of(part)
    if expected and digest != expected:
        part.unlink()
        facts.unlink(missing_ok=True)
        raise UserError(
            f"{url}: what came has SHA-256 {digest}, not {expected}, and is deleted; run again, or mend the checksum"
        )
    _write_checksum(path, digest)
    os.replace(part, path)
    facts.unlink(missing_ok=True)
    report(f"fetch {path.name}: whole, {_size(path):,} bytes, SHA-256 {digest}")


def _attempt(url: str, path: pathlib.Path, timeout: float) -> None:
    """One connection; returns when the part is whole, as far as the server tells its size."""
    part = _beside(path, ".part")
    known = _known(path, url)
    if known.get("size") is not None and _size(part) == known["size"]:
        return
    headers = {"User-Agent": "tsrec_jax", "Accept-Encoding": "identity"}
    if known and _size(part):
        headers |= {"Range": f"bytes={_size(part)}-", "If-Range": known["version"]}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout) as response:
            size = _begin(response, url, path)
            _append(response, part, size, path.name)
    except urllib.error.HTTPError as error:
        error.close()
        _refused(error.code, url, path)
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError | ConnectionResetError | ConnectionAbortedError):
            raise _Dropped("the connection dropped") from None
        raise UserError(_unreachable(url, path, error.reason)) from None
    except (TimeoutError, ConnectionError, http.client.HTTPException):
        raise _Dropped("the connection dropped") from None
    if size is not None and _size(part) < size:
        raise _Dropped("the connection dropped")


def _known(path: pathlib.Path, url: str) -> dict[str, Any]:
    """What is known about the version that the part belongs to; empty if the part cannot be continued."""
    try:
        facts = json.loads(_beside(path, ".part.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return facts if facts.get("url") == url and facts.get("version") else {}


def _begin(response: http.client.HTTPResponse, url: str, path: pathlib.Path) -> int | None:
    """Makes the part ready for what the server sends: the rest of it, or the whole. Returns the whole size, if told."""
    part = _beside(path, ".part")
    if response.status == 206:
        size = _known(path, url).get("size")
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not found or int(found[1]) != _size(part) or (size is not None and found[2] not in (str(size), "*")):
            _beside(path, ".part.json").unlink(missing_ok=True)
            raise _Dropped("the server sent another part than was asked for")
        return size
    length = response.headers.get("Content-Length")
    size = int(length) if length else None
    # A weak ETag promises the same meaning and not the same bytes, so it cannot continue a file.
    tag = response.headers.get("ETag", "")
    version = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")
    part.unlink(missing_ok=True)
    write_text(_beside(path, ".part.json"), json.dumps({"url": url, "version": version, "size": size}) + "\n")
    return size


def _append(
    response: http.client.HTTPResponse,
    part: pathlib.Path,
    size: int | None,
    name: str,
) -> None:
    with part.open("ab") as file:
        while block := response.read(_BLOCK):
            try:
                file.write(block)
                file.flush()
            except OSError as error:
                raise UserError(f"{part}: {error.strerror}; make room and run again, it goes on from here") from None
            done = file.tell()
            if done // _REPORT_EVERY != (done - len(block)) // _REPORT_EVERY:
                report(f"fetch {name}: {done:,} of {size or 0:,} bytes")


def _refused(code: int, url: str, path: pathlib.Path) -> NoReturn:
    """Raises what an HTTP error means: try again, start over, or give up."""
    if code == 416:  # the part is longer than the file: it is not a part of it
        _beside(path, ".part").unlink(missing_ok=True)
        raise _Dropped("the part on disk is no part of the file")
    if code >= 500 or code in _BUSY:
        raise _Dropped(f"the server answers {code}")
    advice = "check the spelling of the category. " if code == 404 else ""
    raise UserError(f"{url}: the server answers {code}; {advice}{_by_hand(url, path)}")


def _unreachable(url: str, path: pathlib.Path, reason: object) -> str:
    host = urllib.parse.urlsplit(url).hostname
    why = f"the name {host} cannot be resolved" if isinstance(reason, socket.gaierror) else str(reason)
    return f"{url}: no connection ({why}). {_by_hand(url, path)}"


def _by_hand(url: str, path: pathlib.Path) -> str:
    return f"Or fetch {url} on another machine, put it at {path} and run again: files that are there need no network"


def _size(path: pathlib.Path) -> int:
    return path.stat().st_size if path.exists() else 0
