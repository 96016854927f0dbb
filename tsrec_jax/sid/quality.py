"""How good semantic IDs are: collisions, use of codes, how much of the embeddings they keep, and what they group.

Axis letters: I items, D features, C levels, E codes of a level.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tsrec_jax.data.catalogue import Item
from tsrec_jax.sid.collisions import collision_groups

LABELS = ("brand", "categories")
NEIGHBOUR_QUERIES = 5000  # items whose nearest neighbour is looked up; larger catalogues are sampled, with the seed
BLOCK = 1024
EXAMPLE_TITLES = 5


@dataclasses.dataclass(frozen=True)
class LevelUse:
    """How one level's codes are used.

    Attributes:
      codes, used: number of codes, and number of codes that some item has.
      perplexity: exp of the entropy of the codes in nats: so many equally used codes would be as informative.
      gini: inequality of use over all codes, 0 (all equal) to 1.
      items_min, items_median, items_max: number of items per code, over all codes.
    """

    codes: int
    used: int
    perplexity: float
    gini: float
    items_min: int
    items_median: float
    items_max: int

    @property
    def use(self) -> float:
        """Share of the codes that are used."""
        return self.used / self.codes


@dataclasses.dataclass(frozen=True)
class Depth:
    """The nodes of the first c levels.

    Attributes:
      nodes: number of distinct prefixes.
      items_mean, items_max: number of items per node.
      children_max: largest number of distinct next codes in a node; 0 on the last level.
      error: squared error that the codes so far leave, as a share of the embeddings' variance; None: not known.
      purity: {label: (share, by chance)}: the share with an item's label among the other items of its node, averaged
        over items that have a label and company; by chance: the same with labels permuted. None: no item has company.
    """

    nodes: int
    items_mean: float
    items_max: int
    children_max: int
    error: float | None
    purity: Mapping[str, tuple[float | None, float | None]]


@dataclasses.dataclass(frozen=True)
class SidReport:
    """Everything that is reported about a catalogue's SIDs.

    Attributes:
      items, sids: numbers of items and of distinct SIDs.
      colliding_items, collision_groups, largest_group: numbers of items that share their SID and of SIDs that are
        shared, and the largest number of items of one SID.
      same_text_items: colliding items whose title and description equal those of another item of their group.
      levels, depths: one per level, from the first.
      neighbour_purity: {label: (share, by chance)}: items whose nearest neighbour in the embeddings has their label.
      neighbour_queries: number of items that were looked up for it; 0 without embeddings.
      examples: (prefix tokens, number of items, titles) of the largest and a medium-sized node of every depth.
      numbered: whether the last level only numbers the items with the same codes (`extra_level`).
    """

    items: int
    sids: int
    colliding_items: int
    collision_groups: int
    largest_group: int
    same_text_items: int
    levels: tuple[LevelUse, ...]
    depths: tuple[Depth, ...]
    neighbour_purity: Mapping[str, tuple[float, float]]
    neighbour_queries: int
    examples: tuple[tuple[str, int, tuple[str, ...]], ...]
    numbered: bool = False

    @property
    def coded(self) -> int:
        """Number of levels whose codes describe the items."""
        return len(self.levels) - self.numbered

    @property
    def collision_rate(self) -> float:
        """1 - distinct SIDs / items: the share of items that would have to change for none to collide."""
        return 1.0 - self.sids / self.items

    @property
    def summary(self) -> str:
        """One line."""
        use = ", ".join(f"{level.use:.1%}" for level in self.levels)
        return f"{self.items} items, {self.sids} SIDs, collision rate {self.collision_rate:.2%}, code use {use}"


def measure(
    codes_IC: np.ndarray,
    sizes: Sequence[int],
    sids: Sequence[Sequence[str]],
    items: Sequence[Item],
    *,
    embeddings_ID: np.ndarray | None = None,
    reconstruct: Callable[[int], np.ndarray] | None = None,
    seed: int = 0,
    numbered: bool = False,
) -> SidReport:
    """Measures SIDs.

    Args:
      codes_IC: int codes of the items.
      sizes: number of codes on each level.
      sids: tokens of the items, for the examples.
      items: the items, for labels, texts and titles.
      embeddings_ID: float32, the quantised vectors; None if the SIDs came from elsewhere.
      reconstruct: maps a number of levels to the float32 (I, D) vectors that the codes so far stand for; None: errors
        are not known.
      seed: seed of permutations, samples and examples.
      numbered: whether the last level only numbers the items with the same codes.
    """
    groups = collision_groups(codes_IC)
    depths, examples = [], []
    for depth in range(1, codes_IC.shape[1] + 1):
        nodes_I = _nodes(codes_IC[:, :depth])
        error = None
        if embeddings_ID is not None and reconstruct is not None:
            error = relative_error(embeddings_ID, reconstruct(depth))
        children = _nodes(codes_IC[:, : depth + 1]) if depth < codes_IC.shape[1] else None
        depths.append(_depth(nodes_I, children, items, error, seed))
        examples += _examples(nodes_I, ["".join(sid[:depth]) for sid in sids], items)
    queries = 0 if embeddings_ID is None else min(len(items), NEIGHBOUR_QUERIES)
    return SidReport(
        items=len(items),
        sids=int(_nodes(codes_IC).max()) + 1,
        colliding_items=sum(map(len, groups)),
        collision_groups=len(groups),
        largest_group=max(map(len, groups), default=1),
        same_text_items=sum(_same_texts([items[i] for i in group]) for group in groups),
        levels=tuple(level_use(codes_I, size) for codes_I, size in zip(codes_IC.T, sizes, strict=True)),
        depths=tuple(depths),
        neighbour_purity={} if embeddings_ID is None else _neighbour_purity(embeddings_ID, items, queries, seed),
        neighbour_queries=queries,
        examples=tuple(examples),
        numbered=numbered,
    )


def level_use(codes_I: np.ndarray, size: int) -> LevelUse:
    """Use of one level's codes."""
    counts_E = np.bincount(codes_I, minlength=size)
    shares = counts_E[counts_E > 0] / counts_E.sum()
    rising_E = np.sort(counts_E)
    gini = 2.0 * float((np.arange(1, size + 1) * rising_E).sum()) / (size * counts_E.sum()) - (size + 1) / size
    return LevelUse(
        codes=size,
        used=int((counts_E > 0).sum()),
        perplexity=float(np.exp(-(shares * np.log(shares)).sum())),
        gini=gini,
        items_min=int(counts_E.min()),
        items_median=float(np.median(counts_E)),
        items_max=int(counts_E.max()),
    )


