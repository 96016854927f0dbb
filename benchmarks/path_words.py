"""How much the words of paths tell apart, against the words of tokens: the offline teacher on one dataset folder.

    PYTHONPATH=. python benchmarks/path_words.py --dataset=../shared/data/amazon/Industrial_rebuilt \\
        --out=docs/results/path_words.md

Nothing is trained and no interaction is read. An item stands beside a group if its SID has the same tokens before the
group's level, and another one on that level.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import math
import pathlib
import time
from collections.abc import Sequence

import numpy as np
from scipy import sparse

from benchmarks.facts import command
from tsrec_jax.data.catalogue import Catalogue, TokenDescription
from tsrec_jax.data.dataset import read_dataset
from tsrec_jax.files import write_text
from tsrec_jax.pipeline.provenance import commit, machine
from tsrec_jax.teacher.backends.offline import ENOUGH_ITEMS, describe_groups
from tsrec_jax.teacher.groups import Group, groups_of
from tsrec_jax.teacher.settings import DescribeSettings
from tsrec_jax.text.likeness import text_features
from tsrec_jax.text.terms import Terms, item_terms

DRAWS = 400  # random groups of each size


@dataclasses.dataclass(frozen=True)
class LevelFacts:
    """The groups of one level and their keywords; shares lie between 0 and 1.

    Attributes:
      groups, single: the number of groups, and how many of them have one item.
      unique: share of the keywords that no other group of the level has.
      unique_beside: of groups with siblings (paths with the same prefix; tokens of the level) the share of the keywords
        that no sibling has.
      inside: how often a keyword of a group occurs in the texts of its items; mean over groups of ENOUGH_ITEMS or more.
      beside: how often it stands in those beside it; mean over the groups that have some.
      cosine: mean cosine of the texts of two items of a group, over the groups of two or more.
      cosine_beside: the same for an item of a group and one beside it.
      chance: share of these groups whose mean cosine is below that of 95 % of the random groups of as many items.
    """

    level: int
    groups: int
    single: int
    unique: float
    unique_beside: float
    inside: float
    beside: float
    cosine: float
    cosine_beside: float
    chance: float


def level_facts(
    catalogue: Catalogue, groups: Sequence[Group], words: Sequence[TokenDescription], seed: int = 42
) -> list[LevelFacts]:
    """The facts of every level of the groups; `words` are the groups' words, in the same order."""
    terms, features_IK = item_terms(catalogue.items), text_features(catalogue.items)
    levels = np.array([group.level for group in groups])
    found = []
    for level in np.unique(levels).tolist():
        of_level = np.flatnonzero(levels == level).tolist()
        found.append(
            _facts(
                catalogue, level, [groups[n] for n in of_level], [words[n] for n in of_level], terms, features_IK, seed
            )
        )
    return found


