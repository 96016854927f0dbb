"""Rankings in the formats of TREC, which trec_eval, pytrec_eval and ranx read.

A query is an evaluated row, numbered from 1 in the order of predictions.json, and a document is a SID, so that the
figures of these programs are SID-level figures. All of these programs order by score alone and break ties by name, so a
score is the number of places from there to the end of the list: it falls by 1 from place to place.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from tsrec_jax.files import write_text

QRELS = "qrels.trec"
_SPACE = re.compile(r"\s")  # it would end a field


def write_trec(folder: pathlib.Path, targets: Sequence[str], systems: Mapping[str, Sequence[Sequence[str]]]) -> None:
    """Writes `qrels.trec` and a run of each system, `NAME.trec` with `_` for spaces; removes earlier runs.

    Args:
      folder: receives the files; made if needed.
      targets: SID of each row's target.
      systems: {name: the ranked SIDs of each row, best first}.
    """
    tags = {name: _SPACE.sub("_", name) for name in systems}
    write_text(folder / QRELS, "".join(f"{row} 0 {_field(sid)} 1\n" for row, sid in enumerate(targets, 1)))
    for name, lists in systems.items():
        tag = tags[name]
        lines = (
            f"{row} Q0 {_field(sid)} {place} {len(ranked) + 1 - place} {tag}\n"
            for row, ranked in enumerate(lists, 1)
            for place, sid in enumerate(ranked, 1)
        )
        write_text(folder / f"{tag}.trec", "".join(lines))
    for earlier in folder.glob("*.trec"):
        if earlier.name != QRELS and earlier.stem not in tags.values():
            earlier.unlink()


def _field(sid: str) -> str:
    """A SID as one field, with white space in it encoded as in a URL: `%20`."""
    return _SPACE.sub(lambda found: quote(found.group()), sid)