def relative_error(x_ID: np.ndarray, reconstruction_ID: np.ndarray) -> float:
    """Squared error as a share of the squared distances to the mean; 0 if these are all 0."""
    total = float(np.square(x_ID - x_ID.mean(axis=0)).sum())
    return float(np.square(x_ID - reconstruction_ID).sum()) / total if total else 0.0


def purity(nodes_I: np.ndarray, labels_I: np.ndarray) -> float | None:
    """The share with an item's label among the other labelled items of its node, averaged over items with such company.

    None if no item has any.

    Args:
      nodes_I: int node of each item.
      labels_I: int label of each item; -1: none.
    """
    known = labels_I >= 0
    nodes_N, labels_N = nodes_I[known], labels_I[known]
    if not len(nodes_N):
        return None
    company_N = np.bincount(nodes_N)[nodes_N] - 1
    pairs_N = _nodes(np.stack([nodes_N, labels_N], axis=1))
    same_N = np.bincount(pairs_N)[pairs_N] - 1
    accompanied = company_N > 0
    return float((same_N[accompanied] / company_N[accompanied]).mean()) if accompanied.any() else None


def _nodes(prefixes: np.ndarray) -> np.ndarray:
    """A number for each distinct row."""
    return np.unique(prefixes, axis=0, return_inverse=True)[1].ravel()


def _label_numbers(items: Sequence[Item]) -> dict[str, np.ndarray]:
    """{label: the number of each item's value, -1 if it is empty}, for labels that some item has."""
    numbers = {}
    for label in LABELS:
        texts = np.array([getattr(item, label).strip() for item in items])
        if (texts != "").any():
            numbers[label] = np.where(texts == "", -1, np.unique(texts, return_inverse=True)[1])
    return numbers


def _depth(
    nodes_I: np.ndarray, children_I: np.ndarray | None, items: Sequence[Item], error: float | None, seed: int
) -> Depth:
    sizes = np.bincount(nodes_I)
    rng = np.random.default_rng(seed)
    purities = {
        label: (purity(nodes_I, labels_I), purity(nodes_I, rng.permutation(labels_I)))
        for label, labels_I in _label_numbers(items).items()
    }
    children_max = 0
    if children_I is not None:
        parents = np.unique(np.stack([nodes_I, children_I], axis=1), axis=0)[:, 0]
        children_max = int(np.bincount(parents).max())
    return Depth(len(sizes), float(sizes.mean()), int(sizes.max()), children_max, error, purities)


def _neighbour_purity(x_ID: np.ndarray, items: Sequence[Item], count: int, seed: int) -> dict[str, tuple[float, float]]:
    """Share of items whose nearest other item by cosine has their label, and the same for random other items."""
    rng = np.random.default_rng(seed)
    unit_ID = x_ID / np.maximum(np.linalg.norm(x_ID, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    queries_N = np.sort(rng.permutation(len(items))[:count])
    nearest_N = np.empty(count, np.int64)
    for start in range(0, count, BLOCK):
        rows = queries_N[start : start + BLOCK]
        cosine_BI = unit_ID[rows] @ unit_ID.T
        cosine_BI[np.arange(len(rows)), rows] = -np.inf
        nearest_N[start : start + BLOCK] = cosine_BI.argmax(axis=1)
    found = {}
    for label, labels_I in _label_numbers(items).items():
        known = labels_I[queries_N] >= 0
        if known.any():
            mine = labels_I[queries_N][known]
            theirs, others = labels_I[nearest_N][known], rng.permutation(labels_I)[queries_N][known]
            found[label] = (float((mine == theirs).mean()), float((mine == others).mean()))
    return found


def _same_texts(group: Sequence[Item]) -> int:
    texts = [(item.title, item.description) for item in group]
    return sum(texts.count(text) > 1 for text in texts)


def _examples(
    nodes_I: np.ndarray, prefixes: Sequence[str], items: Sequence[Item]
) -> list[tuple[str, int, tuple[str, ...]]]:
    """The largest node, and the median-sized one of those with several items."""
    sizes = np.bincount(nodes_I)
    order = np.argsort(-sizes, kind="stable")
    several = order[sizes[order] > 1]
    chosen = [int(order[0])] + ([int(several[len(several) // 2])] if len(several) > 1 else [])
    examples = []
    for node in dict.fromkeys(chosen):
        members = np.flatnonzero(nodes_I == node)
        shown = members[np.linspace(0, len(members) - 1, min(EXAMPLE_TITLES, len(members))).astype(int)]
        examples.append((prefixes[members[0]], len(members), tuple(items[i].title for i in shown)))
    return examples
