"""The teacher without a model: words that distinguish a cluster from its neighbours, by class-based TF-IDF.

Class-based TF-IDF (c-TF-IDF of BERTopic, arXiv 2203.05794, section 3.3) treats all texts of a class as one and scores a
term t in a class c by its frequency there times the log of how much rarer it is over all classes. A token on a deep
level of a SID refines its prefix and means little by itself, so here "over all classes" becomes "among the items with
the same prefix and another token":

  score(t, c) = O / n_c * log(O / E)        and no keyword where O <= E
  O = sum of weights of t in the items of c        E = sum over the items i of c of s(t | prefix of i)

s is the mean weight of t among the other clusters' items under the same prefix. Prefixes have few items, so each s is
pulled towards that of the next shorter prefix, as if PRIOR_ITEMS more items had that one (a Dirichlet prior); for the
empty prefix it is the mean over the whole catalogue outside c. On level 0 the prefix is empty, and the score is a
class-based TF-IDF against all other clusters. The score is t's part in the divergence of the cluster from what its
prefixes suggest. All items of a path have one prefix, and the other clusters under it are the path's siblings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import sparse

from tsrec_jax.data.catalogue import Catalogue, TokenDescription
from tsrec_jax.progress import Progress
from tsrec_jax.teacher.groups import Group, groups_of
from tsrec_jax.teacher.settings import DescribeSettings
from tsrec_jax.text.terms import Terms, item_terms, title_terms

PRIOR_ITEMS = 4.0
ENOUGH_ITEMS = 3  # with this many items or more, terms that occur in at least two of them come first
PART_SHARE = 0.8  # a phrase replaces a part of it if it makes up this share of the part's occurrences
CELLS = 1 << 21  # items times terms that are held densely at once
PHRASE_BONUS = {2: 1.25}  # {number of words: factor on the score}; three in a row are often a repeated slogan


def describe_tokens(
    catalogue: Catalogue, settings: DescribeSettings, levels: int | None = None
) -> tuple[TokenDescription, ...]:
    """A description and at most `settings.num_keywords` keywords for every token or path of the first `levels` levels.

    Only the catalogue is read; the same catalogue gives the same answer.
    """
    levels = catalogue.num_levels if levels is None else levels
    return describe_groups(catalogue, groups_of(catalogue, settings.unit, levels), settings.num_keywords)


def describe_groups(catalogue: Catalogue, groups: Sequence[Group], num_keywords: int) -> tuple[TokenDescription, ...]:
    """A description and at most `num_keywords` keywords for each group of items.

    Keywords come best first. If too few terms occur in two items of a group, terms of single items complete the list,
    and words of the titles if the group is small or has no keyword otherwise.
    """
    terms = item_terms(catalogue.items)
    beside = {level: _Prefixes.of(catalogue, terms, level) for level in {group.level for group in groups}}
    found, progress = [], Progress(len(groups), unit="groups of items")
    for group in groups:
        members = np.sort(np.array(group.items))
        keywords = _keywords(catalogue, terms, beside[group.level], members, num_keywords)
        text = _description(catalogue, members, keywords, group.level)
        for token in (*group.prefix, group.token):
            text = text.replace(token, "")
        found.append(TokenDescription(group.token, text, keywords, group.prefix))
        progress.tick("words from the texts")
    return tuple(found)


@dataclasses.dataclass(frozen=True)
class _Prefixes:
    """The prefix groups above the clusters of one level.

    Attributes:
      prefix_dI: for each prefix length d = 0 ... level, the number of each item's prefix.
      sizes_dp: for each prefix length, the number of items under each prefix.
      weights_dpT: for each prefix length, the summed term weights of the items under each prefix, sparse.
    """

    prefix_dI: tuple[np.ndarray, ...]
    sizes_dp: tuple[np.ndarray, ...]
    weights_dpT: tuple[sparse.csr_matrix, ...]

    @classmethod
    def of(cls, catalogue: Catalogue, terms: Terms, level: int) -> _Prefixes:
        prefix_dI = [np.zeros(catalogue.num_items, np.int64)]
        for depth in range(level):
            pairs_I2 = np.stack([prefix_dI[-1], catalogue.codes_IC[:, depth]], axis=1)
            prefix_dI.append(np.unique(pairs_I2, axis=0, return_inverse=True)[1].reshape(-1))
        one_hots = [_one_hot(prefix_I) for prefix_I in prefix_dI]
        return cls(
            tuple(prefix_dI),
            tuple(np.bincount(prefix_I).astype(np.float64) for prefix_I in prefix_dI),
            tuple((one_hot_pI @ terms.weight_IT).tocsr() for one_hot_pI in one_hots),
        )


def _one_hot(groups_I: np.ndarray) -> sparse.csr_matrix:
    count = len(groups_I)
    return sparse.csr_matrix((np.ones(count, np.float32), (groups_I, np.arange(count))))


def _keywords(
    catalogue: Catalogue, terms: Terms, prefixes: _Prefixes, members: np.ndarray, num_keywords: int
) -> tuple[str, ...]:
    held_nT, weight_nT = terms.held_IT[members], terms.weight_IT[members]
    counts_T = np.asarray(held_nT.sum(axis=0)).reshape(-1)
    found = np.flatnonzero(counts_T)
    observed = np.asarray(weight_nT.sum(axis=0)).reshape(-1)[found]
    # A term's E needs no other term's, so the terms of a large cluster are taken a part at a time.
    parts = np.array_split(found, -(-len(members) * len(found) // CELLS) or 1)
    columns_nT = weight_nT.tocsc()
    expected = np.concatenate([_expected(prefixes, members, columns_nT[:, part], part) for part in parts])
    scores = observed / len(members) * np.log(observed / expected)
    bonus = np.array([PHRASE_BONUS.get(len(terms.words[term]), 1.0) for term in found])
    # A stable sort keeps equal scores in alphabetical order.
    order = np.argsort(-scores * bonus, kind="stable")
    telling = {int(found[k]) for k in order if scores[k] > 0}
    candidates = [int(found[k]) for k in order if scores[k] > 0 and terms.parts[found[k]] <= telling]
    shared = [term for term in candidates if counts_T[term] > 1]
    chosen = _without_overlap(terms, shared, counts_T, num_keywords) if len(members) >= ENOUGH_ITEMS else []
    if len(chosen) < num_keywords:
        rest = [term for term in candidates if term not in set(shared)] if chosen else candidates
        chosen = _without_overlap(terms, rest, counts_T, num_keywords, chosen)
    keywords = [terms.names[term] for term in chosen]
    if not keywords or (len(keywords) < num_keywords and len(members) < ENOUGH_ITEMS):
        said = {word for keyword in keywords for word in keyword.split()}
        own = [word for item in members for word in title_terms(catalogue.items[item])]
        keywords += [word for word in dict.fromkeys(own) if word not in said]
    return tuple(keywords[:num_keywords])


def _expected(prefixes: _Prefixes, members: np.ndarray, weight_nT: sparse.csc_matrix, found: np.ndarray) -> np.ndarray:
    """E of the module's docstring for the terms `found`, float64 (T,)."""
    count = len(members)
    share_nT = np.zeros((count, len(found)))
    dense_nT = weight_nT.toarray().astype(np.float64)
    for depth, (prefix_I, sizes_p, weights_pT) in enumerate(
        zip(prefixes.prefix_dI, prefixes.sizes_dp, prefixes.weights_dpT, strict=True)
    ):
        above, which_n = np.unique(prefix_I[members], return_inverse=True)
        own_pn = _one_hot(which_n)
        others_pT = weights_pT[above][:, found].toarray() - own_pn @ dense_nT
        others_p = sizes_p[above] - np.bincount(which_n)
        if depth == 0:
            # As if half an item more had every term, so that a term that only this cluster has gets a finite score.
            share_nT = ((np.maximum(others_pT, 0) + 0.5) / (others_p[:, None] + 0.5))[which_n]
        else:
            mass_nT = np.maximum(others_pT, 0)[which_n] + PRIOR_ITEMS * share_nT
            share_nT = mass_nT / (others_p[which_n, None] + PRIOR_ITEMS)
    return share_nT.sum(axis=0)


