"""Embeddings that the user supplies, and what kind of file was given instead of a NumPy file."""

from __future__ import annotations

import codecs
import pathlib

import numpy as np

from tsrec_jax.errors import UserError

HOW_TO_SAVE = "numpy.save(FILE, array) writes one"
_FIRST_BYTES = {b"\x93NUMPY": "an .npy file", b"PK\x03\x04": "an .npz or zip archive", b"\x1f\x8b": "a gzip file",
                b"\x89HDF": "an HDF5 file", b"\x80": "a pickle", b"PAR1": "a Parquet file"}  # fmt: skip


def kind_of_file(path: pathlib.Path) -> str:
    """What a file is by its first bytes, in words."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "an empty file"
    for first, kind in _FIRST_BYTES.items():
        if head.startswith(first):
            return kind
    return "a text file" if _is_text(head) else "another kind of file"


def _is_text(head: bytes) -> bool:
    """Whether the first bytes of a file are text; the last character may be incomplete."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return b"\0" not in head


def read_embeddings(path: pathlib.Path, num_items: int, setting: str = "config.index.embeddings") -> np.ndarray:
    """float32 x_ID from a user's .npy file, which `setting` names.

    Raises:
      UserError: it is not an .npy file, or its array has another shape or type or holds values that are not finite.
    """
    key = f"{setting}={str(path)!r}"
    kind = kind_of_file(path)
    if kind != "an .npy file":
        raise UserError(f"{key} is {kind}, not an .npy file; {HOW_TO_SAVE}")
    try:
        x_ID = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        if "pickle" in str(error):
            raise UserError(f"{key} holds Python objects (dtype object); save an array of floats") from None
        raise UserError(f"{key}: not a whole .npy file ({error}); write it again") from None
    if x_ID.ndim != 2 or x_ID.shape[0] != num_items or not x_ID.size or not np.issubdtype(x_ID.dtype, np.floating):
        raise UserError(
            f"{key} holds {x_ID.dtype} of shape {x_ID.shape}; it needs floats of shape ({num_items}, features), a row "
            "an item in the order of the item file"
        )
    with np.errstate(over="ignore"):
        x_ID = x_ID.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(x_ID).all(axis=1))
    if len(bad):
        raise UserError(f"{key}: row {bad[0]} (of {len(bad)}) is not finite in float32")
    return x_ID


def refuse_equal(x_ID: np.ndarray, source: str) -> None:
    """Refuses embeddings that do not distinguish any items.

    Args:
      x_ID: embeddings of the items.
      source: where they come from, for the message.

    Raises:
      UserError: there are several items and all have the same embedding.
    """
    if len(x_ID) > 1 and (x_ID == x_ID[0]).all():
        raise UserError(f"all {len(x_ID)} items have the same embedding, so codes would say nothing; look at {source}")
