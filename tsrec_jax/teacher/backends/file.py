"""The teacher that reads another teacher's words from a description_keywords.json."""

from __future__ import annotations

import pathlib

from tsrec_jax.data.catalogue import Catalogue, TokenDescription
from tsrec_jax.data.token_descriptions import read_token_descriptions
from tsrec_jax.errors import UserError
from tsrec_jax.teacher.groups import refuse_other_unit
from tsrec_jax.teacher.settings import DescribeSettings


def describe_tokens(catalogue: Catalogue, settings: DescribeSettings, levels: int) -> tuple[TokenDescription, ...]:
    """The file's descriptions of every token or path, including those on levels beyond `levels`.

    Raises:
      UserError: there is no such file, or it describes tokens although the settings say paths, or the reverse.
      DatasetError: up to ten faults of the file at once; tokens without an entry are among them.
    """
    path = pathlib.Path(settings.path)
    if not path.is_file():
        raise UserError(f"config.describe.path={settings.path!r}: no such file")
    refuse_other_unit(path, settings.unit)
    return tuple(read_token_descriptions(path, catalogue).values())
