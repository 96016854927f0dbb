"""A series of numbered checkpoints in one folder, each complete or ignored.

Orbax writes a checkpoint in the background. Then `SHA256SUMS` is written into it, also in the background: the digest of
every file, in the form that `sha256sum -c` reads. A checkpoint counts once that file exists, and is used only while
every file agrees with it, so neither a crash nor a flipped bit gets into a run.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from tsrec_jax.errors import UserError, no_space
from tsrec_jax.files import write_text
from tsrec_jax.processes import first, share

SUMS = "SHA256SUMS"
LEFTOVER = ".orbax-checkpoint-tmp"  # part of the names of checkpoints that Orbax has not completed
BLOCK = 4 << 20  # bytes


class Series:
    """The checkpoints of one folder. All processes of a run call its methods in the same order, except for `is_whole`
    and `damage`.

    Args:
      folder: an absolute path, or an address that Orbax knows. It is created, and leftovers of a process that died
        while writing are removed.
    """

    def __init__(self, folder: os.PathLike[str]):
        self.folder = epath.Path(folder)
        if first():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clear_leftovers()
        share(None)  # the others look when it is done
        self._steps = sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal())
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: tuple[int, concurrent.futures.Future[None]] | None = None

    def steps(self) -> list[int]:
        """The steps that have a checkpoint here, complete or not, oldest first; one being written is left out."""
        return list(self._steps)

    def path(self, step: int) -> epath.Path:
        """The folder of one checkpoint."""
        return self.folder / str(step)

    def save(self, step: int, tree: Mapping[str, jax.Array], facts: Mapping[str, Any]) -> None:
        """Copies the arrays and writes them in the background, replacing a checkpoint of the same step.

        Args:
          step: the number of the checkpoint.
          tree: named arrays.
          facts: JSON values that the method `facts` returns.

        Raises:
          UserError: no space is left for this checkpoint or for the previous one.
        """
        self.finish()
        if step in self._steps:
            self.delete(step)
        try:
            response = ocp.save_async(self.path(step), dict(tree), custom_metadata=dict(facts))
        except Exception as error:
            raise no_space(error, self.path(step)) or error from None
        self._pending = step, self._thread.submit(self._seal, step, response)

    def _seal(self, step: int, response: ocp.AsyncResponse[None]) -> None:
        response.result()
        if first():
            write_text(self.path(step) / SUMS, _sums(_digests(self.path(step))))

    def finish(self) -> None:
        """Waits until the checkpoint being written is complete.

        Raises:
          UserError: it could not be written; the message says so if the disk is full.
        """
        if self._pending is None:
            return
        (step, pending), self._pending = self._pending, None
        failure = pending.exception()
        if failure is not None:
            self._clear_leftovers()
            raise no_space(failure, self.path(step)) or failure
        if not share(failure is None):
            raise UserError(f"{self.path(step)}: process 0 could not write the checkpoint; its message says why")
        self._steps = sorted({*self._steps, step})

    def _clear_leftovers(self) -> None:
        for path in self.folder.iterdir():
            if LEFTOVER in path.name:
                path.rmtree(missing_ok=True)

    def close(self) -> None:
        """Waits for what is being written and ends the thread; raises as `finish` does."""
        try:
            self.finish()
        finally:
            self._thread.shutdown()

    def is_whole(self, step: int) -> bool:
        """Whether a checkpoint was written completely."""
        return (self.path(step) / SUMS).exists()

    def damage(self, step: int) -> str:
        """The first file of a complete checkpoint that changed after it was written, in words; empty if none did."""
        sums = (self.path(step) / SUMS).read_bytes().decode("utf-8", errors="replace")
        expected = {name: digest for digest, _, name in (line.partition("  ") for line in sums.split("\n") if line)}
        found = _digests(self.path(step))
        for name in sorted(expected.keys() | found.keys()):
            if name not in found:
                return f"{name} is missing"
            if expected.get(name) != found[name]:
                return f"{name} is not as it was written"
        return "" if sums == _sums(found) else f"{SUMS} is not as it was written"

    def facts(self, step: int) -> dict[str, Any]:
        """The facts that were saved with a checkpoint."""
        return dict(ocp.metadata(self.path(step)).custom_metadata)

    def shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        """The shape of every array of a checkpoint."""
        return {name: tuple(array.shape) for name, array in ocp.metadata(self.path(step)).metadata.items()}

    def load(self, step: int, like: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The arrays of a checkpoint, in the dtypes and shardings of `like`.

        If a shape differs, the array is cut or padded with zeros: vocabulary tables are rounded up to a size that the
        mesh divides. The caller checks with `shapes` whether that is permitted.
        """
        abstract = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding) for name, leaf in like.items()
        }
        context = ocp.Context()
        context.array.loading.enable_padding_and_truncation = True
        with context:
            return ocp.load(self.path(step), abstract)

    def delete(self, step: int) -> None:
        """Removes a checkpoint; the caller must have called `finish`."""
        self._steps.remove(step)
        if first():
            (self.path(step) / SUMS).unlink(missing_ok=True)  # first, so that a half-deleted checkpoint does not count
            self.path(step).rmtree()


def _digests(folder: epath.Path) -> dict[str, str]:
    """{path inside the folder: SHA-256} of every file but the sums themselves."""
    digests = {}
    for path in _files(folder):
        if not path.name.startswith(SUMS):
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
            digests[path.relative_to(folder).as_posix()] = digest.hexdigest()
    return digests


def _sums(digests: Mapping[str, str]) -> str:
    """The text of the file of sums, in the form that `sha256sum --check` reads."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files(path)
        else:
            yield path