def _without_overlap(
    terms: Terms, candidates: Sequence[int], counts_T: np.ndarray, most: int, chosen: Sequence[int] = ()
) -> list[int]:
    """The first candidates, each with at least half of its words new: a phrase or its parts, not both."""
    chosen = list(chosen)
    candidates = _without_parts(terms, candidates, counts_T)
    texts = [_spaced(terms.names[term]) for term in chosen]
    said = {word for term in chosen for word in terms.words[term]}
    for term in candidates:
        if len(chosen) >= most:
            break
        text = _spaced(terms.names[term])
        fresh = sum(word not in said for word in terms.words[term])
        if 2 * fresh < len(terms.words[term]) or any(text in other or other in text for other in texts):
            continue
        chosen.append(term)
        texts.append(text)
        said.update(terms.words[term])
    return chosen


def _spaced(name: str) -> str:
    """A term in a form in which "powder-free" equals "powder free", and only whole words are found."""
    return f" {name.replace('-', ' ')} "


def _without_parts(terms: Terms, candidates: Sequence[int], counts_T: np.ndarray) -> list[int]:
    """Leaves out words and phrases that, in this cluster, occur mostly inside a longer candidate."""
    number = {terms.words[term]: term for term in candidates}
    parts = set()
    for term in candidates:
        words = terms.words[term]
        for size in range(1, len(words)):
            for start in range(len(words) - size + 1):
                part = number.get(words[start : start + size])
                if part is not None and counts_T[term] >= PART_SHARE * counts_T[part]:
                    parts.add(part)
    return [term for term in candidates if term not in parts]


def _description(catalogue: Catalogue, members: np.ndarray, keywords: Sequence[str], level: int) -> str:
    """Sentences from the best phrases and up to three titles, spread over the cluster."""
    titles = [" ".join(catalogue.items[item].title.split()) for item in members]
    shown = list(dict.fromkeys(titles[(2 * k + 1) * len(titles) // 6] for k in range(3)))
    lead = "Items around" if level == 0 else "Among similar items, those that stand out by"
    sentences = [f"{lead} {_listed(keywords[:5])}."]
    if keywords[5:]:
        sentences.append(f"Their texts also speak of {_listed(keywords[5:12])}.")
    sentences.append(f"{'An example is' if len(shown) == 1 else 'Examples are'} {_listed([f'“{t}”' for t in shown])}.")
    return " ".join(sentences)


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
