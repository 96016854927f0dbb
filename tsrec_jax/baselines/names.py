"""The baselines by name, apart from their code: a config is read and checked without JAX and scikit-learn.

A new one is a file, and a row in `BASELINES`.
"""

from __future__ import annotations

import dataclasses

from tsrec_jax.entry import Entry


@dataclasses.dataclass(frozen=True)
class Baseline(Entry):
    """A row of the table.

    Attributes:
      entry: the entry of a `ranking.Fit` or a `ranking.FitVectors`.
      seeded: whether another seed gives another result.
      vectors: whether it is a `ranking.FitVectors`, which is given vectors of the items.
      version: counts the changes that changed its results; a study measures cells of other versions again.
      tables: whether the fitted baseline can be exported, since its `tables` are `tables.ItemTables`.
    """

    seeded: bool = False
    vectors: bool = False
    version: int = 1
    tables: bool = True


BASELINES: dict[str, Baseline] = {
    "popularity": Baseline("tsrec_jax.baselines.counts:fit_popularity"),
    "recent popularity": Baseline("tsrec_jax.baselines.counts:fit_recent_popularity"),
    "repeat last": Baseline("tsrec_jax.baselines.counts:fit_repeat_last", tables=False),
    "transitions": Baseline("tsrec_jax.baselines.counts:fit_transitions", version=2),
    "tfidf": Baseline("tsrec_jax.baselines.text:fit_text", version=2),
    "hybrid": Baseline("tsrec_jax.baselines.hybrid:fit_hybrid", version=2),
    "ease": Baseline("tsrec_jax.baselines.ease:fit_ease", version=2),
    "knn": Baseline("tsrec_jax.baselines.knn:fit_knn", vectors=True, version=2),
    "sasrec": Baseline("tsrec_jax.baselines.sasrec:fit_sasrec", seeded=True, version=4, tables=False),
    "sasrec+text": Baseline("tsrec_jax.baselines.sasrec:fit_sasrec_text", seeded=True, version=4, tables=False),
}
