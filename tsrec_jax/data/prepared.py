"""What a folder made by `prepare` says about itself; reading such a folder needs nothing of the preparation's code."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from tsrec_jax.files import read_facts

SUMMARY = "prepare.json"  # in a folder that `prepare` made, and in what is made from it


def tied_targets(folder: str | os.PathLike[str]) -> Mapping[str, Any] | None:
    """What a folder's summary says about ties.

    Returns:
      {"order": what was done, and for each split the share of its rows whose target is tied}; None if the folder was
      not made by `prepare`, or by a version that did not count ties.
    """
    file = pathlib.Path(folder) / SUMMARY
    summary = read_facts(file, "prepare the folder again, or delete this file") if file.exists() else {}
    if "ties" not in summary:
        return None
    return {"order": summary["ties"]["order"], **{split["name"]: split["tied"] for split in summary["splits"]}}
