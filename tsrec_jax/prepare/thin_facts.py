"""What is known of tables that `thin` has written: under which settings, and which way the raw files ran."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from tsrec_jax.addresses import is_remote, open_address
from tsrec_jax.errors import UserError
from tsrec_jax.prepare.settings import PrepareSettings, seconds

FACTS = "thin.json"  # beside the tables, which count only with it: it is written when they are complete
TABLE = "thinned-"  # how their names begin
SETTINGS = ("source", "interactions_file", "items_file", "columns", "encoding", "k_core", "start", "end",
            "max_title_words", "clean_titles", "max_unreadable", "max_unmatched")  # fmt: skip
_NAME = re.compile(rf"{TABLE}(?P<table>[a-z]+)-\d+-of-(?P<files>\d+)\.csv\.gz")


@dataclasses.dataclass(frozen=True)
class ThinFacts:
    """What `thin` says of its tables.

    Attributes:
      settings: those of SETTINGS.
      newest_first: whether the raw files ran from new to old, which the thinned ones need not show any more.
      interactions: numbers of those `read` and `left`, and others that `thin_pipeline.thin` gives.
    """

    settings: Mapping[str, Any]
    newest_first: bool
    interactions: Mapping[str, int]

    def refuse_looser(self, settings: PrepareSettings) -> None:
        """Refuses settings under which `prepare` would keep of the raw files what thinning has dropped.

        Raises:
          UserError: with the setting, and what it may be.
        """
        faults = []
        then = self.settings
        if settings.k_core < then["k_core"]:
            faults.append(f"config.prepare.k_core={settings.k_core} is below {then['k_core']}")
        for key, is_wider in (("start", lambda now, before: now < before), ("end", lambda now, before: now > before)):
            now, before = (seconds(f"config.prepare.{key}", text) for text in (getattr(settings, key), then[key]))
            if before is not None and (now is None or is_wider(now, before)):
                faults.append(f"config.prepare.{key}={getattr(settings, key)!r} is beyond {then[key]!r}")
        # Either way: of an item with several entries, thinning has kept the first whose title it took for usable.
        for key in ("max_title_words", "clean_titles"):
            if getattr(settings, key) != then[key]:
                faults.append(f"config.prepare.{key}={getattr(settings, key)!r} is not {then[key]!r}")
        if faults:
            raise UserError(
                f"{'; '.join(faults)}, with which the tables were thinned: what these settings keep may be missing. "
                "Give those, or thin the raw files again under these"
            )


def find_facts(interactions: Sequence[str], items: Sequence[str]) -> ThinFacts | None:
    """The facts of the tables that a thinning has written; None of files that it has not.

    Args:
      interactions, items: paths or addresses of files.

    Raises:
      UserError: they are not all the tables of one thinning, it has not come to its end, or FACTS cannot be read.
    """
    files = {file: _NAME.fullmatch(os.path.basename(file)) for file in (*interactions, *items)}
    if not any(files.values()):
        return None
    folders = {os.path.dirname(file if is_remote(file) else os.path.abspath(file)) for file in files}
    for table, given in (("interactions", interactions), ("items", items)):
        written = {name and (name["table"], int(name["files"])) for name in (files[file] for file in given)}
        if len(folders) > 1 or written != {(table, len(given))}:
            raise UserError(
                f"{given[0]}: the files given are not those that one thinning has written, all of them and no others; "
                f"give FOLDER/{TABLE}interactions-* and FOLDER/{TABLE}items-*"
            )
    place = os.path.join(os.path.dirname(interactions[0]), FACTS)
    system, path = open_address(place, "thinned tables") if is_remote(place) else (LocalFileSystem(), place)
    try:
        text = system.cat_file(path)
    except FileNotFoundError:
        raise UserError(
            f"{place} is not there: thinning has not come to its end, or its tables were copied without it; bring it, "
            "or thin the raw files again"
        ) from None
    except Exception as error:  # each kind of store has errors of its own
        raise UserError(f"{place} cannot be read: {type(error).__name__}: {error}") from error
    try:
        facts = ThinFacts(**json.loads(text))
        for stated, keys in ((facts.settings, SETTINGS), (facts.interactions, ("read", "left"))):
            if missing := [key for key in keys if key not in stated]:
                raise ValueError(f"without {', '.join(missing)}")
    except (ValueError, TypeError) as error:
        raise UserError(f"{place} is not as thinning writes it ({error}); thin the raw files again") from None
    return facts
