"""The names of the baselines, apart from their code: a config is read and checked without JAX and scikit-learn."""

from __future__ import annotations

BASELINES = (
    "popularity",
    "recent popularity",
    "repeat last",
    "transitions",
    "tfidf",
    "hybrid",
    "sasrec",
    "sasrec+text",
)
SEEDED = ("sasrec", "sasrec+text")  # the others give the same result with every seed