def _facts(
    catalogue: Catalogue,
    level: int,
    groups: Sequence[Group],
    words: Sequence[TokenDescription],
    terms: Terms,
    features_IK: sparse.csr_matrix,
    seed: int,
) -> LevelFacts:
    counts = collections.Counter(keyword for described in words for keyword in set(described.keywords))
    near = collections.Counter((w.prefix, keyword) for w in words for keyword in set(w.keywords))
    keywords = [(w.prefix, keyword) for w in words for keyword in set(w.keywords)]
    siblings = collections.Counter(w.prefix for w in words)
    column = {name: number for number, name in enumerate(terms.names)}
    held_TI = terms.held_IT.T.tocsr()
    below: dict[tuple[str, ...], list[int]] = collections.defaultdict(list)
    for item, sid in enumerate(catalogue.sids):
        below[sid[:level]].append(item)
    chance, rng = {}, np.random.default_rng(seed)
    insides, besides, cosines, cosines_beside, below_chance = [], [], [], [], []
    for group, described in zip(groups, words, strict=True):
        members = np.array(group.items)
        others = _beside(catalogue, group, below)
        known = [column[keyword] for keyword in described.keywords if keyword in column]
        if known:
            held_KI = held_TI[known].toarray()
            insides += [float(held_KI[:, members].mean())] if len(members) >= ENOUGH_ITEMS else []
            shares = [held_KI[:, around].mean() for around in others if len(around)]
            besides += [float(np.mean(shares))] if shares else []
        if len(members) > 1:
            cosines.append(_mean_cosine(features_IK[members]))
            if len(members) not in chance:
                drawn = [rng.choice(catalogue.num_items, len(members), replace=False) for _ in range(DRAWS)]
                chance[len(members)] = np.quantile([_mean_cosine(features_IK[rows]) for rows in drawn], 0.95)
            below_chance.append(cosines[-1] < chance[len(members)])
            around = [
                float((features_IK[item] @ features_IK[rows].T).mean())
                for item, rows in zip(members, others, strict=True)
                if len(rows)
            ]
            cosines_beside += [float(np.mean(around))] if around else []
    return LevelFacts(
        level,
        len(groups),
        sum(len(group.items) == 1 for group in groups),
        float(np.mean([counts[keyword] == 1 for _, keyword in keywords])),
        _mean([near[pair] == 1 for pair in keywords if siblings[pair[0]] > 1]),
        *map(_mean, (insides, besides, cosines, cosines_beside, below_chance)),
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _beside(catalogue: Catalogue, group: Group, below: dict[tuple[str, ...], list[int]]) -> list[np.ndarray]:
    """For each item of a group the items beside it."""
    of_prefix: dict[tuple[str, ...], np.ndarray] = {}
    for item in group.items:
        prefix = catalogue.sids[item][: group.level]
        if prefix not in of_prefix:
            of_prefix[prefix] = np.setdiff1d(below[prefix], group.items)
    return [of_prefix[catalogue.sids[item][: group.level]] for item in group.items]


def _mean_cosine(features_nK: sparse.csr_matrix) -> float:
    """Over all pairs of two or more rows of length 1; rows of zeros have cosine 0 with all."""
    count = features_nK.shape[0]
    whole = np.square(np.asarray(features_nK.sum(axis=0), np.float64)).sum()
    return float((whole - features_nK.multiply(features_nK).sum()) / (count * (count - 1)))


def table(facts: dict[str, list[LevelFacts]]) -> str:
    """A Markdown table with a row for each level and unit."""
    rows = [
        "| level | described | groups | of one item | keywords of one group only | keywords that no sibling has "
        "| in its items' texts | in those beside | cosine in a group | with items beside | no better than chance |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for level in range(max(len(levels) for levels in facts.values())):
        for unit, levels in facts.items():
            f = levels[level]
            rows.append(
                f"| {'abcdefgh'[level]} | {unit}s | {f.groups:,} | {f.single:,} | {f.unique:.3f} | "
                f"{f.unique_beside:.3f} | {f.inside:.3f} | {f.beside:.3f} | {f.cosine:.3f} | {f.cosine_beside:.3f} | "
                f"{f.chance:.0%} |"
            )
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True, help="a folder with SIDs")
    parser.add_argument("--out", required=True, help="the report")
    parser.add_argument("--seed", type=int, default=42, help="of the random groups")
    given = parser.parse_args()
    dataset = read_dataset(given.dataset)
    catalogue = dataset.catalogue
    facts, lines = {}, []
    for unit in ("token", "path"):
        groups = groups_of(catalogue, unit, catalogue.num_levels)
        start = time.monotonic()
        words = describe_groups(catalogue, groups, DescribeSettings().num_keywords)
        lines.append(f"{len(words):,} {unit}s described in {time.monotonic() - start:.1f} s")
        facts[unit] = level_facts(catalogue, groups, words, given.seed)
    questions = [g for g in groups if len(g.items) >= DescribeSettings().least_items]
    text = (
        f"# Words of paths against words of tokens ({dataset.name})\n\n"
        f"`{command()}`\n\n"
        f"Offline teacher, {catalogue.num_items:,} items, SIDs of the folder, data {dataset.data_hash[:12]}, commit "
        f"{commit()}, {machine()}. {'; '.join(lines)}; a model would be asked about {len(questions):,} of the paths "
        f"(those of {DescribeSettings().least_items} items or more).\n\n{table(facts)}"
    )
    write_text(pathlib.Path(given.out), text)
    print(text)


if __name__ == "__main__":
    main()
