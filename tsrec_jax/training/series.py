"""A series of numbered checkpoints in one folder, each whole or not there.

Orbax writes a checkpoint under a temporary name and renames it. Then `SHA256SUMS` is written into it, in the background
as well: the digest of every file, as the program `sha256sum -c` reads it. A checkpoint counts once that file is there,
and is used only while every file agrees with it; so neither a crash nor a flipped bit gets into a run.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from tsrec_jax.errors import no_space

SUMS = "SHA256SUMS"


class Series:
    """The checkpoints of one folder. All processes of a run call its methods in the same order.

    Args:
      folder: is made; leftovers of a process that died while it wrote are removed.
    """

    def __init__(self, folder: pathlib.Path):
        context = ocp.Context()
        context.array.loading.enable_padding_and_truncation = True  # `load` gives the reason
        self.folder = folder.absolute()
        self._checkpointer = ocp.training.Checkpointer(
            self.folder,
            context=context,
            preservation_policy=ocp.training.preservation_policies.PreserveAll(),
            cleanup_tmp_directories=True,
        )
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: concurrent.futures.Future[None] | None = None

    def steps(self) -> list[int]:
        """The steps that have a checkpoint here, whole or not, oldest first; without one that is being written."""
        return [each.step for each in self._checkpointer.checkpoints]

    def path(self, step: int) -> pathlib.Path:
        """The folder of one checkpoint."""
        return self.folder / str(step)

    def save(self, step: int, tree: Mapping[str, jax.Array], facts: Mapping[str, Any]) -> None:
        """Copies the arrays and writes them in the background, in place of a checkpoint of the same step.

        Args:
          step: its number.
          tree: named arrays.
          facts: JSON values that `facts` gives back.

        Raises:
          UserError: no space is left, here or for the checkpoint before.
        """
        self.finish()
        try:
            response = self._checkpointer.save_async(
                step, dict(tree), force=True, overwrite=True, custom_metadata=dict(facts)
            )
        except Exception as error:
            raise no_space(error, self.path(step)) or error from None
        self._pending = self._thread.submit(self._seal, step, response)

    def _seal(self, step: int, response: Any) -> None:
        try:
            response.result()
            if jax.process_index() == 0:
                sums = "".join(f"{digest}  {name}\n" for name, digest in sorted(_digests(self.path(step)).items()))
                temporary = self.path(step) / f"{SUMS}.tmp"
                temporary.write_text(sums, encoding="utf-8")
                os.replace(temporary, self.path(step) / SUMS)
        except Exception as error:
            raise no_space(error, self.path(step)) or error from None

    def finish(self) -> None:
        """Waits until what is being written is whole.

        Raises:
          UserError: no space is left for it.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Waits for what is being written and ends the threads; raises as `finish` does."""
        try:
            self.finish()
        finally:
            self._thread.shutdown()
            self._checkpointer.close()

    def is_whole(self, step: int) -> bool:
        """Whether a checkpoint was written to its end."""
        return (self.path(step) / SUMS).exists()

    def damage(self, step: int) -> str:
        """The first file of a whole checkpoint that is not as it was written, in words; empty where all are."""
        lines = (self.path(step) / SUMS).read_bytes().decode("utf-8", errors="replace").splitlines()
        expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        found = _digests(self.path(step))
        for name in sorted(expected.keys() | found.keys()):
            if name not in found:
                return f"{name} is missing"
            if expected.get(name) != found[name]:
                return f"{name} is not as it was written"
        return ""

    def facts(self, step: int) -> dict[str, Any]:
        """The facts that were saved with a checkpoint."""
        return dict(self._checkpointer.metadata(step).custom_metadata)

    def shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        """The shape of every array of a checkpoint."""
        return {name: tuple(array.shape) for name, array in self._checkpointer.metadata(step).metadata.items()}

    def load(self, step: int, like: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The arrays of a checkpoint, in the dtypes and shardings of `like`.

        Where a shape differs, the array is cut or filled up with zeros: vocabulary tables are rounded up to what the
        mesh divides. Whether that may be is for the caller to check, with `shapes`.
        """
        abstract = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding) for name, leaf in like.items()
        }
        return self._checkpointer.load(step, abstract)

    def delete(self, step: int) -> None:
        """Removes a checkpoint; the caller has finished what is being written."""
        self._checkpointer.delete(step)


def _digests(folder: pathlib.Path) -> dict[str, str]:
    """{path inside the folder: SHA-256} of every file but the sums themselves."""
    digests = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith(SUMS):
            with path.open("rb") as file:
                digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests
