"""Files at an address that fsspec knows: gs://, s3://, memory:// and others."""

from __future__ import annotations

from typing import Any

import fsspec
from fsspec.utils import get_protocol

from tsrec_jax.errors import UserError


def is_remote(place: str) -> bool:
    """Whether a place is an address rather than a path of this machine."""
    return "://" in place


def open_address(url: str, setting: str, **options: Any) -> tuple[Any, str]:
    """The file system of an address, and the address as that file system spells it.

    Args:
      url: the address.
      setting: what named the address; messages begin with it.
      options: options of the file system.

    Raises:
      UserError: fsspec does not know this kind of address, or the package for it is not installed.
    """
    try:
        system, root = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        extra = "; pip install 'tsrec_jax[gcs]'" if get_protocol(url) in ("gs", "gcs") else ""
        raise UserError(f"{setting}={url}: {error}{extra}") from None
    except ValueError as error:
        raise UserError(f"{setting}={url}: {error}; give gs://BUCKET/FOLDER or a place on this machine") from None
    return system, str(root)
