"""The dense head of a run: the vectors of the item texts that it starts from."""

from __future__ import annotations

import pathlib

import numpy as np
from flax import nnx
from jax.sharding import Mesh

from tsrec_jax.baselines.sasrec import svd_features
from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.models.dense_head import DenseHead
from tsrec_jax.planning.accounting import DenseShape
from tsrec_jax.settings import Settings
from tsrec_jax.sid.given import read_embeddings, refuse_equal

MOST_FEATURES = 256


def make_head(settings: Settings, catalogue: Catalogue, d_model: int, first_id: int, mesh: Mesh | None) -> DenseHead:
    """A head before training, the same in every stage.

    Args:
      settings: section `dense` and `seed` are read.
      catalogue: the items.
      d_model: width of the model.
      first_id: id of the first SID token.
      mesh: where its arrays lie.

    Raises:
      UserError: the items' texts share no words, or the file of vectors is none.
    """
    dense = settings.dense
    return DenseHead(
        text_vectors(catalogue, dense.embeddings, min(d_model, MOST_FEATURES)),
        catalogue.tokens_IC,
        catalogue.sid_numbers_I,
        first_id=first_id,
        d_model=d_model,
        temperature=dense.temperature,
        rngs=nnx.Rngs(settings.seed),
        mesh=mesh,
    )


def dense_shape(settings: Settings, catalogue: Catalogue, d_model: int) -> DenseShape | None:
    """The sizes of the head, as a plan knows them; None where there is none."""
    if not settings.dense.weight:
        return None
    slots = settings.train.sequence_length // catalogue.num_levels
    return DenseShape(catalogue.num_items, slots, min(d_model, MOST_FEATURES))


def text_vectors(catalogue: Catalogue, embeddings: str, features: int) -> np.ndarray:
    """float32 texts_IF, rows of length 1 or 0: singular vectors of the texts' TF-IDF, or vectors from a file less
    their mean.

    Args:
      catalogue: the items.
      embeddings: the file; empty: none.
      features: F of the singular vectors, at most.
    """
    if embeddings:
        path = pathlib.Path(embeddings)
        texts_IF = read_embeddings(path, catalogue.num_items, "config.dense.embeddings")
        refuse_equal(texts_IF, embeddings)
        texts_IF = texts_IF - texts_IF.mean(axis=0)
    else:
        texts_IF = svd_features(catalogue, features)
    length_I1 = np.linalg.norm(texts_IF, axis=1, keepdims=True)
    return (texts_IF / np.where(length_I1 > 0, length_I1, 1.0)).astype(np.float32)
