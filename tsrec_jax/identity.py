"""What something was made with, and how that differs from what is asked for now.

An identity is a flat mapping of JSON values. Its settings have the names of the config, `section.key`.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

from tsrec_jax.configuration import config_at_first, flat
from tsrec_jax.errors import UserError

LISTED = 5  # differences that a refusal names


def refuse_differences(where: pathlib.Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raises a UserError that lists the settings in which a folder's run differs from the one that wants to use it."""
    listed = differences(there, here)
    if listed:
        raise UserError(f"{where} belongs to another run ({listed}); use a new --workdir or the settings it began with")


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The settings that differ, each with what it was and what it is; empty where none does.

    A setting that is newer than `there` was what the code did before it could be set.
    """
    there = {**{key: value for key, value in _at_first().items() if key in here}, **there}
    keys = [key for key in sorted(set(there) | set(here)) if there.get(key) != here.get(key)]
    listed = [f"{key} was {there.get(key)!r} and is now {here.get(key)!r}" for key in keys[:LISTED]]
    return "; ".join([*listed, *([f"and {len(keys) - LISTED} more"] if len(keys) > LISTED else [])])


@functools.cache
def _at_first() -> dict[str, Any]:
    return flat(config_at_first().to_dict())
