"""Which words describe which SID token, and a control in which every token or path has the words of another."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping

import numpy as np

from tsrec_jax.data.catalogue import Catalogue, TokenDescription


@dataclasses.dataclass(frozen=True, eq=False)
class TokenWords:
    """The P descriptions that apply to the tokens of a catalogue.

    A token has the described paths that end in it; if there are none, its own description; otherwise nothing.

    Attributes:
      descriptions: of tokens or paths.
      token_P: int32, the token that each one describes, as a position in `Catalogue.tokens`.
      siblings_P: int32, equal for siblings: paths with the same prefix, and tokens of one level with their own
        descriptions.
      items_P: int32, number of items that carry the token or are below the path.
    """

    descriptions: tuple[TokenDescription, ...]
    token_P: np.ndarray
    siblings_P: np.ndarray
    items_P: np.ndarray

    @classmethod
    def of(cls, catalogue: Catalogue, descriptions: Mapping[str, TokenDescription]) -> TokenWords:
        """The descriptions of a catalogue's tokens, in the order of its tokens."""
        place = {token: number for number, token in enumerate(catalogue.tokens)}
        ending: dict[str, list[TokenDescription]] = collections.defaultdict(list)
        for words in descriptions.values():
            if words.prefix:
                ending[words.token].append(words)
        used = [
            words
            for token in catalogue.tokens
            for words in ending[token] or ([descriptions[token]] if token in descriptions else [])
        ]
        items: collections.Counter[tuple[str, ...]] = collections.Counter()
        for sid in catalogue.sids:
            items.update(sid[:length] for length in range(2, len(sid) + 1))
            items.update((token,) for token in sid)
        groups: dict[tuple[int, tuple[str, ...]], int] = {}
        levels = catalogue.token_levels.tolist()
        beside = [groups.setdefault((levels[place[w.token]], w.prefix), len(groups)) for w in used]
        return cls(
            tuple(used),
            np.array([place[words.token] for words in used], np.int32),
            np.array(beside, np.int32),
            np.array([items[words.path] for words in used], np.int32),
        )


def shuffled_words(
    catalogue: Catalogue, descriptions: Mapping[str, TokenDescription], seed: int
) -> dict[str, TokenDescription]:
    """The same tokens and paths, each with the description and keywords of another one of its level.

    Tokens swap words with tokens, and paths with paths. The permutation is a random cycle, so none keeps its own words
    unless it is alone on its level.
    """
    rng = np.random.default_rng(seed)
    level_of = dict(zip(catalogue.tokens, catalogue.token_levels.tolist(), strict=True))
    members: dict[tuple[int, int], list[str]] = collections.defaultdict(list)
    for name, words in descriptions.items():
        members[level_of[words.token], len(words.prefix)].append(name)
    shuffled = dict(descriptions)
    for _, names in sorted(members.items()):
        cycle = rng.permutation(np.array(names))
        for name, other in zip(cycle.tolist(), np.roll(cycle, 1).tolist(), strict=True):
            words = descriptions[other]
            shuffled[name] = dataclasses.replace(
                descriptions[name], description=words.description, keywords=words.keywords
            )
    return shuffled
