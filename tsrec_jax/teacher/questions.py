"""One question for each SID token or path: which of its items a model is shown, and the prompt.

Sampling. The items of a cluster are ordered by SID, then by id. If m of its n items may be shown, they are those at the
places floor((2k + 1) n / 2m), k = 0 ... m - 1: evenly spaced, so that every large branch of the SID tree below and
above the token has its share. Nothing is drawn by chance, and the order of the items in their file does not matter.

Deep levels. A token on a level above 0 refines its prefix, and the items that carry it in the whole catalogue have
little in common by themselves. So its items are shown by family (the items with the same prefix), each family together
with NEIGHBOURS items of the same family that have another token; if there are none, the family is widened by a level.
A path has one family, and is shown together with PATH_NEIGHBOURS other items of it.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence

from tsrec_jax.data.catalogue import Catalogue, Item
from tsrec_jax.teacher.groups import Group
from tsrec_jax.teacher.settings import DescribeSettings

NEIGHBOURS = 2
PATH_NEIGHBOURS = 8
SAMPLE_RULE = "evenly spaced over the cluster's items in the order of SID, then id"


@dataclasses.dataclass(frozen=True)
class Family:
    """Items of a cluster with one prefix: those shown, and for comparison items that carry another token."""

    items: tuple[int, ...]
    neighbours: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Question:
    """What a model is asked about the items of one token or path.

    Attributes:
      group: the items; the prompt does not name its tokens.
      families: the items shown; on level 0 one family without neighbours.
      prompt: the text sent.
    """

    group: Group
    families: tuple[Family, ...]
    prompt: str

    @property
    def name(self) -> str:
        """Name of the token or path."""
        return self.group.name

    @property
    def sample(self) -> tuple[int, ...]:
        """Indices of the group's items that the prompt shows."""
        return tuple(item for family in self.families for item in family.items)


def make_questions(catalogue: Catalogue, groups: Sequence[Group], settings: DescribeSettings) -> tuple[Question, ...]:
    """One question for each group."""
    below: dict[tuple[str, ...], list[int]] = collections.defaultdict(list)
    for item in sorted(range(catalogue.num_items), key=lambda i: (catalogue.sids[i], catalogue.items[i].id)):
        for level in range(catalogue.num_levels):
            below[catalogue.sids[item][:level]].append(item)
    questions = []
    for group in groups:
        families = _families(catalogue, below, group, evenly_spaced(group.items, settings.items_per_token))
        questions.append(Question(group, families, _prompt(catalogue, families, group, settings)))
    return tuple(questions)


def evenly_spaced(items: Sequence[int], most: int) -> tuple[int, ...]:
    """All items, or `most` of them by the rule of the module's docstring."""
    count = len(items)
    if count <= most:
        return tuple(items)
    return tuple(items[(2 * k + 1) * count // (2 * most)] for k in range(most))


def _families(
    catalogue: Catalogue, below: Mapping[tuple[str, ...], Sequence[int]], group: Group, sample: Sequence[int]
) -> tuple[Family, ...]:
    if group.level == 0:
        return (Family(tuple(sample), ()),)
    by_prefix: dict[tuple[str, ...], list[int]] = collections.defaultdict(list)
    for item in sample:
        by_prefix[catalogue.sids[item][: group.level]].append(item)
    most, members = PATH_NEIGHBOURS if group.prefix else NEIGHBOURS, frozenset(group.items)
    return tuple(Family(tuple(items), _neighbours(below, prefix, members, most)) for prefix, items in by_prefix.items())


def _neighbours(
    below: Mapping[tuple[str, ...], Sequence[int]], prefix: tuple[str, ...], members: frozenset[int], most: int
) -> tuple[int, ...]:
    for length in range(len(prefix), 0, -1):
        others = [item for item in below[prefix[:length]] if item not in members]
        if others:
            return evenly_spaced(others, most)
    return ()


def _prompt(catalogue: Catalogue, families: Sequence[Family], group: Group, settings: DescribeSettings) -> str:
    shown, size = sum(len(family.items) for family in families), len(group.items)
    count = f"all {size} of its products" if shown == size else f"{shown} of its {size} products, evenly spread"
    task = _FIRST_LEVEL_TASK if group.level == 0 else _PATH_TASK if group.prefix else _DEEP_LEVEL_TASK
    blocks = [task.format(count=count), _RULES.format(num_keywords=settings.num_keywords)]
    for number, family in enumerate(families, 1):
        lines = [_line(catalogue.items[item], settings.description_chars) for item in family.items]
        heading = "Products of the group:" if group.level == 0 else f"Family {number}, in the group:"
        blocks.append("\n".join([heading, *lines]))
        if family.neighbours:
            titles = [_line(catalogue.items[item], 0) for item in family.neighbours]
            blocks[-1] += "\n" + "\n".join([f"Family {number}, not in the group:", *titles])
    return "\n\n".join(blocks)


_FIRST_LEVEL_TASK = (
    "A shop has sorted its catalogue into groups of related products. Below you see one group, {count}. Work out what "
    "holds the group together: what the products are, what people do with them, what they are made of, and in which "
    "ways they vary."
)
_DEEP_LEVEL_TASK = (
    "A shop has sorted its catalogue into families of related products, and every family again into groups. The same "
    "group runs through many families: it stands for the trait by which its products differ from the rest of their "
    "family. Below you see one group, {count}, family by family, with some products of the same family that are not in "
    "the group for comparison. Work out what sets the group's products apart from their neighbours in as many families "
    "as possible: a material, a form, a size, a use, a way of selling. Where the families share nothing, say which "
    "kinds of products come up most."
)
_PATH_TASK = (
    "A shop has sorted its catalogue into families of related products, and every family again into groups. Below you "
    "see one group, {count}, and for comparison some products of the same family that are in other groups. Work out "
    "what the group's products are and above all what sets them apart from the rest of their family: a kind, a "
    "material, a form, a size, a use, a way of selling."
)
_RULES = (
    "Reply with a single JSON object and no other text, in this shape:\n"
    '{{"description": "...", "keywords": ["...", "..."]}}\n'
    "description: two to four plain English sentences, 40 to 90 words in all, that would let a reader pick further "
    "products of this group out of the catalogue. Write about the products, not about this task, and put no codes in "
    "angle brackets into it.\n"
    "keywords: about {num_keywords} entries of one to three lower-case words each, the most telling first, none twice. "
    "Prefer names of things, materials, uses and brands; leave out praise that would suit anything on sale."
)


def _line(item: Item, description_chars: int) -> str:
    parts = [" ".join(item.title.split())]
    if item.brand.strip():
        parts.append(f"brand: {' '.join(item.brand.split())}")
    if item.categories.strip():
        parts.append(f"category: {' '.join(item.categories.split())}")
    text = _shortened(item.description, description_chars)
    return "- " + " | ".join([*parts, text] if text else parts)


def _shortened(text: str, most: int) -> str:
    """The text's first characters, cut at the end of a word."""
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    head = text[: most + 1].rsplit(" ", 1)[0][:most].rstrip()
    return f"{head} ..." if head else ""
