"""Rankings in the formats of TREC, which trec_eval, pytrec_eval and ranx read.

A query is an evaluated row, by its number from 1 in the order of predictions.json, and a document is a SID, so that the
figures of these programs are those of the SID level. All of them order by score alone and break ties by names, so a
score is the number of places from here to the end of the list: it falls by 1 from place to place.
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
    """Writes `qrels.trec`, and of each system a run, `NAME.trec`, its name with `_` for spaces; earlier runs go.

    Args:
      folder: receives the files; made if needed.
      targets: of each row its target's SID.
      systems: {name: for each row the ranked SIDs, best first}.
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
    """A SID as one field: white space in it as in an address, `%20`."""
    return _SPACE.sub(lambda found: quote(found.group()), sid)
