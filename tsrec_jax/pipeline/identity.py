"""What something was made with, against what is asked for now, across versions of the settings.

An identity is a flat mapping of JSON values whose settings have the names of the config, `section.key`.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

from tsrec_jax.configuration import config_at_first, flat
from tsrec_jax.training import checkpoints


def refuse_differences(where: pathlib.Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """As that of the checkpoints; a setting that is newer than `there` was what the code did before it could be set."""
    checkpoints.refuse_differences(where, there, here, settings_at_first())


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """As that of the checkpoints; a setting that is newer than `there` was what the code did before it could be set."""
    return checkpoints.differences(there, here, settings_at_first())


@functools.cache
def settings_at_first() -> Mapping[str, Any]:
    """What every setting was before it could be set."""
    return flat(config_at_first().to_dict())
