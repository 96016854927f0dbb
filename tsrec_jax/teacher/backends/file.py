"""The teacher that reads what another one wrote: a description_keywords.json."""

from __future__ import annotations

import pathlib

from tsrec_jax.data.catalogue import Catalogue, TokenDescription
from tsrec_jax.data.token_descriptions import read_token_descriptions
from tsrec_jax.errors import UserError
from tsrec_jax.teacher.settings import DescribeSettings


def describe_tokens(catalogue: Catalogue, settings: DescribeSettings, levels: int) -> tuple[TokenDescription, ...]:
    """The file's descriptions of every token, those of levels beyond `levels` too.

    Raises:
      UserError: there is no such file.
      DatasetError: up to ten faults of the file at once; tokens without an entry are among them.
    """
    if not pathlib.Path(settings.path).is_file():
        raise UserError(f"config.describe.path={settings.path!r}: no such file")
    return tuple(read_token_descriptions(pathlib.Path(settings.path), catalogue).values())
