"""The teacher that reads what another one wrote: a description_keywords.json."""

from __future__ import annotations

import pathlib

from tsrec_jax.data.catalogue import Catalogue, TokenDescription
from tsrec_jax.data.token_descriptions import read_token_descriptions
from tsrec_jax.errors import UserError


def file_clusters(path: str, catalogue: Catalogue) -> tuple[TokenDescription, ...]:
    """The file's clusters in the order of `catalogue.tokens`.

    Raises:
      UserError: there is no such file.
      DatasetError: up to ten faults of the file at once; tokens without an entry are among them.
    """
    if not pathlib.Path(path).is_file():
        raise UserError(f"config.describe.path={path!r}: no such file")
    found = read_token_descriptions(pathlib.Path(path), catalogue)
    return tuple(found[token] for token in catalogue.tokens)
