"""Working directories that are not on this machine: gs://, s3:// and other addresses that fsspec knows.

A run works in a folder on this machine, because the libraries that write records, weights and tokenizers know only
files. The contents of the folder are copied to the address when something is complete, and back when a run begins, so
that a new machine continues where a lost one stopped. Checkpoints are not copied: Orbax writes them straight to the
address. Nor are tokenised records: they are made again, and are the same.

At the address the files keep their names, so that they can be read there. `.tsrec/manifest.json` lists them with their
SHA-256, and only what the last manifest says counts. A file that replaces another stays under `.tsrec/staged` until a
manifest names it. So a push that is interrupted leaves the state before it.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import re
import secrets
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath
from fsspec.utils import get_protocol

from tsrec_jax.addresses import open_address
from tsrec_jax.cache import user_cache
from tsrec_jax.data.folder_files import sha256_of
from tsrec_jax.errors import UserError
from tsrec_jax.files import read_facts, replacing, write_json

LINK = "remote.json"  # in the local folder: the address it is a copy of, a token for this run, whether it has pushed
PUSHED = "pushed.json"  # in the local folder: size and time of each file when it last equalled the one at the address
CHECKPOINTS, RECORDS = "checkpoints", "records"
OF_THIS_MACHINE = (LINK, PUSHED, "run.lock")
UNFINISHED = re.compile(r"\.(tmp|old|part)(\.|$)|\.writing")  # names of what is not complete yet
MANIFEST, OWNER, STAGED = (f".tsrec/{name}" for name in ("manifest.json", "owner.json", "staged"))
BLOCK = 4 << 20  # bytes
AGAIN = "delete its folder, which is a copy and is fetched again"


def local_folder(url: str) -> pathlib.Path:
    """The folder on this machine for a working directory at `url`.

    It lies in `TSREC_LOCAL` or, if that is not set, in the user's cache folder. Processes on one host need one each.
    """
    cache = pathlib.Path(os.environ.get("TSREC_LOCAL") or user_cache()).expanduser().absolute()
    url = url.rstrip("/")
    name = f"{url.rpartition('/')[2] or 'run'}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    return cache / "runs" / name


def fetch(url: str) -> pathlib.Path:
    """The local folder of a working directory at `url`, holding what is at the address and nothing else.

    What a run left in the folder and did not push is removed: the address holds the truth. The caller keeps other runs
    out of the folder.

    Raises:
      UserError: the address cannot be used or read; the message gives the reason.
    """
    local = local_folder(url)
    local.mkdir(parents=True, exist_ok=True)
    Remote(local, url.rstrip("/")).pull()
    write_json(local / LINK, {"url": url.rstrip("/"), "token": secrets.token_hex(8), "owns": False})
    return local


class Remote:
    """A local folder and the address that it is the copy of.

    Args:
      local: the folder.
      url: the address.

    Raises:
      UserError: the address is of a kind that fsspec does not know, or whose package is not installed.
    """

    def __init__(self, local: pathlib.Path, url: str):
        self.local, self.url = local, url
        self._on_disk = get_protocol(url) == "file"
        self._fs, root = open_address(url, "--workdir", **({"auto_mkdir": True} if self._on_disk else {}))
        self._root = root.rstrip("/")

    @classmethod
    def of(cls, local: pathlib.Path) -> Remote | None:
        """The remote of a folder that `fetch` made; None for every other folder."""
        link = local / LINK
        return cls(local, read_facts(link, AGAIN, ("url",))["url"]) if link.exists() else None

    def checkpoints(self, folder: pathlib.Path) -> epath.Path:
        """The place of the checkpoints of a system that works in `folder`, inside the local folder.

        Raises:
          UserError: Orbax cannot write to this kind of address.
        """
        part = (folder / CHECKPOINTS).relative_to(self.local).as_posix()
        if self._on_disk:
            return epath.Path(self._at(part))
        try:
            return epath.Path(f"{self.url}/{part}")
        except KeyError:
            raise UserError(
                f"--workdir={self.url}: checkpoints cannot be written there; give gs:// or a folder"
            ) from None

    def pull(self) -> None:
        """Makes the local folder hold what the last manifest lists.

        Raises:
          UserError: the address cannot be read, or a file there is not as it was written.
        """
        listed = self._read(MANIFEST)
        for name in _files(self.local):
            if name not in listed:
                (self.local / name).unlink()
        for name, entry in listed.items():
            path = self.local / name
            if path.is_file() and path.stat().st_size == entry["size"] and sha256_of(path) == entry["sha256"]:
                continue
            with replacing(path) as temporary:
                try:
                    self._fs.get_file(self._at(entry["at"]), str(temporary))
                except FileNotFoundError:
                    temporary.write_bytes(b"")
                if sha256_of(temporary) != entry["sha256"]:
                    where = f"{self.url}/{entry['at']}"
                    raise UserError(
                        f"{where} is gone or not as it was written; bring back a copy, or give another --workdir"
                    )
        for folder in sorted((each for each in self.local.rglob("*") if each.is_dir()), reverse=True):
            if not any(folder.iterdir()):
                folder.rmdir()
        write_json(self.local / PUSHED, {name: _stamp(self.local / name) for name in listed})

    def push(self) -> None:
        """Copies what has changed since the last pull or push; does nothing if nothing has.

        Raises:
          UserError: another run has begun to work at the address since this one did.
        """
        listed = self._read(MANIFEST)
        stamps = read_facts(self.local / PUSHED, AGAIN)
        here = {name: _stamp(self.local / name) for name in _files(self.local)}
        changed = [name for name, stamp in here.items() if name not in listed or stamps.get(name) != stamp]
        if not changed and here.keys() == listed.keys():
            return
        self._own()
        entries = {name: entry for name, entry in listed.items() if name in here}
        for name in changed:
            entries[name] = self._upload(name, f"{STAGED}/{secrets.token_hex(8)}" if name in listed else name)
        self._write(MANIFEST, entries)  # from here on the new state counts
        if any(entry["at"] != name for name, entry in entries.items()):
            for name, entry in entries.items():
                if entry["at"] != name:
                    self._fs.cp_file(self._at(entry["at"]), self._at(name))
            self._write(MANIFEST, {name: {**entry, "at": name} for name, entry in entries.items()})
            self._fs.invalidate_cache()
            self._fs.rm(self._at(STAGED), recursive=True)
        for name in listed.keys() - here.keys():
            self._fs.rm_file(self._at(name))
        write_json(self.local / PUSHED, here)

    def _own(self) -> None:
        """Takes over the address at the first push; later pushes check whether another run has done so since."""
        link = read_facts(self.local / LINK, AGAIN, ("token", "owns"))
        owner = self._read(OWNER)
        if link["owns"] and owner.get("token") != link["token"]:
            raise UserError(f"{self.url} was taken over by a later run, on {owner.get('host')}; this one is ended")
        if not link["owns"]:
            self._write(OWNER, {"token": link["token"], "host": socket.gethostname()})
            write_json(self.local / LINK, {**link, "owns": True})

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _upload(self, name: str, at: str) -> dict[str, Any]:
        """Writes a file to `at` and returns the entry of what was written, even if the file grows in the meantime."""
        digest, size = hashlib.sha256(), 0
        with (self.local / name).open("rb") as source, self._fs.open(self._at(at), "wb") as sink:
            while block := source.read(BLOCK):
                digest.update(block)
                size += len(block)
                sink.write(block)
        return {"sha256": digest.hexdigest(), "size": size, "at": at}

    def _read(self, name: str) -> dict[str, Any]:
        """A JSON file at the address; empty if there is none."""
        try:
            return json.loads(self._fs.cat_file(self._at(name)))
        except FileNotFoundError:
            return {}
        except Exception as error:  # each kind of store has errors of its own
            raise UserError(f"--workdir={self.url} cannot be read: {type(error).__name__}: {error}") from error

    def _write(self, name: str, value: Mapping[str, Any]) -> None:
        """Writes JSON to the address so that a reader finds the old or the new file; stores write whole objects."""
        at = self._at(f"{name}.tmp" if self._on_disk else name)
        self._fs.pipe_file(at, json.dumps(value, indent=1).encode())
        if self._on_disk:
            self._fs.mv(at, self._at(name))


def _files(local: pathlib.Path) -> Iterator[str]:
    """The files of a local folder that belong at the address, as paths inside the folder."""
    for path in sorted(local.rglob("*")):
        name = path.relative_to(local)
        skipped = {CHECKPOINTS, RECORDS} & set(name.parts) or name.as_posix() in OF_THIS_MACHINE
        if not skipped and not any(UNFINISHED.search(part) for part in name.parts) and path.is_file():
            yield name.as_posix()


def _stamp(path: pathlib.Path) -> list[int]:
    facts = path.stat()
    return [facts.st_size, facts.st_mtime_ns]
