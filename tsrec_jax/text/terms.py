"""The words and phrases of items: which terms there are, and which item holds which.

A term is a word or a phrase of two or three words. Text is cut at punctuation, numbers, stop words and words that one
item alone uses, and a phrase never reaches across a cut: "stainless steel, hex" holds "stainless steel" but not "steel
hex". Singular and plural count as one word, shown in the form that more items use. Texts are composed first (NFC), and
marks and joiners belong to the letter before them, as the vowels of Hindi and Thai do.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import html
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy import sparse

from tsrec_jax.data.catalogue import Item

PHRASE_WORDS = 3  # longest phrase
DESCRIPTION_CHARS = 800  # what follows in a long description is seldom about the item
LEAST_WEIGHT = 0.02  # of a word in a description; above 0 for catalogues whose titles say nothing
_TAG = re.compile(r"<[^<>]*>")
# Combining marks, which `\w` leaves out, but for the variation selectors of emoji; and the joiners U+200C and U+200D.
_MARKS = "".join(c for c in map(chr, range(0x300, 0xFE00)) if unicodedata.category(c) in ("Mn", "Mc")) + "\u200c\u200d"
_CUT = re.compile(rf"(?:[^\w\s'’&{_MARKS}-]|(?<![\w{_MARKS}])[{_MARKS}])+|\s[-&]+\s|_+")
_LETTERS = rf"(?:[^\W_][{_MARKS}]*)+"
_WORD = re.compile(rf"{_LETTERS}(?:['’&-]{_LETTERS})*")
_MEASURE = re.compile(r"(?!3[dm]$)\d[\dx-]*[a-z]{0,4}|[a-z]{1,2}-?\d[\w-]*")  # 12v, 30x40cm, m8; but 3d printers and 3m
# Units, and words of shop pages that say nothing of the thing sold.
_SHOP_WORDS = frozenset(
    "inch inches feet foot ft mm cm lb lbs oz ml kg gram grams pound pounds ounce ounces yard yards meter meters "
    "degree degrees pack packs pc pcs piece pieces count ct qty quantity size sizes length width height diameter "
    "approximately approx dia min max number model item items product products brand new include includes "
    "included including feature features featuring description package packaging contents specification "
    "specifications spec specs note notes amazon com www http https warranty customer customers click shipping "
    "ship buy price seller purchase order please use used uses using user easy easily great good best quality "
    "high low make makes made making provide provides provided providing ideal perfect designed design available "
    "allow allows offer offers need needs help helps ensure ensures way like just want ll ve don doesn isn won't "
    "don't you're it's we're let lets various variety different application applications suitable set asin upc "
    "manufacturer part parts series type types unit units accessory accessories yd yds meets contains contain "
    "pricing selling listed months does".split()
)


@dataclasses.dataclass(frozen=True)
class Terms:
    """The terms of I items.

    Attributes:
      names: T terms, alphabetically.
      words: the words of each term.
      parts: of each phrase the terms that are its words; of a word nothing.
      held_IT: bool as float32 (I, T), sparse: the item holds the term.
      weight_IT: float32 (I, T), sparse: 1 where title, brand or categories hold the term, less where the description
        alone does.
    """

    names: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]
    parts: tuple[frozenset[int], ...]
    held_IT: sparse.csr_matrix
    weight_IT: sparse.csr_matrix


def item_terms(items: Sequence[Item]) -> Terms:
    """All terms that at least two of the items hold; none at all is possible.

    Descriptions are prose, in which names of things are rare among words of praise. Titles are nearly all names. So a
    phrase counts only if some title, brand or categories hold it, and a word of a description weighs as much as the
    share of its items that have it in their title, brand or categories (at least LEAST_WEIGHT).
    """
    from sklearn.feature_extraction.text import CountVectorizer  # slow to import

    heads = [_runs(f"{item.title} | {item.brand} | {item.categories}") for item in items]
    bodies = [_runs(item.description[:DESCRIPTION_CHARS]) for item in items]
    shown = _shown_forms([*head, *body] for head, body in zip(heads, bodies, strict=True))
    head_terms = [set(_phrases(runs, shown)) for runs in heads]
    named = set().union(*head_terms)
    body_terms = [{term for term in _phrases(runs, shown) if term in named or " " not in term} for runs in bodies]
    vectorizer = CountVectorizer(analyzer=sorted, binary=True, min_df=2, dtype=np.float32)
    try:
        held_IT = vectorizer.fit_transform(map(set.union, head_terms, body_terms)).tocsr()
    except ValueError:  # what scikit-learn raises when no term is left
        held_IT = sparse.csr_matrix((len(items), 0), dtype=np.float32)
        return Terms((), (), (), held_IT, held_IT)
    headed_IT = vectorizer.transform(head_terms).tocsr()
    shares_T = np.asarray(headed_IT.sum(axis=0) / held_IT.sum(axis=0), np.float32).reshape(-1)
    in_body_T = np.maximum(shares_T, LEAST_WEIGHT)
    weight_IT = held_IT @ sparse.diags_array(in_body_T) + headed_IT @ sparse.diags_array(1 - in_body_T)
    names = tuple(vectorizer.get_feature_names_out())
    words = tuple(tuple(name.split()) for name in names)
    parts = tuple(frozenset(vectorizer.vocabulary_[word] for word in found if len(found) > 1) for found in words)
    return Terms(names, words, parts, held_IT, sparse.csr_matrix(weight_IT))


def title_terms(item: Item) -> tuple[str, ...]:
    """The words of one item's title and brand in their order, for an item that shares none with others.

    Words that `item_terms` leaves out come in only where nothing else is left, and the whole title where no word is.
    """
    found = [word for run in _runs(f"{item.title} | {item.brand}") for word in run]
    plain = _WORD.findall(unicodedata.normalize("NFC", item.title).lower())
    return tuple(dict.fromkeys(found or plain or [item.title.strip() or item.id]))


def _runs(text: str) -> list[list[str]]:
    """The stretches of words between two cuts, lower-cased."""
    plain = unicodedata.normalize("NFC", _TAG.sub(" | ", html.unescape(text))).lower().replace("’", "'")
    runs: list[list[str]] = []
    for part in _CUT.split(plain):
        run: list[str] = []
        for word in part.split():
            word = word.strip("'&-\u200c\u200d").removesuffix("'s")
            if _is_empty(word):
                runs.append(run)
                run = []
            else:
                run.append(word)
        runs.append(run)
    return [run for run in runs if run]


@functools.cache
def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # slow to import

    return ENGLISH_STOP_WORDS | _SHOP_WORDS


def _is_empty(word: str) -> bool:
    alone = len(word) == 1 and word.isascii()  # one sign of another script is often a word
    return not word or alone or word in _stop_words() or bool(_MEASURE.fullmatch(word))


def _shown_forms(runs_of_items: Iterable[Iterable[Sequence[str]]]) -> Mapping[str, str]:
    """Each word that two or more items hold, to the form in which it is shown: singular or plural, the commoner."""
    counts: collections.Counter[str] = collections.Counter()
    for runs in runs_of_items:
        counts.update({word for run in runs for word in run})
    shown: dict[str, str] = {}
    for word in counts:
        single = next((form for form in _singulars(word) if form in counts), word)
        if counts[single] + (counts[word] if single != word else 0) > 1:
            forms = (shown.get(single, single), word)
            shown[word] = shown[single] = max(forms, key=lambda form: (counts[form], -len(form)))
    return {word: shown[form] for word, form in shown.items()}


def _singulars(word: str) -> tuple[str, ...]:
    """What may be the singular of a word; only English plurals are known."""
    if len(word) < 4 or not word.endswith("s") or word.endswith("ss"):
        return ()
    if word.endswith("ies"):
        return (word[:-3] + "y", word[:-1])
    if word.endswith(("ses", "xes", "zes", "ches", "shes")):
        return (word[:-2], word[:-1])
    return (word[:-1],)


def _phrases(runs: Iterable[Sequence[str]], shown: Mapping[str, str]) -> Iterable[str]:
    """All words and phrases of the runs, cut again at words that no other item has."""
    for run in runs:
        kept: list[str] = []
        for word in [*run, ""]:
            if word in shown:
                kept.append(shown[word])
                continue
            for start in range(len(kept)):
                for end in range(start + 1, min(start + PHRASE_WORDS, len(kept)) + 1):
                    if end - start == len(set(kept[start:end])):
                        yield " ".join(kept[start:end])
            kept = []
