"""The groups of items that a teacher describes: those that carry a token, or those below a path.

A path is the tokens with which a SID begins. A deep token can mean different things in different places of the SID
tree. A path has one place, and is distinguished from its siblings, the paths with the same tokens before the last.
"""

from __future__ import annotations

import collections
import dataclasses
import pathlib
from typing import Literal

from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.token_descriptions import has_paths
from tsrec_jax.errors import UserError

Unit = Literal["token", "path"]


@dataclasses.dataclass(frozen=True)
class Group:
    """The items that one description is about.

    Attributes:
      token: the token that all of them carry; for a path, its last one.
      prefix: the tokens before it, if a path of several tokens is described; empty for a token.
      level: level of the token, from 0.
      items: indices of the items, ordered by SID, then by id.
    """

    token: str
    prefix: tuple[str, ...]
    level: int
    items: tuple[int, ...]

    @property
    def name(self) -> str:
        """As in `TokenDescription.name`."""
        return "".join((*self.prefix, self.token))


def groups_of(catalogue: Catalogue, unit: Unit, levels: int) -> tuple[Group, ...]:
    """The groups of the first `levels` levels, level by level, in the order of the tokens."""
    members: dict[tuple[int, tuple[str, ...], str], list[int]] = collections.defaultdict(list)
    for item in sorted(range(catalogue.num_items), key=lambda i: (catalogue.sids[i], catalogue.items[i].id)):
        sid = catalogue.sids[item]
        for level in range(levels):
            prefix = sid[:level] if unit == "path" else ()
            members[level, prefix, sid[level]].append(item)
    place = {token: number for number, token in enumerate(catalogue.tokens)}
    ordered = sorted(members, key=lambda key: (key[0], *(place[token] for token in (*key[1], key[2]))))
    return tuple(Group(token, prefix, level, tuple(members[level, prefix, token])) for level, prefix, token in ordered)


def refuse_other_unit(file: pathlib.Path, unit: Unit) -> None:
    """Refuses a file of words for another unit; its other faults are reported when it is read.

    Raises:
      UserError: it describes tokens although the unit is the path, or the reverse.
    """
    there: Unit = "path" if has_paths(file) else "token"
    if there != unit:
        raise UserError(
            f"{file} describes {there}s, and config.describe.unit={unit}; set it to {there}, or make other words with "
            "config.describe.words=make"
        )
