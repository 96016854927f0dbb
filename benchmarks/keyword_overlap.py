"""How far two teachers agree on the keywords of the same tokens, level by level, beside a shuffled control."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tsrec_jax.data.catalogue import Catalogue, TokenDescription

_Measure = Callable[[frozenset[str], frozenset[str]], float]


@dataclasses.dataclass(frozen=True)
class LevelOverlap:
    """Agreement on one level; means are over its tokens, and all values lie between 0 and 1.

    Attributes:
      level: from 0.
      tokens: number of tokens of the level.
      jaccard: mean Jaccard index of the two keyword sets, ignoring case.
      contained: mean share of the words in the first's keywords that are also among the second's words.
      jaccard_shuffled, contained_shuffled: the same with the second's keywords permuted among the tokens of the level.
      distinct_first, distinct_second: distinct keywords of the level over all its keywords.
      unique_first, unique_second: share of the level's keywords that only one token has.
    """

    level: int
    tokens: int
    jaccard: float
    contained: float
    jaccard_shuffled: float
    contained_shuffled: float
    distinct_first: float
    distinct_second: float
    unique_first: float
    unique_second: float


def keyword_overlap(
    catalogue: Catalogue, first: Mapping[str, TokenDescription], second: Mapping[str, TokenDescription], seed: int = 42
) -> tuple[LevelOverlap, ...]:
    """Compares two sets of clusters ({token: cluster}, one for every token of the catalogue).

    Agreement counts only as far as it exceeds the shuffled control, which shows what the common words of the catalogue
    produce on their own. `seed` is the control's.

    Raises:
      KeyError: a token is missing from one of the sets.
    """
    rng = np.random.default_rng(seed)
    levels = []
    for level, tokens in enumerate(catalogue.level_tokens):
        left, right = ([_keywords(clusters[token]) for token in tokens] for clusters in (first, second))
        shuffled = [right[index] for index in rng.permutation(len(right))]
        levels.append(
            LevelOverlap(
                level,
                len(tokens),
                *(_mean(measure, left, right) for measure in (_jaccard, _contained)),
                *(_mean(measure, left, shuffled) for measure in (_jaccard, _contained)),
                *map(_distinct_share, (left, right)),
                *map(_unique_share, (left, right)),
            )
        )
    return tuple(levels)


def overlap_table(levels: Sequence[LevelOverlap], first: str, second: str) -> str:
    """A Markdown table, one row per level; `first` and `second` name the two teachers."""
    rows = [
        f"| level | tokens | Jaccard (shuffled) | words of {first} in {second} (shuffled) | distinct keywords / all, "
        f"{first} and {second} | keywords of one token only, {first} and {second} |",
        "|---|---|---|---|---|---|",
    ]
    for found in levels:
        rows.append(
            f"| {found.level} | {found.tokens} | {found.jaccard:.3f} ({found.jaccard_shuffled:.3f}) | "
            f"{found.contained:.3f} ({found.contained_shuffled:.3f}) | "
            f"{found.distinct_first:.3f}, {found.distinct_second:.3f} | "
            f"{found.unique_first:.3f}, {found.unique_second:.3f} |"
        )
    return "\n".join(rows) + "\n"


def _keywords(cluster: TokenDescription) -> frozenset[str]:
    return frozenset(" ".join(keyword.lower().split()) for keyword in cluster.keywords)


def _words(keywords: frozenset[str]) -> set[str]:
    return {word for keyword in keywords for word in keyword.split()}


def _jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    return len(left & right) / max(len(left | right), 1)


def _contained(left: frozenset[str], right: frozenset[str]) -> float:
    words = _words(left)
    return len(words & _words(right)) / max(len(words), 1)


def _mean(measure: _Measure, left: Sequence[frozenset[str]], right: Sequence[frozenset[str]]) -> float:
    return float(np.mean([measure(a, b) for a, b in zip(left, right, strict=True)]))


def _distinct_share(keywords: Sequence[frozenset[str]]) -> float:
    return len(frozenset().union(*keywords)) / max(sum(map(len, keywords)), 1)


def _unique_share(keywords: Sequence[frozenset[str]]) -> float:
    counts = collections.Counter(keyword for found in keywords for keyword in found)
    return sum(count == 1 for count in counts.values()) / max(counts.total(), 1)
